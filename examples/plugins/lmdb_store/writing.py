"""What changes rows, each inside one transaction: writes, claims, purges, owners."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice
from uuid import UUID

from aether_bg import JobInfo, JobRun, JobStatus, NameHeld, RunOutcome, Stale, StoreRefused, Unsupported
from aether_bg.model import Change, Claim, Claimed, Heartbeat, Insert, Purge, Update, Write, begun_run

from . import layout
from .rows import Rows

ENDED = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


def transact(rows: Rows, writes: Sequence[Write]) -> list[object]:
    for write in writes:
        match write:
            case Insert(job):
                _add(rows, job)
            case Update(change):
                _save(rows, change)
            case _:
                raise Unsupported("LMDBStore", "it has no SQL", "Use SQLiteStore for a unit of work with SQL.")
    return [None] * len(writes)


def _add(rows: Rows, job: JobInfo) -> None:
    if rows.job(job.id) is not None:
        raise StoreRefused(f"job {job.id}", "there is a job of this id already")
    if job.holds_name:
        _check_free(rows, job.job_name)
    rows.put_job(job)


def _save(rows: Rows, change: Change) -> None:
    job = rows.job(change.job_id)
    if job is None or not change.guards(job):
        raise Stale(change.job_id, job)
    if change.holds_name and not job.holds_name:
        _check_free(rows, job.job_name)
    rows.put_job(change.applied_to(job), job)
    for run in change.runs:
        _check_once(rows, run)
        rows.put_run(run)


def _check_free(rows: Rows, name: str) -> None:
    if holder := rows.holder(name):
        raise NameHeld(name, holder)


def _check_once(rows: Rows, run: JobRun) -> None:
    """No second Completed for one occurrence (docs/protocol.md, C6)."""
    for key, token in layout.run_entries(run).items():
        done = rows.txn.get(key, db=rows.tables.index)
        if run.outcome is RunOutcome.COMPLETED and done is not None and done != token:
            raise StoreRefused(f"job {run.job_id}", f"its occurrence {run.occurrence} has completed already")


def claim(rows: Rows, claim: Claim) -> Claimed:
    """Find and take in one transaction: of two that want a row, one sees it taken."""
    if rows.owner(claim.owner) is None:
        return Claimed()  # the next heartbeat says so (docs/protocol.md, P4)
    if claim.job_id is not None:
        return _claim_one(rows, claim, claim.job_id)
    groups = [layout.group(name, suspect) for name in claim.handlers for suspect in (False, True)[: 1 + claim.suspect]]
    start = len(layout.READY) + layout.ID + 1
    waiting = heapq.merge(*(rows.index(group) for group in groups), key=lambda entry: entry[0][start:])
    found, now, next_due, suspects = list[UUID](), layout.instant(claim.now), None, 0
    for key, _ in waiting:
        suspect, due = key[start - 1], key[start : start + 8]
        if suspect and suspects:
            continue  # one at a time, so that a poison job takes no other with it (docs/protocol.md, R3)
        if claim.unreadable and _schedule(rows.job(UUID(bytes=key[-layout.ID :]))) in claim.unreadable:
            continue  # for a process that can read it (docs/protocol.md, C8)
        if due > now or len(found) == claim.limit:
            next_due = layout.datetime_of(due)
            break
        suspects += suspect
        found.append(UUID(bytes=key[-layout.ID :]))
    jobs = [job for job in map(rows.job, found) if job is not None]
    return Claimed(jobs=tuple(_take(rows, claim, job) for job in jobs), next_due=next_due)


def _schedule(job: JobInfo | None) -> tuple[str, str | None] | None:
    return None if job is None else (job.expression_value, job.timezone)


def _claim_one(rows: Rows, claim: Claim, job_id: UUID) -> Claimed:
    job = rows.job(job_id)
    if job is None or not claim.asks_for(job):
        return Claimed()
    jobs = claim.choose([job])
    return Claimed(jobs=tuple(_take(rows, claim, job) for job in jobs), next_due=None if jobs else job.due_at)


def _take(rows: Rows, claim: Claim, job: JobInfo) -> JobInfo:
    taken = claim.take(job)
    rows.put_job(taken, job)
    rows.put_run(begun_run(taken))
    return taken


def purge(rows: Rows, purge: Purge) -> int:
    if purge.job_id is not None:
        runs = list(rows.runs(purge.job_id))
        old = purge.beyond(layout.unpack_run(value).outcome for _, value in runs)
        for place in old:
            rows.delete_run(*runs[place])
        return len(old)
    prefixes = [layout.ENDED + layout.flag(status) for status in ENDED if purge.status in (None, status)]
    most = None if purge.keep is None else max(0, sum(1 for p in prefixes for _ in rows.index(p)) - purge.keep)
    oldest = heapq.merge(*(rows.index(prefix) for prefix in prefixes), key=lambda entry: entry[0][2:])
    gone = list[UUID]()
    for key, _ in islice(oldest, most):
        if len(gone) == purge.limit or (purge.before is not None and key[2:10] >= layout.instant(purge.before)):
            break
        gone.append(UUID(bytes=key[-layout.ID :]))
    for job in map(rows.job, gone):
        if job is not None:
            rows.delete_job(job)
    return len(gone)


def register(rows: Rows, beat: Heartbeat) -> None:
    """Who joins, stops, leaves, or has been recovered."""
    if beat.join:
        rows.put_owner(beat.owner, 0, list(beat.handlers))
    if beat.stopping and (found := rows.owner(beat.owner)):
        rows.put_owner(beat.owner, *found[:2], stopping=True)
    for gone in (*beat.recovered, *([beat.owner] if beat.leave else [])):
        rows.delete_owner(gone)
