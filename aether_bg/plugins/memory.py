"""Jobs in this process's memory: for tests, for trials, and for work that may be lost with the process.

This is the shortest complete store. `aether_bg.rows.Rows` and the values have the rules; a store keeps rows, and makes
each hook one transaction. `aether_bg.plugins.kept.KeptStore` adds a place where the rows survive the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID, uuid4

import attrs

from aether_bg.hookspecs import hookimpl
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Hold,
    JobInfo,
    JobRun,
    Owner,
    Purge,
    Query,
    Ran,
    RunOutcome,
    Runs,
    Stats,
    Write,
)
from aether_bg.protocols import Kernel
from aether_bg.rows import Rows

__all__ = ["MemoryStore"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
RunKey: TypeAlias = tuple[UUID, int, int]


class MemoryStore:
    """One object may serve several apps of this process, on any threads."""

    def __init__(self) -> None:
        self._id = uuid4()
        self._rows = MemoryRows()
        self._beats: dict[UUID, tuple[Heartbeat, float]] = {}
        """The last heartbeat of each owner of this process, and until when it lasts."""
        self._wakes: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._rows.jobs)} jobs>"

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self._do(lambda: self._enter(kernel.wake))
        stack.push_async_callback(self._do, lambda: self._leave(kernel.wake))

    def _enter(self, wake: Callable[[], None]) -> None:
        if not self._wakes:
            self._open()
        self._wakes.append(wake)

    def _leave(self, wake: Callable[[], None]) -> None:
        self._wakes.remove(wake)
        if not self._wakes:
            self._beats.clear()
            self._close()

    # -- one at a time, and each completely or not at all ------------------------------------------

    async def _do(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._do(lambda: self._transaction(work))

    def _transaction(self, work: Callable[[], T]) -> T:
        with self._rows.transaction():
            result = work()
            self._save()
            return result

    def _open(self) -> None:
        """For stores that keep more than memory does: before the first app."""

    def _save(self) -> None:
        """For them: what a transaction has changed. If this raises, it has not happened."""

    def _close(self) -> None:
        """For them: after the last app."""

    # -- writing -----------------------------------------------------------------------------------

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        results = await self._write(lambda: [self._rows.write(write) for write in writes])
        if any(results) or any(write.wakes for write in writes):
            for wake in list(self._wakes):
                wake()
        return results

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        return await self._write(lambda: self._claim(claim))

    def _claim(self, claim: Claim) -> Claimed:
        if claim.owner not in self._rows.owners:
            return Claimed()  # docs/protocol.md, P4: the next heartbeat says so
        return self._rows.claim(claim, self._rows.seen())

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self._write(lambda: self._rows.purge(purge))

    # -- owners: all of them live in this process --------------------------------------------------

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self._write(lambda: self._beat(beat))

    def _beat(self, beat: Heartbeat) -> Alive:
        owners, now = self._rows.owners, time.monotonic()
        if beat.join:
            owners[beat.owner] = Owner(0, beat.handlers, declares=beat.declares)
        if beat.owner in owners:
            self._beats[beat.owner] = beat, now + beat.keep_for
        for gone in (*beat.recovered, *([beat.owner] if beat.leave else [])):
            owners.discard(gone)
            self._beats.pop(gone, None)
        self._mark_stopping()
        return Alive.of(beat, self._id, self._beating(now), self._rows.seen(), owners.keys() - self._beats.keys())

    def _mark_stopping(self) -> None:
        owners = self._rows.owners
        for id_, (beat, _) in self._beats.items():
            if (beat.stopping or beat.stop_asked()) and not owners[id_].stopping:
                owners[id_] = attrs.evolve(owners[id_], stopping=True)

    def _beating(self, now: float) -> dict[UUID, Owner]:
        """Beats are computed from the time that has passed, so no thread needs to keep them going."""
        beating = {id_: int(min(now, until) / beat.interval) for id_, (beat, until) in self._beats.items()}
        return {id_: attrs.evolve(owner, beat=beating.get(id_, 0)) for id_, owner in self._rows.owners.items()}

    # -- reading -----------------------------------------------------------------------------------

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self._do(lambda: query.select(self._rows.seen(), self._rows.links))

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self._do(lambda: self._rows.history(job_id)[:limit])

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        jobs, runs = self._rows.jobs, self._rows.runs
        return await self._do(lambda: query.select(Ran.of(run, jobs[run.job_id]) for run in runs.values()))

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self._do(lambda: query.select(self._rows.jobs.values()))

    @hookimpl
    async def store_stats(self) -> Stats:
        rows = self._rows
        return await self._do(
            lambda: Stats.of(
                self._id, rows.jobs.values(), datetime.now(UTC), owners=len(rows.owners), runs=len(rows.runs),
                held=rows.held,
            )
        )  # fmt: skip


class Table(dict[K, V], Generic[K, V]):
    """A dict that can take back what was done to it by `table[key] = value` and `discard`."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[K, V | None] = {}
        """What has been changed, as it was; None: it was not there."""

    def __setitem__(self, key: K, value: V) -> None:
        self.before.setdefault(key, self.get(key))
        super().__setitem__(key, value)

    def discard(self, key: K) -> None:
        if key in self:
            self.before.setdefault(key, self[key])
            del self[key]

    def undo(self) -> None:
        for key, value in self.before.items():
            self.pop(key, None)
            if value is not None:
                super().__setitem__(key, value)


class MemoryRows(Rows):
    """All rows, in dicts."""

    def __init__(self) -> None:
        self.jobs = Table[UUID, JobInfo]()
        self.runs = Table[RunKey, JobRun]()
        self.held = Table[str, Hold]()
        self.links = Table[UUID, tuple[UUID, ...]]()
        """The parents of each job that has some, in the order given."""
        self.waiting = Table[UUID, tuple[UUID, ...]]()
        """By parent: the children that wait for its end."""
        self.owners = Table[UUID, Owner]()
        self.names = Table[str, UUID]()
        """By name: the job that holds it."""
        self.done = Table[tuple[UUID, datetime | None], int]()
        """By job and occurrence: the token under which it was completed."""
        self._tables: Sequence[Table[Any, Any]] = [*vars(self).values()]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for table in self._tables:
                table.undo()
            raise
        finally:
            for table in self._tables:
                table.before.clear()

    def seen(self) -> Iterable[JobInfo]:
        """The jobs, with those of paused handlers marked."""
        return [job.under(self.held) for job in self.jobs.values()]

    def history(self, job_id: UUID) -> list[JobRun]:
        """Newest first."""
        return [self.runs[key] for key in sorted((key for key in self.runs if key[0] == job_id), reverse=True)]

    def purge(self, purge: Purge) -> int:
        if purge.job_id is not None:
            runs = self.history(purge.job_id)
            old = [runs[place] for place in purge.beyond(run.outcome for run in runs)]
        else:
            needed = {id_ for child, ids in self.links.items() if not self.jobs[child].status.terminal for id_ in ids}
            jobs = {job.id: job for job in purge.select(self.jobs.values(), needed)}
            old = [run for run in self.runs.values() if run.job_id in jobs]
            for job in jobs.values():
                self._delete(job)
        for run in old:
            self.runs.discard((run.job_id, run.token, run.gap))
            if run.outcome is RunOutcome.COMPLETED:
                self.done.discard((run.job_id, run.occurrence))
        return len(old) if purge.job_id is not None else len(jobs)

    def _delete(self, job: JobInfo) -> None:
        self.jobs.discard(job.id)
        self.links.discard(job.id)
        self.waiting.discard(job.id)
        if job.holds_name:
            self.names.discard(job.job_name)

    # -- for the rules -----------------------------------------------------------------------------

    def job(self, job_id: UUID) -> JobInfo | None:
        return self.jobs.get(job_id)

    def holder(self, name: str) -> JobInfo | None:
        return self.jobs[self.names[name]] if name in self.names else None

    def put_job(self, job: JobInfo, before: JobInfo | None = None) -> None:
        self.jobs[job.id] = job
        if job.holds_name:
            self.names[job.job_name] = job.id
        elif before is not None and before.holds_name:
            self.names.discard(job.job_name)

    def put_run(self, run: JobRun) -> None:
        self.runs[run.job_id, run.token, run.gap] = run
        if run.outcome is RunOutcome.COMPLETED:
            self.done[run.job_id, run.occurrence] = run.token

    def completed(self, job_id: UUID, occurrence: datetime | None) -> int | None:
        return self.done.get((job_id, occurrence))

    def hold(self, hold: Hold) -> None:
        if not hold.held:
            self.held.discard(hold.handler)
        elif hold.handler not in self.held:
            self.held[hold.handler] = hold

    def parents(self, child: UUID) -> Sequence[UUID]:
        return self.links.get(child, ())

    def link(self, child: UUID, parents: Sequence[UUID]) -> None:
        self.links[child] = tuple(parents)

    def await_end(self, parent: UUID, child: UUID) -> None:
        if child not in (waiting := self.waiting.get(parent, ())):
            self.waiting[parent] = (*waiting, child)

    def no_longer_awaited(self, parent: UUID) -> Sequence[UUID]:
        waiting = self.waiting.get(parent, ())
        self.waiting.discard(parent)
        return waiting
