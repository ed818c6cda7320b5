"""The verbs on jobs that exist: each reads the row, decides, and writes under its guards, again after a lost race."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import anyio
import attrs

from aether_bg._app.lateness import likely_cause, said_by
from aether_bg._app.rows import Rows, definition_of
from aether_bg._handlers import work
from aether_bg._kernel.engine import Engine
from aether_bg._rules import options as checks
from aether_bg._rules import states
from aether_bg._rules.occurrences import Plan, first_due, no_occurrence
from aether_bg.errors import InvalidSchedule, InvalidTransition, JobConflict, NameHeld, NeverEnds, WaitTimeout, shown
from aether_bg.explain import OVERDUE, Around, explain
from aether_bg.model import Alive, Change, Heartbeat, JobInfo, JobStatus, Unreadable

_POLL: Final = 0.25
"""Seconds between looks of `wait` at jobs that another process runs."""


class Jobs:
    def __init__(self, engine: Engine, rows: Rows) -> None:
        self._engine, self._rows = engine, rows

    async def update(self, job: UUID | str, schedule: Any, timezone: str | None) -> None:
        work.outside("update")
        engine = self._engine
        while True:  # again after each lost race
            row = _readable(await self._rows.find(job), "update")
            zoned = isinstance(schedule, str) and schedule.lstrip().startswith("CRON_TZ=")
            parsed = engine.calls.parse(schedule, timezone or (None if zoned else row.timezone))
            now = engine.clock.now()
            definition = attrs.evolve(
                definition_of(row), expression_value=parsed.text, timezone=parsed.timezone, start=None,
                anchor=now, repeats=row.repeats if parsed.recurring else None,
            )  # fmt: skip
            plan = Plan.of(parsed, definition)
            if not row.status.terminal and first_due(plan, now) is None:
                raise no_occurrence(parsed.text, plan.until)
            change = states.update(row, definition, plan, self._rows.plan_of(row), now, engine.options.by())
            if await self._rows.try_save(row, change, "update"):
                return

    async def delete(self, job: UUID | str) -> bool:
        work.outside("delete")
        while (row := await self._rows.look(job)) is not None:
            change = states.cancel(row, self._engine.clock.now(), self._engine.options.by())
            if change is None:
                return False
            if await self._rows.try_save(row, change, "delete"):
                self._engine.revoke(row.id)
                return True
        return False

    async def pause(self, job: UUID | str) -> None:
        await self._apply("pause", job, lambda row, now, by: states.pause(row, now, by))

    async def resume(self, job: UUID | str) -> None:
        def decide(row: JobInfo, now: datetime, by: str | None) -> Change | None:
            return states.resume(row, self._engine.plan(row), now, by)

        await self._apply("resume", job, decide, aside=True)

    async def trigger(self, job: UUID | str) -> None:
        await self._apply("trigger", job, lambda row, now, by: states.trigger(row, self._engine.plan(row), now, by))

    async def retry(self, job: UUID | str) -> None:
        await self._apply("retry", job, lambda row, now, by: states.retry(row, self._engine.plan(row), now, by))

    async def update_status(
        self, job: UUID | str, status: JobStatus, handled_time: datetime | None, error: str | None
    ) -> None:
        status = checks.status(status)
        if status is JobStatus.SCHEDULED:
            return await self.retry(job)
        when = checks.instant("handled_time", handled_time)
        if not isinstance(error, str | None):
            checks.refuse("error", error, "must be a string", "Leave it out for none.")
        await self._apply(
            "update_status",
            job,
            lambda row, now, by: states.settle(row, status, when or now, error, now, by),
            revokes=True,
        )
        return None

    async def wait(self, job: UUID | str, timeout: float | timedelta | None) -> JobInfo:
        work.outside("wait")
        if timeout is not None:
            timeout = checks.seconds("timeout", timeout, zero=True)
        deadline = anyio.current_time() + (float("inf") if timeout is None else timeout)
        row = await self._rows.find(job)
        while not row.status.terminal:
            plan = self._engine.plan_or_none(row)
            if plan is not None and plan.endless:
                raise NeverEnds(
                    f"wait for job {shown(row.job_name)}", "it recurs without end",
                    "Give it repeats or until, or look at its history.",
                )  # fmt: skip
            left = deadline - anyio.current_time()
            if left <= 0:
                raise WaitTimeout(
                    f"wait for job {shown(row.job_name)}", f"it has not ended within {timeout:g} s: {row.status.name}",
                    "It goes on; app.explain(job) says what it waits for.",
                )  # fmt: skip
            row = await self._wait_once(row.id, min(left, _POLL))
        return row

    async def _wait_once(self, job_id: UUID, within: float) -> JobInfo:
        ended = self._engine.ending(job_id)
        row = await self._rows.find(job_id)
        if not row.status.terminal:
            with anyio.move_on_after(within):
                await ended.wait()
            row = await self._rows.find(job_id)
        return row

    async def explain(self, job: UUID | str) -> str:
        row = await self._rows.find(job)
        engine = self._engine
        runs = await engine.calls.history(row.id, 10)
        around, alive, schedule = Around(arms=engine.calls.arms), engine.alive or await self._ask(), None
        passed = (engine.clock.now() - row.due_at).total_seconds() if row.due_at else 0.0
        cause = likely_cause(engine) if passed > OVERDUE else said_by(engine.calls.scheduler, "health")
        if alive is not None:
            around = Around(
                owners=dict.fromkeys(alive.beats.keys() - set(alive.dead), ""),
                gone=dict.fromkeys(alive.dead, "has died"), handlers=alive.advertised,
                free=engine.free if engine.alive is not None and row.handler_name in engine.handlers else None,
                here=engine.owner,
                arms=engine.calls.arms, trouble=cause,
            )  # fmt: skip
        try:
            schedule = engine.schedule(row.expression_value, row.timezone)
        except InvalidSchedule:
            around = attrs.evolve(around, readable=False)
        return explain(row, runs, now=engine.clock.now(), around=around, schedule=schedule)

    async def _ask(self) -> Alive:
        """Who is alive, for a client, which is no owner and has no beat of its own."""
        engine = self._engine
        now, lease = engine.clock.now(), engine.options.lease
        asked = Heartbeat(owner=engine.owner, handlers=(), now=now, interval=lease / 3, keep_for=0)
        return await engine.calls.heartbeat(asked)

    async def _apply(
        self,
        verb: str,
        job: UUID | str,
        decide: Callable[[JobInfo, datetime, str | None], Change | None],
        revokes: bool = False,
        aside: bool = False,
    ) -> None:
        work.outside(verb)
        while True:  # again after each lost race
            row = _readable(await self._rows.find(job), verb)
            given = row, self._engine.clock.now(), self._engine.options.by()
            change = await self._engine.aside(decide, *given) if aside else decide(*given)
            if change is None:
                return
            try:
                done = await self._rows.try_save(row, change, verb)
            except NameHeld as held:
                raise JobConflict(
                    f"{verb} of job {shown(row.job_name)}", f"its name is held by another job now ({held.current.id})",
                    "Delete that one first, or enqueue under another name.", existing=held.current,
                ) from held  # fmt: skip
            if done:
                if revokes:
                    self._engine.revoke(row.id)
                return


def _readable(row: JobInfo, verb: str) -> JobInfo:
    if isinstance(row, Unreadable):
        raise InvalidTransition(
            f"{verb} of job {shown(row.job_name)}", row.last_error or "its row cannot be read", "Only delete works."
        )
    return row
