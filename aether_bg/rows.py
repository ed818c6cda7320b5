"""The rows of a store as one transaction sees them, and what each write does to them.

For a store on an engine of its own: subclass `Rows` over one transaction of that engine, and write the ten methods that
look rows up and put them. `write` and `claim` carry the rules, which are the same for every engine. `MemoryStore` does
it on dicts, `examples/plugins/lmdb_store` on LMDB.

    class MyRows(Rows): ...                              # the ten methods, over `transaction`

    with engine.transaction() as transaction:            # in store_transact; an error undoes all of it
        results = [MyRows(transaction).write(write) for write in writes]
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import attrs
from cattrs.preconf.json import make_converter

from aether_bg.errors import (
    JobNotFound,
    NameHeld,
    Stale,
    StoreBroken,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreTrouble,
    Unsupported,
)
from aether_bg.model import (
    Claim,
    Claimed,
    Hold,
    Insert,
    JobInfo,
    JobRun,
    Note,
    Parent,
    RunOutcome,
    Settled,
    Update,
    Write,
    begun_run,
    placed,
    relieved,
)

__all__ = ["Rows", "disk_trouble", "pack", "unpack"]

T = TypeVar("T")

_json: Final = make_converter()
_json.register_unstructure_hook(UUID, str)
_json.register_structure_hook(UUID, lambda text, _: UUID(text))


def pack(row: Any) -> str:
    """A row, or another value of the model, as JSON text that keeps every field."""
    return _json.dumps(row, separators=(",", ":"))


def unpack(text: str | bytes, kind: type[T]) -> T:
    """What `pack` was given: `unpack(text, JobInfo)`."""
    return _json.loads(text, kind)


def disk_trouble(where: str, error: OSError) -> StoreTrouble:
    """The error for the kernel, which tries again. `where`: the file, for the message."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StoreFull(where, str(error), "Free some space on its disk.")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return StoreReadOnly(where, str(error), "Let this process write there.")
    return StoreBroken(where, str(error), "Look at its disk.")


class Rows(ABC):
    """What one transaction sees, its own changes included.

    The engine's part is abstract. Everything else is the same for every engine; a store overrides it where its engine
    has a better way.
    """

    # -- the engine's part -------------------------------------------------------------------------

    @abstractmethod
    def job(self, job_id: UUID) -> JobInfo | None: ...

    @abstractmethod
    def holder(self, name: str) -> JobInfo | None:
        """The job that holds this name: the only one with `holds_name`."""

    @abstractmethod
    def put_job(self, job: JobInfo, before: JobInfo | None = None) -> None:
        """`before`: the row that it replaces, for your index; None if it is new."""

    @abstractmethod
    def put_run(self, run: JobRun) -> None:
        """Written whole, by (job_id, token, gap)."""

    @abstractmethod
    def completed(self, job_id: UUID, occurrence: datetime | None) -> int | None:
        """The token under which this occurrence was COMPLETED, if it was."""

    @abstractmethod
    def hold(self, hold: Hold) -> None:
        """Keep it by its handler until one with `held` False comes; a second one with `held` True changes nothing."""

    @abstractmethod
    def parents(self, child: UUID) -> Sequence[UUID]:
        """The jobs it runs after, in the order given to `link`."""

    @abstractmethod
    def link(self, child: UUID, parents: Sequence[UUID]) -> None:
        """`child` runs after these jobs. Called once for a child."""

    @abstractmethod
    def await_end(self, parent: UUID, child: UUID) -> None:
        """`child` waits for the end of `parent`; it may do so already."""

    @abstractmethod
    def no_longer_awaited(self, parent: UUID) -> Sequence[UUID]:
        """The children that waited for the end of `parent`. From now on they do not."""

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

    def claim(self, claim: Claim, jobs: Iterable[JobInfo]) -> Claimed:
        """Takes what the claim chooses of `jobs`: all of them, or at least the due and the RUNNING ones, and of the
        waiting ones the next that is due. The claim's owner must be registered (docs/protocol.md, P4)."""
        rows = {job.id: job for job in jobs}
        taken = [claim.take(job) for job in claim.choose(rows.values())]
        for job in taken:
            self.put_job(job, rows[job.id])
            self.put_run(begun_run(job))
            rows[job.id] = job
        return claim.answer(taken, rows.values())

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
