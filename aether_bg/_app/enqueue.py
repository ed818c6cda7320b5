"""Enqueueing a valid job: the name that it may hold, and units of work (docs/protocol.md, N and W4 to W6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import attrs

from aether_bg._app.admission import ARGUMENTS, ENQUEUE_OPTIONS, IF_EXISTS, Admission
from aether_bg._app.parents import Asked, asked, by_any, not_found, queries
from aether_bg._handlers import work
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.journal import Written
from aether_bg._kernel.kernel import Kernel
from aether_bg._kernel.timekeeper import Timekeeper
from aether_bg._rules import commands as rules
from aether_bg._rules import validation as checks
from aether_bg._rules.changes import Moment
from aether_bg._rules.recurrence import Plan, check_comes, no_occurrence
from aether_bg._rules.uniqueness import beside, busy, differences, kept, other_parents, own, same_schedule, taken
from aether_bg.errors import InvalidSchedule, NameHeld, Stale
from aether_bg.model import Change, Insert, JobInfo, JobStatus, Query, Transaction, Unreadable, Update


class Enqueuer:
    def __init__(self, kernel: Kernel, admission: Admission) -> None:
        self.admission, self._shared, self.journal = admission, kernel.shared, kernel.journal
        self._insert = kernel.at_once.insert
        self.calls, self.moment = kernel.shared.calls, kernel.shared.clock.moment

    def unit(self) -> work.UnitOfWork | None:
        """The open unit of work of this store that surrounds the caller."""
        return work.joined(self._shared.identity.store_id)

    def outside(self, verb: str) -> None:
        """Raises `InsideUnitOfWork`."""
        work.outside(verb, self._shared.identity.store_id)

    async def enqueue(
        self, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any, **options: Any
    ) -> UUID:
        if_exists, declared, wanted = "raise", False, None
        if options:
            declared = options.pop("declared", False)
            if_exists, wanted = request(options)
        job = self.admission.job(self.moment(), handler, job_name, payload, schedule, metadata, **options)
        if declared:
            job = attrs.evolve(job, declared=True)
        named, unit = job_name is not None, self.unit()
        after: tuple[UUID, ...] = ()
        if wanted is not None:
            job, after = await self.behind(job, wanted, {} if unit is None else by_any(unit.jobs), named)
        if unit is not None and (known := await self._join(unit, job, after, named, if_exists)) is not None:
            return known
        while True:
            if job.due_at is None:  # its name is looked up first (docs/protocol.md, N0)
                held = await self.holder(job.job_name)
                if held is None or held.gives_way_to(job):
                    raise no_occurrence(job.expression_value, job.until)
            else:
                try:
                    await self._insert(job, after)
                    return job.id
                except NameHeld as error:
                    held = self.calls.decoded(error.current)
            done = await self._resolve(held, job, after, if_exists)
            if done is not None:
                return done

    async def behind(
        self, job: JobInfo, wanted: Asked, made: dict[UUID | str, JobInfo], named: bool
    ) -> tuple[JobInfo, tuple[UUID, ...]]:
        """The job as it waits for its parents, and their ids. `made`: jobs that will be in the same transaction, by id
        and name, and what has been found before; `named`: by the caller. Raises `JobNotFound` for a missing parent
        unless its name is held: an identical job may be older than a purge (docs/protocol.md, N0)."""
        for query in queries(wanted.without(made)):
            for key, found in by_any(await self.calls.find(query)).items():
                made.setdefault(key, found)
        after, missing = wanted.among(made, self.calls.load)
        if missing and (not named or await self.holder(job.job_name) is None):
            raise not_found(missing[0])
        return wanted.given_to(job, after), after

    async def holder(self, name: str) -> JobInfo | None:
        found = await self.calls.find(Query(job_name=name, limit=1))
        return found[0] if found and found[0].holds_name else None

    async def holders(self, names: Sequence[str]) -> list[JobInfo]:
        return await self.calls.find(Query(holders=tuple(names), limit=len(names)))

    async def linked(self, held: JobInfo) -> tuple[UUID, ...]:
        """The parents of this job in the store; purged ones are not compared."""
        found = await self.calls.find(Query(parents_of=held.id, limit=held.parents)) if held.parents else []
        return tuple(parent.id for parent in found)

    async def _resolve(self, held: JobInfo, job: JobInfo, after: tuple[UUID, ...], if_exists: str) -> UUID | None:
        """The name is held. None: it is free again; try again."""
        answer = self.instead(held, beside(held, job, await self.linked(held), after), if_exists)
        if isinstance(answer, UUID):
            return answer
        try:
            if answer.holds_name:
                await self.journal.update(answer, held, "update")
                return held.id
            check_comes(job)
            await self.journal.write_all([Written(Update(answer)), Written(Insert(job, after))])
            return job.id
        except (Stale, NameHeld):
            return None

    def instead(self, held: JobInfo, job: JobInfo, if_exists: str) -> UUID | Change:
        """The result of enqueueing `job` under a held name (docs/protocol.md, N2, N3, N7): the id that answers it, or
        the change that redefines the holder or makes it release its name. Raises `JobConflict`."""
        differs = differences(held, job)
        runs = held.status is JobStatus.RUNNING and _runs_once(self.calls, held)
        itself = runs and held.id == work.running.get()
        if itself and if_exists == "raise":
            raise own(held)
        marks = job.declared and not (held.declared or held.status.terminal or runs)
        if if_exists != "replace" or not (differs or itself or marks or held.status is JobStatus.FAILED):
            return kept(held, job, if_exists)
        if runs and not itself:
            raise busy(held)
        if not held.status.terminal and {"after", "after_any"}.intersection(differs):
            raise other_parents(held, differs)
        if held.status.terminal:
            return rules.release_name(held, Moment(job.created_at, job.created_by))
        return self._redefine(held, job, same=same_schedule(differs) and not itself, again=itself)

    def _redefine(self, held: JobInfo, job: JobInfo, *, same: bool, again: bool) -> Change:
        """Redefines in place (docs/protocol.md, U1). `same`: the schedule stays, and so does what waits or was
        missed."""
        moment, definition = Moment(job.created_at, job.created_by), rules.definition_of(job)
        if isinstance(held, Unreadable):  # what is written now can be read
            held = attrs.evolve(held, last_error=None)
        if same:
            definition = attrs.evolve(definition, anchor=held.anchor)
        schedule = self.calls.load(definition.expression_value, definition.timezone)
        plan = Plan.of(schedule, definition)
        if same:
            return rules.redefine(held, definition, plan, moment)
        check_comes(job)
        before = self._shared.schedules.plan_or_none(held)
        return rules.update(held, definition, plan, before, moment, again=again and not schedule.recurring)

    # -- units of work ---------------------------------------------------------------------------

    async def commit(self, unit: work.UnitOfWork) -> None:
        """Commits the caller's own unit of work. Raises `JobConflict` if a name was taken in the meantime."""
        try:
            await self.journal.commit(unit)
        except NameHeld as held:
            raise taken(self.calls.decoded(held.current)) from held

    async def _join(
        self, unit: work.UnitOfWork, job: JobInfo, after: tuple[UUID, ...], named: bool, if_exists: str
    ) -> UUID | None:
        """Looked up now, checked again in the transaction (docs/protocol.md, W6). None: the unit has ended."""
        if named:
            held, linked = await self.holder(job.job_name), tuple[UUID, ...]()
            if held is not None:
                linked = await self.linked(held)
            if not unit.is_open:
                return None
            if (joined := unit.named.get(job.job_name)) is not None:
                return kept(joined, beside(joined, job, unit.linked[joined.id], after), if_exists)
            if held is not None and not held.gives_way_to(job):
                return kept_inside(self.calls, held, beside(held, job, linked, after), if_exists)
        check_comes(job)
        unit.queue(Insert(job, after))
        return job.id


def request(options: dict[str, Any], allowed: tuple[str, ...] = IF_EXISTS) -> tuple[str, Asked | None]:
    """What an enqueue asks for beside its row, taken out of its options: what to do if the name is held, and after
    which jobs. Raises `InvalidOption`."""
    if_exists = checks.one_of("if_exists", options.pop("if_exists", "raise"), allowed)
    return if_exists, asked(options.pop("after", None), options.pop("after_any", False))


class InTransaction:
    """Makes `tx.enqueue` for a function that runs inside a transaction."""

    def __init__(self, admission: Admission, calls: Calls, clock: Timekeeper) -> None:
        self._admission, self._calls, self._clock = admission, calls, clock

    def __call__(self, tx: Transaction, made: list[JobInfo]) -> Callable[..., UUID]:
        """`made`: gets the jobs that are enqueued."""

        def enqueue(
            handler: Any, job_name: str | None = None, payload: Any = None, schedule: Any = "@once",
            metadata: Any = None, **options: Any,
        ) -> UUID:  # fmt: skip
            checks.unknown_options({k: v for k, v in options.items() if k not in ENQUEUE_OPTIONS}, ARGUMENTS)
            if_exists, wanted = request(options, ("raise", "keep"))
            arguments = (handler, job_name, payload, schedule, metadata)
            job = self._admission.job(self._clock.moment(), *arguments, **options)
            after: tuple[UUID, ...] = ()
            if wanted is not None:
                found = by_any(row for query in queries(wanted) for row in tx.find(query))
                after, missing = wanted.among(found, self._calls.load)
                if missing:
                    raise not_found(missing[0])
                job = wanted.given_to(job, after)
            try:
                tx.add(self._calls.encoded_job(job), after)
            except NameHeld as held:
                return kept_inside(self._calls, self._calls.decoded(held.current), job, if_exists)
            made.append(job)
            check_comes(job)  # if the function catches this, its unit of work fails
            return job.id

        return enqueue


def kept_inside(calls: Calls, held: JobInfo, job: JobInfo, if_exists: str) -> UUID:
    """A unit of work replaces nothing, and no id may promise a run that never comes (docs/protocol.md, N7)."""
    if if_exists != "keep" and held.id == work.running.get() and _runs_once(calls, held):
        raise own(held, replaceable=False)
    return kept(held, job, if_exists)


def _runs_once(calls: Calls, job: JobInfo) -> bool:
    """Whether it is a one-shot, as far as this process can read its schedule."""
    try:
        return not calls.load(job.expression_value, job.timezone).recurring
    except InvalidSchedule:
        return False
