"""The verbs on existing jobs: each reads the row, decides, and writes under its guards, again after a lost race."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import anyio
import attrs

from aether_bg._app.following import Following, OnProgress
from aether_bg._app.parents import not_found
from aether_bg._handlers import work
from aether_bg._kernel.kernel import Kernel
from aether_bg._rules import commands as rules
from aether_bg._rules import validation as checks
from aether_bg._rules.changes import Moment
from aether_bg._rules.recurrence import Plan, first_due, no_occurrence
from aether_bg._upkeep.upkeep import Upkeep
from aether_bg.errors import (
    InvalidOption,
    InvalidSchedule,
    InvalidTransition,
    JobConflict,
    JobFailed,
    NameHeld,
    NeverEnds,
    NoResult,
    Stale,
    WaitTimeout,
    shown,
)
from aether_bg.explain import OVERDUE, Around, explain, first_line
from aether_bg.model import Change, Hold, JobInfo, JobStatus, Query, Unreadable

_POLL: Final = 0.25
"""Seconds between two reads when `wait` waits for a job that another process runs."""

Decide = Callable[[JobInfo, Moment], Change | None]


class Commands:
    def __init__(self, kernel: Kernel, upkeep: Upkeep) -> None:
        self._kernel, self._upkeep, self._shared = kernel, upkeep, kernel.shared
        self._calls = kernel.shared.calls

    async def update(self, job: UUID | str, schedule: Any, timezone: str | None) -> None:
        def decide(row: JobInfo, moment: Moment) -> Change:
            zoned = isinstance(schedule, str) and schedule.lstrip().startswith("CRON_TZ=")
            parsed = self._calls.parse(schedule, timezone or (None if zoned else row.timezone))
            definition = attrs.evolve(
                rules.definition_of(row), expression_value=parsed.text, timezone=parsed.timezone, start=None,
                anchor=moment.now, repeats=row.repeats if parsed.recurring else None,
            )  # fmt: skip
            plan = Plan.of(parsed, definition)
            if not row.status.terminal and first_due(plan, moment.now) is None:
                raise no_occurrence(parsed.text, plan.until)
            return rules.update(row, definition, plan, self._shared.schedules.plan_or_none(row), moment)

        await self._apply("update", job, decide)

    async def delete(self, job: UUID | str) -> bool:
        work.outside("delete", self._kernel.store_id)
        while (row := await self._look(job)) is not None:
            change = rules.cancel(row, self._shared.clock.moment())
            if change is None:
                return False
            if await self._written(row, change, "delete"):
                self._shared.slots.revoke(row.id)
                return True
        return False

    async def pause(self, job: UUID | str | None, handler: Any = None) -> None:
        if (job := _one_of_two("pause", job, handler)) is None:
            return await self._hold("pause", handler, held=True)
        return await self._apply("pause", job, rules.pause)

    async def resume(self, job: UUID | str | None, handler: Any = None) -> None:
        if (job := _one_of_two("resume", job, handler)) is None:
            return await self._hold("resume", handler, held=False)
        return await self._apply("resume", job, partial(self._planned, rules.resume), aside=True)

    async def _hold(self, verb: str, handler: Any, *, held: bool) -> None:
        """Stored apart from the jobs' rows, which do not change (docs/protocol.md, L3)."""
        work.outside(verb, self._kernel.store_id)
        name, moment = checks.name(self._shared.handlers.name_of(handler), "handler"), self._shared.clock.moment()
        await self._kernel.journal.hold(Hold(handler=name, held=held, at=moment.now, by=moment.by))

    async def trigger(self, job: UUID | str) -> None:
        await self._apply("trigger", job, partial(self._planned, rules.trigger))

    async def retry(self, job: UUID | str) -> None:
        work.outside("retry", self._kernel.store_id)
        row = await self.find(job)
        if row.parents and not row.after_any:  # docs/protocol.md, A3
            for parent in await self._calls.find(Query(parents_of=row.id, limit=row.parents)):
                rules.refuse_retry_after(row, parent)
        await self._apply("retry", job, partial(self._planned, rules.retry))

    def _planned(self, rule: Callable[[JobInfo, Plan, Moment], Change | None], row: JobInfo, moment: Moment) -> Any:
        return rule(row, self._shared.schedules.plan(row), moment)

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
            "update_status", job, lambda row, moment: rules.settle(row, status, when or moment.now, error, moment),
            revokes=True,
        )  # fmt: skip
        return None

    async def wait(
        self, job: UUID | str, timeout: float | timedelta | None, on_progress: OnProgress | None = None
    ) -> JobInfo:
        work.outside("wait", self._kernel.store_id)
        if on_progress is not None and not callable(on_progress):
            checks.refuse("on_progress", on_progress, "must be a function", "For example: print.")
        if timeout is not None:
            timeout = checks.seconds("timeout", timeout, zero=True)
        deadline = anyio.current_time() + (float("inf") if timeout is None else timeout)
        row = await self.find(job)
        with self._kernel.notes.watching(row.id) as watch:
            return await self._until_ended(row, timeout, deadline, Following(on_progress, watch))

    async def _until_ended(self, row: JobInfo, timeout: float | None, deadline: float, following: Following) -> JobInfo:
        await following.pass_on(row)
        while not row.status.terminal:
            plan = self._shared.schedules.plan_or_none(row)
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
            ended = self._kernel.journal.ended(row.id)
            row = await self.find(row.id)  # it may have ended before
            if not row.status.terminal:
                with anyio.move_on_after(min(left, _POLL)):
                    await following.until(ended)
                row = await self.find(row.id)
            await following.pass_on(row)
        return row

    async def result(self, job: UUID | str | JobInfo, timeout: float | timedelta | None) -> Any:
        row, kept = await self.wait(job.id if isinstance(job, JobInfo) else job, timeout), self._kernel.kept
        what = f"the result of job {shown(row.job_name)}"
        if row.status is not JobStatus.COMPLETED:
            why = f": {first_line(row.last_error)}" if row.last_error else ""
            raise JobFailed(row.last_error, what, f"it is {row.status.name}{why}", "`retry` runs it again.")
        run = await kept.run(row)
        if run is not None and run.has_result:
            return kept.value(row, run)
        if run is not None and run.error:
            raise NoResult(what, first_line(run.error), "The job has completed, and its work is done.")
        remedy = f"Register its handler with keep_result: @app.handler({row.handler_name!r}, keep_result=True)."
        raise NoResult(what, "none was kept", remedy)

    async def explain(self, job: UUID | str) -> str:
        row = await self.find(job)
        kernel, calls, now = self._kernel, self._calls, self._shared.clock.now()
        runs = await calls.history(row.id, 10)
        health, alive, schedule = self._upkeep.health, await self._upkeep.heartbeats.others(), None
        passed = (now - row.due_at).total_seconds() if row.due_at else 0.0
        cause = health.likely_cause(row.handler_name) if passed > OVERDUE else health.scheduler_says("health")
        running = Query(handler_name=row.handler_name, status=(JobStatus.RUNNING,))
        mine = not kernel.client and row.handler_name in self._shared.handlers
        around = Around(
            owners=dict.fromkeys(alive.beats.keys() - set(alive.dead), ""),
            gone=dict.fromkeys(alive.dead, "has died"), handlers=alive.advertised,
            running=len(await calls.find(running)), limit=self._shared.handlers.limits.get(row.handler_name),
            free=self._shared.slots.free if mine else None, here=kernel.owner, arms=calls.arms, trouble=cause,
        )  # fmt: skip
        if row.waits_for:
            around = attrs.evolve(around, parents=await calls.find(Query(parents_of=row.id, limit=row.parents)))
        try:
            schedule = self._shared.schedules.load(row.expression_value, row.timezone)
        except InvalidSchedule:
            around = attrs.evolve(around, readable=False)
        return explain(row, runs, now=now, around=around, schedule=schedule)

    # -- rows ------------------------------------------------------------------------------------

    async def find(self, job: UUID | str) -> JobInfo:
        row = await self._look(job)
        if row is None:
            raise not_found(job)
        return row

    async def _look(self, job: UUID | str) -> JobInfo | None:
        found = await self._calls.find(_query(job))
        return found[0] if found else None

    async def _apply(
        self, verb: str, job: UUID | str, decide: Decide, *, revokes: bool = False, aside: bool = False
    ) -> None:
        """`aside`: the decision may take long to compute."""
        work.outside(verb, self._kernel.store_id)
        while True:  # again after each lost race
            row, moment = _readable(await self.find(job), verb), self._shared.clock.moment()
            change = await self._shared.schedules.aside(decide, row, moment) if aside else decide(row, moment)
            if change is None:
                return
            if await self._written(row, change, verb):
                if revokes:
                    self._shared.slots.revoke(row.id)
                return

    async def _written(self, row: JobInfo, change: Change, verb: str) -> bool:
        """False: the row has changed in the meantime."""
        try:
            await self._kernel.journal.update(change, row, verb)
        except Stale:
            return False
        except NameHeld as held:
            raise JobConflict(
                f"{verb} of job {shown(row.job_name)}", f"its name is held by another job now ({held.current.id})",
                "Delete that one first, or enqueue under another name.", existing=held.current,
            ) from held  # fmt: skip
        return True


def _one_of_two(verb: str, job: Any, handler: Any) -> UUID | str | None:
    """The job, or None for the handler."""
    if (job is None) == (handler is None):
        raise InvalidOption(
            f"{verb}()", "must be given a job or a handler, one of the two",
            f"For example: {verb}(job_id), or {verb}(handler=render).",
        )  # fmt: skip
    found: UUID | str | None = job
    return found


def _query(job: UUID | str) -> Query:
    if isinstance(job, UUID):
        return Query(ids=(job,))
    if isinstance(job, str):
        checks.text("job", job)
        return Query(job_name=job, limit=1)
    remedy = "Pass its id." if isinstance(job, JobInfo) else "Pass what enqueue returned."
    raise InvalidOption(shown(job), "must be a job's id (uuid.UUID) or its name", remedy, name="job")


def _readable(row: JobInfo, verb: str) -> JobInfo:
    if isinstance(row, Unreadable):
        raise InvalidTransition(
            f"{verb} of job {shown(row.job_name)}", row.last_error or "its row cannot be read", "Only delete works."
        )
    return row
