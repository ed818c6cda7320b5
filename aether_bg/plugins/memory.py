"""Jobs in this process's memory: for tests, for trials, and for work that may be lost with the process.

This is the shortest complete store. The values have the rules (`Claim.choose`, `Change.applied_to`, `Query.select`); a
store keeps rows, and makes each hook one transaction. hookspecs.md says what a durable store has to add.
"""

from __future__ import annotations

import threading
import time
from collections import ChainMap
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID, uuid4

import attrs

from aether_bg.errors import JobNotFound, NameHeld, Stale, StoreRefused, Unsupported
from aether_bg.hookspecs import hookimpl
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Hold,
    Insert,
    JobInfo,
    JobRun,
    Note,
    Owner,
    Parent,
    Purge,
    Query,
    Ran,
    Runs,
    Settled,
    Stats,
    Update,
    Write,
    begun_run,
    placed,
    relieved,
)
from aether_bg.protocols import Kernel

__all__ = ["MemoryStore"]

History: TypeAlias = MutableMapping[tuple[UUID, int, int], JobRun]


class MemoryStore:
    """One object may serve several apps of this process, on any threads."""

    def __init__(self) -> None:
        self._id = uuid4()
        self._jobs: dict[UUID, JobInfo] = {}
        self._runs: dict[tuple[UUID, int, int], JobRun] = {}
        self._held: dict[str, Hold] = {}
        self._parents: dict[UUID, tuple[UUID, ...]] = {}
        """The parents of each job that has some, in the order given."""
        self._waiting: dict[UUID, tuple[UUID, ...]] = {}
        """By parent: the children that wait for its end."""
        self._owners: dict[UUID, tuple[Heartbeat, float]] = {}
        self._stopping: set[UUID] = set()
        self._wakes: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._jobs)} jobs>"

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        self._wakes.append(kernel.wake)
        stack.callback(self._close, kernel.wake)

    def _close(self, wake: Callable[[], None]) -> None:
        self._wakes.remove(wake)
        if not self._wakes:
            self._owners.clear()

    # -- writing: all or nothing -----------------------------------------------------------------

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        with self._lock:
            draft = _Draft(self)
            results = [draft.write(write) for write in writes]
            self._jobs.update(draft.jobs.maps[0])  # nothing can fail from here on
            self._runs.update(draft.runs.maps[0])
            self._held = draft.held
            self._parents.update(draft.parents.maps[0])
            self._waiting.update(draft.waiting.maps[0])
        if any(results) or any(write.wakes for write in writes):
            for wake in list(self._wakes):
                wake()
        return results

    def _seen(self) -> list[JobInfo]:
        """The rows, with the jobs of paused handlers marked."""
        return [job.under(self._held) for job in self._jobs.values()]

    # -- claims: where two owners can want the same row -------------------------------------------

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        with self._lock:
            if claim.owner not in self._owners:
                return Claimed()  # docs/protocol.md, P4: the next heartbeat says so
            taken = [claim.take(job) for job in claim.choose(self._seen())]
            for job in taken:
                self._jobs[job.id] = job
                self._runs[job.id, job.seq, 0] = begun_run(job)
            return claim.answer(taken, self._seen())

    # -- owners: all of them live in this process --------------------------------------------------

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        with self._lock:
            now = time.monotonic()
            if beat.join or beat.owner in self._owners:
                self._owners[beat.owner] = beat, now + beat.keep_for
            if beat.stopping and beat.owner in self._owners:
                self._stopping.add(beat.owner)
            for gone in (*beat.recovered, *([beat.owner] if beat.leave else [])):
                self._owners.pop(gone, None)
            return Alive.of(beat, self._id, self._registered(now), self._seen())

    def _registered(self, now: float) -> dict[UUID, Owner]:
        """Beats are computed from the time that has passed, so no thread needs to keep them going."""
        self._stopping |= {owner for owner, (beat, _) in self._owners.items() if beat.stop_asked()}
        self._stopping &= self._owners.keys()
        return {
            owner: Owner(int(min(now, until) / beat.interval), beat.handlers, owner in self._stopping, beat.declares)
            for owner, (beat, until) in self._owners.items()
        }

    # -- reading and retention ---------------------------------------------------------------------

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        with self._lock:
            return query.select(self._seen(), self._parents)

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        with self._lock:
            return [self._runs[key] for key in self._newest_first(job_id)[:limit]]

    def _newest_first(self, job_id: UUID) -> list[tuple[UUID, int, int]]:
        return sorted((key for key in self._runs if key[0] == job_id), reverse=True)

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        with self._lock:
            return query.select(Ran.of(run, self._jobs[run.job_id]) for run in self._runs.values())

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        with self._lock:
            return query.select(self._jobs.values())

    @hookimpl
    async def store_stats(self) -> Stats:
        with self._lock:
            return Stats.of(
                self._id, self._jobs.values(), datetime.now(UTC), owners=len(self._owners), runs=len(self._runs),
                held=self._held,
            )  # fmt: skip

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        with self._lock:
            if purge.job_id is not None:
                keys = self._newest_first(purge.job_id)
                old = purge.beyond(self._runs[key].outcome for key in keys)
                for place in old:
                    del self._runs[keys[place]]
                return len(old)
            active = (child for child in self._parents if not self._jobs[child].status.terminal)
            needed = {parent for child in active for parent in self._parents[child]}
            gone = {job.id for job in purge.select(self._jobs.values(), needed)}
            self._jobs = {job_id: job for job_id, job in self._jobs.items() if job_id not in gone}
            self._parents = {child: parents for child, parents in self._parents.items() if child not in gone}
            self._runs = {key: run for key, run in self._runs.items() if key[0] not in gone}
            return len(gone)


class _Draft:
    """One transaction: its writes, on top of what exists."""

    def __init__(self, store: MemoryStore) -> None:
        self.jobs = ChainMap[UUID, JobInfo]({}, store._jobs)  # writes go to the first map
        self.runs = ChainMap[tuple[UUID, int, int], JobRun]({}, store._runs)
        self.held = dict(store._held)
        self.parents = ChainMap[UUID, tuple[UUID, ...]]({}, store._parents)
        self.waiting = ChainMap[UUID, tuple[UUID, ...]]({}, store._waiting)

    def write(self, write: Write) -> tuple[Settled, ...] | None:
        match write:
            case Insert(job, after):
                if job.id in self.jobs:
                    raise StoreRefused(f"job {job.id}", "its id is in the store already", "Add each job once.")
                self._put(job)
                return self._place(job, after) if after else None
            case Update(change):
                current = self.jobs.get(change.job_id)
                if current is None or not change.guards(current):
                    raise Stale(change.job_id, current)
                self._put(job := change.applied_to(current))
                for run in change.runs:
                    _check_completed(run, self.runs)
                    self.runs[run.job_id, run.token, run.gap] = run
                if change.rejoins and job.parents:
                    return self._place(job, [id_ for id_ in self.parents[job.id] if id_ in self.jobs])
                return self._settle(job) if job.status.terminal else None
            case Note():
                current = self.jobs.get(write.job_id)
                if current is None or not write.guards(current):
                    raise Stale(write.job_id, current)
                self.jobs[write.job_id] = write.applied_to(current)
                return None
            case Hold(handler=name, held=True):
                self.held.setdefault(name, write)
                return None
            case Hold(handler=name):
                self.held.pop(name, None)
                return None
            case _:
                raise Unsupported("this store", "it has no SQL", "Use a store that has, or no unit of work.")

    def _put(self, job: JobInfo) -> None:
        named = (other for other in self.jobs.values() if other.holds_name and other.job_name == job.job_name)
        holder = next((other for other in named if other.id != job.id), None) if job.holds_name else None
        if holder is not None:
            if not holder.gives_way_to(job):
                raise NameHeld(job.job_name, holder)
            self.jobs[holder.id] = attrs.evolve(holder, holds_name=False, schedule_rev=holder.schedule_rev + 1)
        self.jobs[job.id] = job

    def _place(self, child: JobInfo, after: Sequence[UUID]) -> tuple[Settled, ...] | None:
        for id_ in after:
            if id_ not in self.jobs:
                raise JobNotFound(f"job {id_}", "there is no such job to run after", "Was it purged?")
        self.parents.setdefault(child.id, tuple(after))
        child = self.jobs[child.id] = placed(child, [Parent.of(self.jobs[id_]) for id_ in after])
        for id_ in after:
            if not self.jobs[id_].status.terminal and child.id not in self.waiting.get(id_, ()):
                self.waiting[id_] = (*self.waiting.get(id_, ()), child.id)
        settled = Settled.of(child)
        return None if settled is None else (settled,)

    def _settle(self, job: JobInfo) -> tuple[Settled, ...] | None:
        """Settles the jobs that wait for this one, and those that wait for them (docs/protocol.md, A2)."""
        told, ended = list[Settled](), [job]
        for parent in ended:
            if not (children := self.waiting.get(parent.id)):
                continue
            self.waiting[parent.id] = ()
            for child in [self.jobs[id_] for id_ in children if id_ in self.jobs]:
                after = self.jobs[child.id] = relieved(child, [Parent.of(parent)], parent.modified_at)
                if after is not child and (settled := Settled.of(after)) is not None:
                    told.append(settled)
                    ended += [after] if after.status.terminal else []
        return tuple(told) or None


def _check_completed(run: JobRun, runs: History) -> None:
    """An occurrence completes once (docs/protocol.md, C6)."""
    if any(run.repeats(done) for done in runs.values()):
        raise StoreRefused(f"job {run.job_id}", f"its occurrence {run.occurrence} has completed already")
