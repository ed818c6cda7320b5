"""Enqueueing: arguments to a valid row, the names it may hold, units of work (PROTOCOL N, W4 to W6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import attrs

from aether_bg._app.admission import ARGUMENTS, ENQUEUE_OPTIONS, IF_EXISTS, Admission
from aether_bg._app.rows import Rows, definition_of
from aether_bg._handlers import work
from aether_bg._handlers.payloads import check_metadata
from aether_bg._kernel.engine import Engine
from aether_bg._rules import options as checks
from aether_bg._rules import states
from aether_bg._rules.ids import uuid7
from aether_bg._rules.names import busy, differences, kept, own, same_schedule, taken
from aether_bg._rules.occurrences import Plan, anchor_for, check_comes, first_due
from aether_bg.errors import NameHeld, Stale
from aether_bg.model import Definition, Enqueued, Insert, JobInfo, JobStatus, Query, Transaction, Unreadable, Update


class Enqueues:
    """`client`: handlers need not be known here (JSON limits only)."""

    def __init__(self, engine: Engine, rows: Rows, *, client: bool) -> None:
        self._engine, self._rows = engine, rows
        limit = engine.options.max_payload
        self._admission = Admission(engine.calls, engine.handlers, limit, client=client)
        engine.enqueue_in, engine.committed = self._enqueue_in, self.committed

    async def enqueue(
        self, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any, **options: Any
    ) -> UUID:
        if_exists = checks.one_of("if_exists", options.pop("if_exists", "raise"), IF_EXISTS)
        job = self.prepare(handler, job_name, payload, schedule, metadata, **options)
        unit = work.joined()
        if unit is not None and (known := await self._join(unit, job, job_name is not None, if_exists)) is not None:
            return known
        while True:
            held = await self._add(job)
            if held is None:
                self._added(job)
                return job.id
            done = await self._resolve(held, job, if_exists)
            if done is not None:
                return done

    async def _add(self, job: JobInfo) -> JobInfo | None:
        """None: it is stored. Else the holder of its name, which is asked for first of all (docs/protocol.md, N0)."""
        engine = self._engine
        if job.due_at is None:
            held = await self._holder(job.job_name)
            if held is None:
                check_comes(job)
            return held
        if engine.writes.idle and engine.claim_error is None:
            engine.expect(job.due_at)  # so that a claim can share its commit
        try:
            await engine.writes.write(Insert(job))
        except NameHeld as held:
            return engine.calls.decoded(held.current)
        return None

    async def _holder(self, name: str) -> JobInfo | None:
        found = await self._engine.calls.find(Query(job_name=name, limit=1))
        return found[0] if found and found[0].holds_name else None

    def prepare(self, *arguments: Any, **options: Any) -> JobInfo:
        """The row of an enqueue without mistakes; `due_at` is None where there is no occurrence left within its bounds.
        Raises an `InputError`; nothing has happened then."""
        engine = self._engine
        draft = self._admission.draft(*arguments, **options)
        now, by, job_id = engine.clock.now(), engine.options.by(), uuid7()
        anchor = anchor_for(draft.schedule, now, draft.start)
        due = first_due(Plan(draft.schedule, anchor, draft.start, draft.until, draft.repeats), now)
        job = JobInfo(
            id=job_id, handler_name=draft.handler_name, expression_value=draft.schedule.text, payload=draft.payload,
            job_name=f"{draft.handler_name[:160]}-{job_id}" if draft.job_name is None else draft.job_name,
            extra_properties=draft.metadata, created_at=now, created_by=by, modified_at=now, modified_by=by,
            due_at=due, occurrence=due, timezone=draft.schedule.timezone, start=draft.start, repeats=draft.repeats,
            until=draft.until, misfire=draft.misfire, misfire_grace=draft.misfire_grace, anchor=anchor,
        )  # fmt: skip
        if stamped := engine.calls.stamp(job):
            return attrs.evolve(job, extra_properties=check_metadata({**stamped, **job.extra_properties}))
        return job

    def _added(self, job: JobInfo) -> None:
        engine = self._engine
        if engine.events.observed:
            engine.events.emit(Enqueued(job))
        engine.arm(job.id)
        engine.expect(job.due_at)

    async def _resolve(self, held: JobInfo, job: JobInfo, if_exists: str) -> UUID | None:
        """The name is held (docs/protocol.md, N2, N3, N7). None: it no longer is; try again."""
        differs = differences(held, job)
        runs = held.status is JobStatus.RUNNING and self._runs_once(held)
        itself = runs and held.id == work.running.get()
        if itself and if_exists == "raise":
            raise own(held)
        if if_exists != "replace" or not (differs or itself or held.status is JobStatus.FAILED):
            return kept(held, job, if_exists)
        if runs and not itself:
            raise busy(held)
        engine = self._engine
        try:
            if held.status.terminal:
                check_comes(job)
                release = states.release_name(held, job.created_at, job.created_by)
                await engine.calls.transact([Update(release), Insert(job)])
                self._added(job)
                return job.id
            await self._redefine(held, job, same=same_schedule(differs) and not itself, again=itself)
        except (Stale, NameHeld):
            return None
        return held.id

    async def _redefine(self, held: JobInfo, job: JobInfo, *, same: bool, again: bool) -> None:
        """In place (docs/protocol.md, U1). `same`: the schedule stays, and with it what waits and has been missed."""
        now, by = job.created_at, job.created_by
        definition = definition_of(job)
        if isinstance(held, Unreadable):  # what is written now can be read
            held = attrs.evolve(held, last_error=None)
        if same:
            definition = attrs.evolve(definition, anchor=held.anchor)
            change = states.redefine(held, definition, self._plan(definition), now, by)
        else:
            check_comes(job)
            plan = self._plan(definition)
            again = again and not plan.schedule.recurring
            change = states.update(held, definition, plan, self._rows.plan_of(held), now, by, again=again)
        await self._rows.save(held, change, "update")

    def _plan(self, definition: Definition) -> Plan:
        return Plan.of(self._engine.calls.load(definition.expression_value, definition.timezone), definition)

    def _runs_once(self, job: JobInfo) -> bool:
        """A one-shot."""
        plan = self._rows.plan_of(job)
        return plan is not None and not plan.schedule.recurring

    # -- enqueue inside a unit of work -----------------------------------------------------------

    async def _join(self, unit: work.UnitOfWork, job: JobInfo, named: bool, if_exists: str) -> UUID | None:
        """Looked up now, checked again in the transaction (PROTOCOL W6). None: the unit has ended meanwhile."""
        if named:
            if (joined := unit.named.get(job.job_name)) is not None:
                return kept(joined, job, if_exists)
            held = await self._holder(job.job_name)
            if not unit.is_open:
                return None
            if (joined := unit.named.get(job.job_name)) is not None:  # by another task meanwhile
                return kept(joined, job, if_exists)
            if held is not None:
                return self._kept_inside(held, job, if_exists)
        check_comes(job)
        unit.queue(Insert(job))
        return job.id

    def _kept_inside(self, held: JobInfo, job: JobInfo, if_exists: str) -> UUID:
        """A unit of work replaces nothing, and no id may promise a run that never comes (docs/protocol.md, N7)."""
        if if_exists != "keep" and held.id == work.running.get() and self._runs_once(held):
            raise own(held, replaceable=False)
        return kept(held, job, if_exists)

    def _enqueue_in(self, tx: Transaction, made: list[JobInfo]) -> Callable[..., UUID]:
        """`tx.enqueue` of a function that runs inside the transaction."""

        def enqueue(
            handler: Any, job_name: str | None = None, payload: Any = None, schedule: Any = "@once",
            metadata: Any = None, **options: Any,
        ) -> UUID:  # fmt: skip
            checks.unknown_options({k: v for k, v in options.items() if k not in ENQUEUE_OPTIONS}, ARGUMENTS)
            if_exists = checks.one_of("if_exists", options.pop("if_exists", "raise"), ("raise", "keep"))
            job = self.prepare(handler, job_name, payload, schedule, metadata, **options)
            try:
                tx.add(self._engine.calls.encoded_job(job))
            except NameHeld as held:
                return self._kept_inside(self._engine.calls.decoded(held.current), job, if_exists)
            made.append(job)
            check_comes(job)  # if the function goes on all the same, its unit of work fails
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
