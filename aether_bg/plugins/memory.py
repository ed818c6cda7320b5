"""Jobs in this process's memory: for tests, for trials, and for work that may be lost with the process.

The shortest complete store. The values carry the rules (`Claim.choose`, `Change.applied_to`, `Query.select`); a store
keeps rows, and makes each hook one transaction. hookspecs.md says what a durable one has to add.
"""

from __future__ import annotations

import threading
import time
from collections import ChainMap, Counter
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from aether_bg.errors import NameHeld, Stale, StoreRefused, Unsupported
from aether_bg.hookspecs import hookimpl
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    Heartbeat,
    Insert,
    JobInfo,
    JobRun,
    JobStatus,
    Purge,
    Query,
    RunOutcome,
    Stats,
    Update,
    Write,
    begun_run,
)
from aether_bg.protocols import Kernel

__all__ = ["MemoryStore"]

Jobs: TypeAlias = MutableMapping[UUID, JobInfo]
Runs: TypeAlias = MutableMapping[tuple[UUID, int, int], JobRun]


class MemoryStore:
    """One object may serve several apps of this process, on any threads."""

    def __init__(self) -> None:
        self._id = uuid4()
        self._jobs: dict[UUID, JobInfo] = {}
        self._runs: dict[tuple[UUID, int, int], JobRun] = {}
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
            jobs, runs = ChainMap({}, self._jobs), ChainMap({}, self._runs)  # writes go to the first map
            for write in writes:
                self._write(write, jobs, runs)
            self._jobs.update(jobs.maps[0])  # nothing can fail from here on
            self._runs.update(runs.maps[0])
        for wake in list(self._wakes):
            wake()
        return [None] * len(writes)

    def _write(self, write: Write, jobs: Jobs, runs: Runs) -> None:
        match write:
            case Insert(job):
                if job.id in jobs:
                    raise StoreRefused(f"job {job.id}", "its id is in the store already", "Add each job once.")
                self._put(job, jobs)
            case Update(change):
                current = jobs.get(change.job_id)
                if current is None or not change.guards(current):
                    raise Stale(change.job_id, current)
                self._put(change.applied_to(current), jobs)
                for run in change.runs:
                    _check_completed(run, runs)
                    runs[run.job_id, run.token, run.gap] = run
            case _:
                raise Unsupported(repr(self), "it has no SQL", "Use a store that has, or no unit of work.")

    def _put(self, job: JobInfo, jobs: Jobs) -> None:
        if job.holds_name:
            for other in jobs.values():
                if other.holds_name and other.job_name == job.job_name and other.id != job.id:
                    raise NameHeld(job.job_name, other)
        jobs[job.id] = job

    # -- claims: the one place where two can want the same row ------------------------------------

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        with self._lock:
            if claim.owner not in self._owners:
                return Claimed()  # docs/protocol.md, P4: the next heartbeat says so
            taken = [claim.take(job) for job in claim.choose(self._jobs.values())]
            for job in taken:
                self._jobs[job.id] = job
                self._runs[job.id, job.seq, 0] = begun_run(job)
            alone = any(job.suspect for job in taken)
            rest = [job for job in self._jobs.values() if claim.asks_for(job) and not (alone and job.suspect)]
            later = [job.due_at for job in rest if job.due_at is not None]
            return Claimed(jobs=tuple(taken), next_due=min(later, default=None))

    # -- owners: all of them live in this process --------------------------------------------------

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        with self._lock:
            now = time.monotonic()
            if beat.join or beat.owner in self._owners:
                self._owners[beat.owner] = beat, now + beat.keep_for
            self._stopping |= {beat.owner} if beat.stopping else set()
            self._stopping |= {owner for owner, (last, _) in self._owners.items() if last.stop_asked()}
            for gone in (*beat.recovered, *([beat.owner] if beat.leave else [])):
                self._owners.pop(gone, None)
            self._stopping &= self._owners.keys()
            running = [job for job in self._jobs.values() if job.status is JobStatus.RUNNING]
            return Alive(
                store_id=self._id,
                known=beat.owner in self._owners,
                beats={  # computed from the time that has passed: no thread has to keep it going
                    owner: int(min(now, until) / last.interval) for owner, (last, until) in self._owners.items()
                },
                dead=tuple({job.owner for job in running if job.owner} - self._owners.keys() - {beat.owner}),
                running=tuple((job.id, job.seq) for job in running if job.owner == beat.owner),
                stopping=frozenset(self._stopping),
                advertised=frozenset(
                    name
                    for owner, (last, _) in self._owners.items()
                    if owner not in self._stopping
                    for name in last.handlers
                ),
                due=frozenset(job.handler_name for job in self._jobs.values() if job.claimable(beat.now)),
            )

    # -- reading and retention ---------------------------------------------------------------------

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        with self._lock:
            return query.select(self._jobs.values())

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        with self._lock:
            return [self._runs[key] for key in self._newest_first(job_id)[:limit]]

    def _newest_first(self, job_id: UUID) -> list[tuple[UUID, int, int]]:
        return sorted((key for key in self._runs if key[0] == job_id), reverse=True)

    @hookimpl
    async def store_stats(self) -> Stats:
        with self._lock:
            jobs, now, by_handler = self._jobs.values(), datetime.now(UTC), dict[str, Counter[str]]()
            for job in jobs:
                by_handler.setdefault(job.handler_name, Counter())[job.status.name.lower()] += 1
            counts: dict[str, Any] = sum(by_handler.values(), Counter[str]())
            return Stats(
                store_id=self._id,
                **counts,
                paused=sum(job.paused and not job.status.terminal for job in jobs),
                due=sum(job.claimable(now) for job in jobs),
                oldest_due=min((job.due_at for job in jobs if job.waiting and job.due_at), default=None),
                owners=len(self._owners),
                runs=len(self._runs),
                by_handler=by_handler,
            )

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        with self._lock:
            if purge.job_id is not None:
                keys = self._newest_first(purge.job_id)
                old = purge.beyond(self._runs[key].outcome for key in keys)
                for place in old:
                    del self._runs[keys[place]]
                return len(old)
            gone = {job.id for job in purge.select(self._jobs.values())}
            self._jobs = {job_id: job for job_id, job in self._jobs.items() if job_id not in gone}
            self._runs = {key: run for key, run in self._runs.items() if key[0] not in gone}
            return len(gone)


def _check_completed(run: JobRun, runs: Runs) -> None:
    """An occurrence completes once (docs/protocol.md, C6)."""
    if run.outcome is RunOutcome.COMPLETED and any(
        done.outcome is run.outcome and done.occurrence == run.occurrence and done.token != run.token
        for done in runs.values()
        if done.job_id == run.job_id
    ):
        raise StoreRefused(f"job {run.job_id}", f"its occurrence {run.occurrence} has completed already")
