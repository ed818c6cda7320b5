"""The verbs: what users ask for, as guarded writes. Shared by the app, its clients and units of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel import options as checks
from aether_bg._kernel import states, work
from aether_bg._kernel.handlers import check_typed
from aether_bg._kernel.ids import uuid7
from aether_bg._kernel.names import busy, differences, kept, taken
from aether_bg._kernel.occurrences import Plan, anchor_for
from aether_bg._kernel.payloads import check_json, check_metadata
from aether_bg.errors import (
    InvalidOption,
    InvalidSchedule,
    JobConflict,
    JobNotFound,
    NameHeld,
    NeverEnds,
    Stale,
    WaitTimeout,
    shown,
)
from aether_bg.explain import Around, explain
from aether_bg.model import (
    Add,
    Alive,
    Altered,
    Change,
    Definition,
    Enqueued,
    JobInfo,
    JobStatus,
    JobType,
    Query,
    Save,
    Transaction,
    Write,
)
from aether_bg.schedule import Schedule

if TYPE_CHECKING:
    from aether_bg._kernel.engine import Engine

ENQUEUE_OPTIONS: Final = ("timezone", "start", "if_exists", "repeats", "until", "misfire", "misfire_grace")
_POLL: Final = 0.25
"""Seconds between looks of `wait` at jobs that another process runs."""


class Jobs:
    """Verbs on one engine. `client`: handlers need not be known here (JSON limits only)."""

    alive: Alive | None = None
    """The last answer to this owner's heartbeat, for `explain`; a client has none."""

    def __init__(self, engine: Engine, *, client: bool) -> None:
        self._engine = engine
        self._client = client
        engine.enqueue_in = self._enqueue_in

    # -- enqueue ---------------------------------------------------------------------------------

    async def enqueue(
        self, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any, **options: Any
    ) -> UUID:
        if_exists = checks.one_of("if_exists", options.pop("if_exists", "raise"), ("raise", "keep", "replace"))
        job = self.prepare(handler, job_name, payload, schedule, metadata, **options)
        unit = work.current.get()
        if unit is not None:
            return await self._join(unit, job, named=job_name is not None, if_exists=if_exists)
        while True:
            try:
                await self._engine.writes.write(Add(job))
            except NameHeld as held:
                done = await self._resolve(self._engine.calls.decoded(held.current), job, if_exists)
                if done is not None:
                    return done
            else:
                self._added(job)
                return job.id

    def prepare(
        self,
        handler: Any,
        job_name: str | None,
        payload: Any,
        schedule: Any,
        metadata: Any,
        *,
        timezone: str | None = None,
        start: datetime | None = None,
        repeats: int | None = None,
        until: datetime | None = None,
        misfire: Any = "once",
        misfire_grace: Any = 10.0,
    ) -> JobInfo:
        """The row of a valid enqueue. Raises an `InputError`; nothing has happened then."""
        engine = self._engine
        handler_name = checks.name(engine.handlers.name_of(handler), "handler")
        value = self._payload(handler, handler_name, payload)
        job_id = uuid7()
        name = f"{handler_name[:160]}-{job_id}" if job_name is None else checks.name(job_name, "job")
        parsed = engine.calls.parse(schedule, timezone)
        start, until = checks.instant("start", start), checks.instant("until", until)
        if repeats is not None:
            checks.whole("repeats", repeats, least=1)
            if not parsed.recurring:
                checks.refuse(
                    "repeats", repeats, "bounds a recurring job", "Leave it out, or give a recurring schedule."
                )
        now, by = engine.clock.now(), engine.options.by()
        anchor = anchor_for(parsed, now, start)
        due = self._first(parsed, Plan(parsed, anchor, start, until, repeats))
        job = JobInfo(
            id=job_id, handler_name=handler_name, job_name=name, expression_value=parsed.text, payload=value,
            extra_properties=check_metadata(metadata), created_at=now, created_by=by, modified_at=now, modified_by=by,
            due_at=due, occurrence=due, timezone=parsed.timezone, start=start, repeats=repeats, until=until,
            misfire=checks.one_of("misfire", misfire, ("once", "skip", "all")),
            misfire_grace=checks.seconds("misfire_grace", misfire_grace, zero=True), anchor=anchor,
        )  # fmt: skip
        if stamped := engine.calls.stamp(job):
            return attrs.evolve(job, extra_properties=check_metadata({**stamped, **job.extra_properties}))
        return job

    def _payload(self, handler: Any, name: str, payload: Any) -> Any:
        handlers, limit = self._engine.handlers, self._engine.options.max_payload
        if name in handlers:
            return handlers.compiled(name).check(payload, limit)
        if isinstance(handler, JobType):
            of = handlers.payload_type(handler.payload_type, f"JobType {name!r}")
            return check_typed(payload, of, limit, optional=False, handler=name)
        if not self._client:
            handlers.compiled(name)  # raises UnknownHandler with the nearest name
        return check_json(payload, limit)

    @staticmethod
    def _first(schedule: Schedule, plan: Plan) -> datetime:
        due = plan.first()
        if due is None:
            bounds = f"before until={plan.until:%Y-%m-%dT%H:%M:%SZ}" if plan.until else "from now on"
            raise InvalidSchedule(schedule.text, field=None, reason=f"it has no occurrence {bounds}", example="@daily")
        return due

    def _added(self, job: JobInfo) -> None:
        engine = self._engine
        if engine.events.observed:
            engine.events.emit(Enqueued(job))
        engine.arm(job.id)
        engine.expect(job.due_at)

    async def _resolve(self, held: JobInfo, job: JobInfo, if_exists: str) -> UUID | None:
        """The name is held (PROTOCOL N2, N3). None: it no longer is; try again."""
        differs = differences(held, job)
        if if_exists != "replace" or (not differs and held.status is not JobStatus.FAILED):
            return kept(held, job, if_exists)
        engine, now, by = self._engine, job.created_at, job.created_by
        try:
            if held.status.terminal:
                await engine.calls.transact([Save(states.release_name(held, now, by)), Add(job)])
                self._added(job)
                return job.id
            schedule = engine.calls.load(held.expression_value, held.timezone)
            if held.status is JobStatus.RUNNING and not schedule.recurring:
                raise busy(held)
            await self._redefine(held, definition_of(job))
        except (Stale, NameHeld):
            return None
        return held.id

    async def _redefine(self, job: JobInfo, definition: Definition) -> None:
        engine = self._engine
        plan = Plan.of(engine.calls.load(definition.expression_value, definition.timezone), definition)
        now = engine.clock.now()
        await self._save(job, states.update(job, definition, plan, now, engine.options.by()), "update")

    # -- enqueue inside a unit of work -----------------------------------------------------------

    async def _join(self, unit: work.UnitOfWork, job: JobInfo, *, named: bool, if_exists: str) -> UUID:
        """Looked up now, checked again in the transaction (PROTOCOL W6)."""
        if named:
            for step in unit.writes:
                if isinstance(step, Add) and step.job.job_name == job.job_name:
                    return kept(step.job, job, if_exists)
            found = await self._engine.calls.find(Query(job_name=job.job_name, limit=1))
            if found and found[0].holds_name:
                return kept(found[0], job, if_exists)
        unit.queue(Add(job))
        return job.id

    def _enqueue_in(self, tx: Transaction) -> Callable[..., UUID]:
        """`tx.enqueue` of a function that runs inside the transaction."""

        def enqueue(
            handler: Any, job_name: str | None = None, payload: Any = None, schedule: Any = "@once",
            metadata: Any = None, **options: Any,
        ) -> UUID:  # fmt: skip
            checks.unknown_options({k: v for k, v in options.items() if k not in ENQUEUE_OPTIONS}, ENQUEUE_OPTIONS)
            if_exists = checks.one_of("if_exists", options.pop("if_exists", "raise"), ("raise", "keep"))
            job = self.prepare(handler, job_name, payload, schedule, metadata, **options)
            try:
                tx.add(self._engine.calls.encoded_job(job))
            except NameHeld as held:
                return kept(self._engine.calls.decoded(held.current), job, if_exists)
            return job.id

        return enqueue

    # -- a caller's own unit of work -------------------------------------------------------------

    async def commit(self, unit: work.UnitOfWork) -> None:
        """Everything collected happens at once. Raises `JobConflict` when a name was taken meanwhile."""
        steps = unit.close()
        if not steps:
            return
        try:
            unit.fill(await self._engine.calls.transact(steps))
        except NameHeld as held:
            raise taken(self._engine.calls.decoded(held.current)) from held
        self.committed(steps)

    def committed(self, steps: Sequence[Write]) -> None:
        """A unit of work, a caller's or a handler's, is durable: what it enqueued may be due now."""
        for step in steps:
            if isinstance(step, Add):
                self._added(step.job)
        self._engine.wake()  # functions of the unit may have enqueued as well

    # -- the other verbs -------------------------------------------------------------------------

    async def update(self, job: UUID | str, schedule: Any, timezone: str | None) -> None:
        work.outside("update")
        engine = self._engine
        while True:  # again after each lost race
            row = await self._find(job)
            zoned = isinstance(schedule, str) and schedule.lstrip().startswith("CRON_TZ=")
            parsed = engine.calls.parse(schedule, timezone or (None if zoned else row.timezone))
            now = engine.clock.now()
            definition = attrs.evolve(
                definition_of(row), expression_value=parsed.text, timezone=parsed.timezone, start=None,
                anchor=now, repeats=row.repeats if parsed.recurring else None,
            )  # fmt: skip
            plan = Plan.of(parsed, definition)
            if not row.status.terminal:
                self._first(parsed, plan)
            change = states.update(row, definition, plan, now, engine.options.by())
            if await self._try(row, change, "update"):
                return

    async def delete(self, job: UUID | str) -> bool:
        work.outside("delete")
        while (row := await self._look(job)) is not None:
            change = states.cancel(row, self._engine.clock.now(), self._engine.options.by())
            if change is None:
                return False
            if await self._try(row, change, "delete"):
                self._engine.revoke(row.id)
                return True
        return False

    async def pause(self, job: UUID | str) -> None:
        await self._apply("pause", job, lambda row, now, by: states.pause(row, now, by))

    async def resume(self, job: UUID | str) -> None:
        await self._apply("resume", job, lambda row, now, by: states.resume(row, self._engine.plan(row), now, by))

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
        await self._apply(
            "update_status",
            job,
            lambda row, now, by: states.settle(row, status, when or now, error, now, by),
            revokes=True,
        )
        return None

    async def wait(self, job: UUID | str, timeout: float | None) -> JobInfo:
        work.outside("wait")
        if timeout is not None:
            checks.seconds("timeout", timeout, zero=True)
        deadline = anyio.current_time() + (float("inf") if timeout is None else timeout)
        row = await self._find(job)
        while not row.status.terminal:
            if self._engine.plan(row).endless and not row.status.terminal:
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
            ended = self._engine.ending(row.id)
            row = await self._find(row.id)
            if not row.status.terminal:
                with anyio.move_on_after(min(left, _POLL)):
                    await ended.wait()
                row = await self._find(row.id)
        return row

    async def explain(self, job: UUID | str) -> str:
        row = await self._find(job)
        engine = self._engine
        runs = await engine.calls.history(row.id, 10)
        around, alive, schedule = Around(arms=engine.calls.arms), self.alive, None
        if alive is not None:
            around = Around(
                owners=dict.fromkeys(alive.beats.keys() - set(alive.dead), ""),
                gone=dict.fromkeys(alive.dead, "has died"), handlers=alive.advertised,
                free=engine.free if row.handler_name in engine.handlers else None, here=engine.owner,
                arms=engine.calls.arms, trouble=engine.problems.get("scheduler"),
            )  # fmt: skip
        with suppress(InvalidSchedule):
            schedule = engine.schedule(row.expression_value, row.timezone)
        return explain(row, runs, now=engine.clock.now(), around=around, schedule=schedule)

    async def _apply(
        self,
        verb: str,
        job: UUID | str,
        decide: Callable[[JobInfo, datetime, str | None], Change | None],
        revokes: bool = False,
    ) -> None:
        work.outside(verb)
        while True:  # again after each lost race
            row = await self._find(job)
            change = decide(row, self._engine.clock.now(), self._engine.options.by())
            if change is None:
                return
            try:
                done = await self._try(row, change, verb)
            except NameHeld as held:
                raise JobConflict(
                    f"{verb} of job {shown(row.job_name)}", f"its name is held by another job now ({held.current.id})",
                    "Delete that one first, or enqueue under another name.", existing=held.current,
                ) from held  # fmt: skip
            if done:
                if revokes:
                    self._engine.revoke(row.id)
                return

    async def _try(self, job: JobInfo, change: Change, verb: str) -> bool:
        try:
            await self._save(job, change, verb)
        except Stale:
            return False
        return True

    async def _save(self, job: JobInfo, change: Change, verb: str) -> None:
        engine = self._engine
        await engine.writes.write(Save(change))
        engine.settled(change)
        engine.arm(change.job_id)
        if engine.events.observed:
            engine.events.emit(Altered((await self._find(job.id)), verb))

    async def _look(self, job: UUID | str) -> JobInfo | None:
        found = await self._engine.calls.find(_query(job))
        return found[0] if found else None

    async def _find(self, job: UUID | str) -> JobInfo:
        row = await self._look(job)
        if row is None:
            raise _not_found(job)
        return row


def _query(job: UUID | str) -> Query:
    if isinstance(job, UUID):
        return Query(ids=(job,))
    if isinstance(job, str):
        return Query(job_name=job, limit=1)
    raise InvalidOption(f"job={shown(job)}", "is a job's id (uuid.UUID) or its name", "Pass what enqueue returned.")


def _not_found(job: UUID | str) -> JobNotFound:
    remedy = "Was it purged? app.store.find() lists jobs."
    if isinstance(job, str):
        with suppress(ValueError):
            remedy = f"It looks like an id, and text is taken for a name: pass uuid.UUID({str(UUID(job))!r})."
    return JobNotFound(f"job {shown(str(job))}", "there is no such job", remedy)


def definition_of(job: JobInfo) -> Definition:
    return Definition(**{field.name: getattr(job, field.name) for field in attrs.fields(Definition)})
