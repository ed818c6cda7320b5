"""What each write does to the rows of a store, and what each query finds: the rules, over an engine's lookups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import attrs

from aether_bg.errors import JobNotFound, NameHeld, Stale, StoreRefused, Unsupported
from aether_bg.model import (
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Hold,
    Insert,
    JobInfo,
    JobRun,
    Note,
    Parent,
    Purge,
    Query,
    Ran,
    RunOutcome,
    Runs,
    Settled,
    Update,
    Write,
    begun_run,
    placed,
    relieved,
)


class Rows(ABC):
    """What one transaction sees, its own changes included.

    The engine's part is abstract: look-ups, and changes of one row. The rules are the same for every engine. The
    queries read all rows; override those for which your engine has an index.
    """

    # -- the engine's part: jobs -------------------------------------------------------------------

    @abstractmethod
    def job(self, job_id: UUID) -> JobInfo | None: ...

    @abstractmethod
    def jobs(self) -> Iterable[JobInfo]:
        """All of them."""

    @abstractmethod
    def holder(self, name: str) -> JobInfo | None:
        """The job that holds this name: the only one with `holds_name`."""

    @abstractmethod
    def put_job(self, job: JobInfo, before: JobInfo | None = None) -> None:
        """`before`: the row that it replaces, for your index; None if it is new."""

    @abstractmethod
    def delete_job(self, job: JobInfo) -> None:
        """With its history, and its links to parents and children."""

    # -- history -----------------------------------------------------------------------------------

    @abstractmethod
    def runs(self) -> Iterable[JobRun]:
        """All of them."""

    @abstractmethod
    def history(self, job_id: UUID, limit: int | None = None) -> Sequence[JobRun]:
        """Those of one job, newest first: by (token, gap). At most `limit`."""

    @abstractmethod
    def put_run(self, run: JobRun) -> None:
        """Written whole, by (job_id, token, gap)."""

    @abstractmethod
    def delete_run(self, run: JobRun) -> None: ...

    # -- paused handlers, links between jobs, owners -----------------------------------------------

    @abstractmethod
    def held(self) -> Container[str]:
        """The handlers that are paused."""

    @abstractmethod
    def hold(self, hold: Hold) -> None:
        """Pauses a handler (`hold.held`), or lets it go on; a second time changes nothing."""

    @abstractmethod
    def parents(self, child: UUID) -> Sequence[UUID]:
        """The jobs it runs after, in the order given to `link`."""

    @abstractmethod
    def children(self, parent: UUID) -> Iterable[UUID]:
        """The jobs that run after it."""

    @abstractmethod
    def link(self, child: UUID, parents: Sequence[UUID]) -> None:
        """`child` runs after these jobs. Called once for a child."""

    @abstractmethod
    def await_end(self, parent: UUID, child: UUID) -> None:
        """`child` waits for the end of `parent`; it may do so already."""

    @abstractmethod
    def no_longer_awaited(self, parent: UUID) -> Sequence[UUID]:
        """The children that waited for the end of `parent`. From now on they do not."""

    @abstractmethod
    def knows(self, owner: UUID) -> bool:
        """Whether this owner is registered."""

    # -- the rules ---------------------------------------------------------------------------------

    def write(self, write: Write) -> tuple[Settled, ...] | None:
        """Carries out one write; the result for `store_transact`. Raises as that hook does."""
        match write:
            case Insert(job, after):
                if self.job(job.id) is not None:
                    raise StoreRefused(f"job {job.id}", "its id is in the store already", "Add each job once.")
                self._take_name(job)
                self.put_job(job)
                if not after:
                    return None
                self.link(job.id, after)
                return self._place(job, after)
            case Update(change):
                before = self.job(change.job_id)
                if before is None or not change.guards(before):
                    raise Stale(change.job_id, before)
                job = change.applied_to(before)
                if not before.holds_name:
                    self._take_name(job)
                self.put_job(job, before)
                for run in change.runs:
                    self._check_once(run)
                    self.put_run(run)
                if change.rejoins and job.parents:
                    return self._place(job, [id_ for id_ in self.parents(job.id) if self.job(id_) is not None])
                return self._settle(job) if job.status.terminal else None
            case Note():
                before = self.job(write.job_id)
                if before is None or not write.guards(before):
                    raise Stale(write.job_id, before)
                self.put_job(write.applied_to(before), before)
                return None
            case Hold():
                self.hold(write)
                return None
            case _:
                raise Unsupported("this store", "it has no SQL", "Use a store that has, or no unit of work.")

    def claim(self, claim: Claim) -> Claimed:
        if not self.knows(claim.owner):
            return Claimed()  # the next heartbeat says so (docs/protocol.md, P4)
        rows = {job.id: job for job in self.claimable(claim)}
        taken = [claim.take(job) for job in claim.choose(rows.values())]
        for job in taken:
            self.put_job(job, rows[job.id])
            self.put_run(begun_run(job))
            rows[job.id] = job
        return claim.answer(taken, rows.values())

    def purge(self, purge: Purge) -> int:
        if purge.job_id is None:
            jobs = self.purgeable(purge)
            for job in jobs:
                self.delete_job(job)
            return len(jobs)
        runs = self.history(purge.job_id)
        old = purge.beyond(run.outcome for run in runs)
        for place in old:
            self.delete_run(runs[place])
        return len(old)

    def _take_name(self, job: JobInfo) -> None:
        """A holder whose window has passed gives way (docs/protocol.md, N10)."""
        holder = self.holder(job.job_name) if job.holds_name else None
        if holder is not None:
            if not holder.gives_way_to(job):
                raise NameHeld(job.job_name, holder)
            self.put_job(attrs.evolve(holder, holds_name=False, schedule_rev=holder.schedule_rev + 1), holder)

    def _check_once(self, run: JobRun) -> None:
        """An occurrence completes once (docs/protocol.md, C6)."""
        if run.outcome is RunOutcome.COMPLETED and self.completed(run.job_id, run.occurrence) not in (None, run.token):
            raise StoreRefused(f"job {run.job_id}", f"its occurrence {run.occurrence} has completed already")

    def _place(self, child: JobInfo, after: Sequence[UUID]) -> tuple[Settled, ...] | None:
        """The child begins to wait for its parents (docs/protocol.md, A1)."""
        parents = list[Parent]()
        for id_ in after:
            if (job := self.job(id_)) is None:
                raise JobNotFound(f"job {id_}", "there is no such job to run after", "Was it purged?")
            parents.append(Parent.of(job))
            if not job.status.terminal:
                self.await_end(id_, child.id)
        waiting = placed(child, parents)
        self.put_job(waiting, child)
        settled = Settled.of(waiting)
        return None if settled is None else (settled,)

    def _settle(self, job: JobInfo) -> tuple[Settled, ...] | None:
        """Settles the jobs that wait for this one, and those that wait for them (docs/protocol.md, A2)."""
        told, ended = list[Settled](), [job]
        for parent in ended:
            for child in filter(None, map(self.job, self.no_longer_awaited(parent.id))):
                after = relieved(child, [Parent.of(parent)], parent.modified_at)
                if after is child:
                    continue
                self.put_job(after, child)
                if (settled := Settled.of(after)) is not None:
                    told.append(settled)
                    ended += [after] if after.status.terminal else []
        return tuple(told) or None

    # -- the queries: for an engine with an index, to override --------------------------------------

    def completed(self, job_id: UUID, occurrence: datetime | None) -> int | None:
        """The token under which this occurrence was COMPLETED, if it was."""
        runs = (run for run in self.history(job_id) if run.outcome is RunOutcome.COMPLETED)
        return next((run.token for run in runs if run.occurrence == occurrence), None)

    def seen(self) -> list[JobInfo]:
        """The jobs, with those of paused handlers marked."""
        held = self.held()
        return [job.under(held) for job in self.jobs()]

    def claimable(self, claim: Claim) -> Iterable[JobInfo]:
        """What a claim looks at: at least the due and the RUNNING jobs, and of the waiting ones the next that is due;
        `under` the paused handlers."""
        return self.seen()

    def running_or_due(self) -> Iterable[JobInfo]:
        """For `Alive.of`: at least the RUNNING jobs, and of each handler a due one; `under` the paused handlers."""
        return self.seen()

    def purgeable(self, purge: Purge) -> Sequence[JobInfo]:
        """What a purge without `job_id` deletes."""
        active = [job.id for job in self.jobs() if job.parents and not job.status.terminal]
        return purge.select(self.jobs(), {parent for child in active for parent in self.parents(child)})

    def find(self, query: Query) -> Sequence[JobInfo]:
        return query.select(self.seen(), self.links(query))

    def links(self, query: Query) -> Mapping[UUID, Sequence[UUID]]:
        """The links that a query asks for, as `Query.select` takes them."""
        if query.parents_of is not None:
            return {query.parents_of: self.parents(query.parents_of)}
        if query.children_of is not None:
            return {child: [query.children_of] for child in self.children(query.children_of)}
        return {}

    def ran(self, query: Runs) -> Sequence[Ran]:
        return query.select(Ran.of(run, job) for run in self.runs() if (job := self.job(run.job_id)) is not None)

    def failures(self, query: Failures) -> Sequence[FailureGroup]:
        return query.select(self.jobs())
