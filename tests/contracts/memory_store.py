"""A store of a third party: rows in a dict, no SQL, nothing that lasts, one opening. Passes the contract for stores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import attrs

from aether_bg import JobInfo, JobRun, hookimpl
from aether_bg.errors import NameHeld, Stale, StoreRefused, Unsupported
from aether_bg.model import (
    Add,
    Alive,
    Change,
    Claim,
    Claimed,
    Definition,
    Heartbeat,
    JobStatus,
    Purge,
    Query,
    RunOutcome,
    Save,
    Stats,
    Write,
)
from aether_bg.protocols import Kernel

_STATE = {f.name for f in attrs.fields(Change)} & {f.name for f in attrs.fields(JobInfo)} - {"seq", "schedule_rev"}
RunKey = tuple[UUID, int, int]


@attrs.define
class Owner:
    handlers: tuple[str, ...]
    interval: float
    joined: float
    beats_until: float

    def beats(self) -> int:
        """Computed from the time that has passed: nothing need run to keep it moving."""
        return int((min(time.monotonic(), self.beats_until) - self.joined) / self.interval)


class MemoryStore:
    """Everything runs on the event loop without an await: each hook is a transaction of its own."""

    def __init__(self) -> None:
        self._id = uuid4()
        self._jobs: dict[UUID, JobInfo] = {}
        self._runs: dict[RunKey, JobRun] = {}
        self._owners: dict[UUID, Owner] = {}

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        stack.callback(self._owners.clear)

    # -- writing ---------------------------------------------------------------------------------

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        before = dict(self._jobs), dict(self._runs)
        try:
            for write in writes:
                self._write(write)
        except BaseException:
            self._jobs, self._runs = before
            raise
        return [None] * len(writes)

    def _write(self, write: Write) -> None:
        if isinstance(write, Add):
            self._put(write.job, new=True)
        elif isinstance(write, Save):
            self._save(write.change)
        else:
            raise Unsupported(type(write).__name__, "this store has no SQL", "Use one that has.")

    def _put(self, job: JobInfo, *, new: bool = False) -> None:
        if job.holds_name and (holder := self._holder(job.job_name)) is not None and holder.id != job.id:
            raise NameHeld(job.job_name, holder)
        if new and job.id in self._jobs:
            raise StoreRefused(f"job {job.id}", "its id is used already")
        self._jobs[job.id] = job

    def _holder(self, name: str) -> JobInfo | None:
        return next((job for job in self._jobs.values() if job.holds_name and job.job_name == name), None)

    def _save(self, change: Change) -> None:
        job = self._jobs.get(change.job_id)
        if job is None or (job.seq, job.schedule_rev) != (change.seq, change.schedule_rev):
            raise Stale(change.job_id, job)
        written = {name: getattr(change, name) for name in _STATE}
        if change.definition is not None:
            written |= {f.name: getattr(change.definition, f.name) for f in attrs.fields(Definition)}
        self._put(attrs.evolve(job, **written, seq=change.next_seq, schedule_rev=change.next_rev))
        for run in change.runs:
            key = (run.job_id, run.token, run.part)
            done = {(r.job_id, r.occurrence) for k, r in self._runs.items() if _completed(r) and k != key}
            if _completed(run) and (run.job_id, run.occurrence) in done:
                raise StoreRefused(f"history of {run.job_id}", "an occurrence completes once")
            self._runs[key] = run

    # -- claims and owners -----------------------------------------------------------------------

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        if claim.owner not in self._owners:
            return Claimed()
        due = [job for job in self._waiting() if job.due_at is not None and job.due_at <= claim.now]
        if claim.job_id is not None:
            return Claimed(jobs=tuple(self._take(j, claim) for j in due if (j.id, j.seq) == (claim.job_id, claim.seq)))
        due = [job for job in due if job.handler_name in claim.handlers]
        suspects = [job for job in due if job.crash_count >= 2][: 1 if claim.suspect else 0]
        calm = [job for job in due if job.crash_count < 2]
        taken = tuple(self._take(job, claim) for job in sorted([*suspects, *calm], key=_due)[: claim.limit])
        rest = [job.due_at for job in self._waiting() if job.handler_name in claim.handlers and job.crash_count < 2]
        return Claimed(jobs=taken, next_due=rest[0] if rest else None)

    def _waiting(self) -> list[JobInfo]:
        return sorted((job for job in self._jobs.values() if _ready(job) and job.due_at is not None), key=_due)

    def _take(self, job: JobInfo, claim: Claim) -> JobInfo:
        taken = attrs.evolve(
            job, status=JobStatus.RUNNING, seq=job.seq + 1, attempt=job.attempt + 1, manual=False, owner=claim.owner,
            started_at=claim.now, modified_at=claim.now,
        )  # fmt: skip
        self._jobs[job.id] = taken
        self._runs[job.id, taken.seq, 0] = JobRun(
            job_id=job.id, token=taken.seq, attempt=taken.attempt, occurrence=job.occurrence, started_at=claim.now,
            owner=claim.owner,
        )  # fmt: skip
        return taken

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        now = time.monotonic()
        if beat.join:
            self._owners[beat.owner] = Owner(beat.handlers, beat.interval, now, now)
        for gone in (*beat.bury, *([beat.owner] if beat.leave else [])):
            self._owners.pop(gone, None)
        if (me := self._owners.get(beat.owner)) is not None:
            me.beats_until = now + beat.keep_for
        running = [job for job in self._jobs.values() if job.status is JobStatus.RUNNING]
        orphaned = {job.owner for job in running if job.owner and job.owner not in self._owners}
        return Alive(
            store_id=self._id,
            known=me is not None,
            beats={id_: owner.beats() for id_, owner in self._owners.items()},
            dead=tuple(orphaned - {beat.owner}),
            running=tuple((job.id, job.seq) for job in running if job.owner == beat.owner),
            advertised=frozenset(name for owner in self._owners.values() for name in owner.handlers),
            due=frozenset(job.handler_name for job in self._waiting() if job.due_at and job.due_at <= beat.now),
        )

    # -- reading ---------------------------------------------------------------------------------

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        rows = [job for job in self._jobs.values() if all(holds(job) for holds in _terms(query))]
        rows.sort(key=(lambda job: (_due(job), job.id)) if query.order == "due" else (lambda job: job.id))
        if query.after is not None:
            if query.order == "created":
                rows = [job for job in rows if job.id > query.after]
            else:
                place = next((n for n, job in enumerate(rows) if job.id == query.after), len(rows))
                rows = rows[place + 1 :]
        if query.job_name is not None:
            rows.sort(key=lambda job: (job.holds_name, job.id), reverse=True)
        return rows[: query.limit]

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return [self._runs[key] for key in self._keys_of(job_id)[:limit]]

    def _keys_of(self, job_id: UUID) -> list[RunKey]:
        """Newest first."""
        return sorted((key for key in self._runs if key[0] == job_id), reverse=True)

    @hookimpl
    async def store_stats(self) -> Stats:
        jobs, now = self._jobs.values(), datetime.now(UTC)
        status = Counter(job.status.name.lower() for job in jobs)
        by_handler: dict[str, Counter[str]] = {}
        for job in jobs:
            by_handler.setdefault(job.handler_name, Counter())[job.status.name.lower()] += 1
        due = [job.due_at for job in self._waiting()]
        return Stats(
            store_id=self._id, **status, paused=sum(job.paused and not job.status.terminal for job in jobs),
            due=sum(at is not None and at <= now for at in due), oldest_due=due[0] if due else None,
            owners=len(self._owners), runs=len(self._runs), by_handler=by_handler,
        )  # fmt: skip

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        if purge.job_id is not None:
            old = self._keys_of(purge.job_id)[purge.history :]
            for key in old:
                del self._runs[key]
            return len(old)
        ended = [job for job in self._jobs.values() if job.status.terminal and purge.status in (None, job.status)]
        ended.sort(key=lambda job: job.handled_time or job.created_at)
        if purge.keep is not None:
            ended = ended[: max(len(ended) - purge.keep, 0)]
        if purge.before is not None:
            ended = [job for job in ended if job.handled_time is not None and job.handled_time < purge.before]
        for job in ended[: purge.limit]:
            del self._jobs[job.id]
            for key in self._keys_of(job.id):
                del self._runs[key]
        return len(ended[: purge.limit])


def _ready(job: JobInfo) -> bool:
    return job.status is JobStatus.SCHEDULED and (not job.paused or job.manual)


def _due(job: JobInfo) -> datetime:
    return job.due_at or datetime.min.replace(tzinfo=UTC)


def _completed(run: JobRun) -> bool:
    return run.outcome is RunOutcome.COMPLETED


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _terms(query: Query) -> list[Callable[[JobInfo], object]]:
    q = query
    terms: list[tuple[object, Callable[[JobInfo], object]]] = [
        (q.ids is not None, lambda job: job.id in (q.ids or ())),
        (q.job_name is not None, lambda job: job.job_name == q.job_name),
        (q.handler_name is not None, lambda job: job.handler_name == q.handler_name),
        (q.status is not None, lambda job: job.status in (q.status or ())),
        (q.owner is not None, lambda job: job.status is JobStatus.RUNNING and job.owner == q.owner),
        (q.due_before is not None, lambda job: _ready(job) and q.due_before and _due(job) <= q.due_before),
        (q.created_after is not None, lambda job: q.created_after and job.created_at > q.created_after),
        (q.created_before is not None, lambda job: q.created_before and job.created_at < q.created_before),
        (q.unarmed, lambda job: _ready(job) and job.armed_seq != job.seq),
        (
            q.begun_after is not None,
            lambda job: job.status is JobStatus.SCHEDULED and job.attempt > 0
            and job.handled_time and q.begun_after and job.handled_time > q.begun_after,
        ),
        (
            q.metadata is not None,
            lambda job: all(
                key in job.extra_properties and _same(job.extra_properties[key], value)
                for key, value in (q.metadata or {}).items()
            ),
        ),
    ]  # fmt: skip
    return [holds for asked, holds in terms if asked]
