"""Enqueueing: arguments to a valid row, the names it may hold, units of work (PROTOCOL N, W4 to W6)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg._app.rows import Rows, definition_of
from aether_bg._handlers import work
from aether_bg._handlers.handlers import check_typed
from aether_bg._handlers.payloads import check_json, check_metadata
from aether_bg._kernel.engine import Engine
from aether_bg._rules import options as checks
from aether_bg._rules import states
from aether_bg._rules.ids import uuid7
from aether_bg._rules.names import busy, differences, kept, taken
from aether_bg._rules.occurrences import Plan, anchor_for, first_of
from aether_bg.errors import NameHeld, Stale
from aether_bg.model import Add, Definition, Enqueued, JobInfo, JobStatus, JobType, Query, Save, Transaction

ENQUEUE_OPTIONS: Final = ("timezone", "start", "if_exists", "repeats", "until", "misfire", "misfire_grace")


class Enqueues:
    """`client`: handlers need not be known here (JSON limits only)."""

    def __init__(self, engine: Engine, rows: Rows, *, client: bool) -> None:
        self._engine, self._rows, self._client = engine, rows, client
        engine.enqueue_in, engine.committed = self._enqueue_in, self.committed

    async def enqueue(
        self, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any, **options: Any
    ) -> UUID:
        if_exists = checks.one_of("if_exists", options.pop("if_exists", "raise"), ("raise", "keep", "replace"))
        job = self.prepare(handler, job_name, payload, schedule, metadata, **options)
        unit = work.current.get()
        if unit is not None:
            return await self._join(unit, job, named=job_name is not None, if_exists=if_exists)
        while True:
            if self._engine.writes.idle and self._engine.claim_error is None:
                self._engine.expect(job.due_at)  # so that a claim can share its commit
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
        due = first_of(parsed, Plan(parsed, anchor, start, until, repeats))
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
        await self._rows.save(job, states.update(job, definition, plan, now, engine.options.by()), "update")

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

    def _enqueue_in(self, tx: Transaction, made: list[JobInfo]) -> Callable[..., UUID]:
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
            made.append(job)
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
        self.committed(unit)

    def committed(self, unit: work.UnitOfWork) -> None:
        """A unit of work, a caller's or a handler's, is durable: what it enqueued may be due now."""
        for job in unit.jobs:
            self._added(job)
