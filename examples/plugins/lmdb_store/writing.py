"""Changes of rows, each inside one transaction: writes, claims, purges, owners."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice, product
from uuid import UUID

import attrs

from aether_bg import JobInfo, JobNotFound, JobRun, JobStatus, NameHeld, Stale, StoreRefused, Unsupported
from aether_bg.model import (
    Change,
    Claim,
    Claimed,
    Heartbeat,
    Hold,
    Insert,
    Note,
    Owner,
    Parent,
    Purge,
    Settled,
    Update,
    Write,
    begun_run,
    placed,
    relieved,
)

from . import layout
from .rows import Rows

ENDED = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


def transact(rows: Rows, writes: Sequence[Write]) -> list[object]:
    results = list[object]()
    for write in writes:
        match write:
            case Insert(job, after):
                results.append(_add(rows, job, after))
            case Update(change):
                results.append(_save(rows, change))
            case Note():
                _note(rows, write)
                results.append(None)
            case Hold(handler=handler, held=held):
                rows.hold(handler, held)
                results.append(None)
            case _:
                raise Unsupported("LMDBStore", "it has no SQL", "Use SQLiteStore for a unit of work with SQL.")
    return results


def _add(rows: Rows, job: JobInfo, after: Sequence[UUID]) -> tuple[Settled, ...] | None:
    if rows.job(job.id) is not None:
        raise StoreRefused(f"job {job.id}", "there is a job of this id already")
    if job.holds_name:
        _check_free(rows, job)
    rows.put_job(job)
    rows.link(job.id, after)
    return _place(rows, job, after) if after else None


def _place(rows: Rows, child: JobInfo, after: Sequence[UUID]) -> tuple[Settled, ...] | None:
    """It begins to wait for its parents (docs/protocol.md, A1)."""
    parents = {id_: job for id_ in after if (job := rows.job(id_)) is not None}
    if missing := [id_ for id_ in after if id_ not in parents]:
        raise JobNotFound(f"job {missing[0]}", "there is no such job to run after", "Was it purged?")
    for id_, parent in parents.items():
        if not parent.status.terminal:
            rows.await_end(child.id, id_)
    placed_child = placed(child, map(Parent.of, parents.values()))
    rows.put_job(placed_child, child)
    settled = Settled.of(placed_child)
    return None if settled is None else (settled,)


def _settle(rows: Rows, job: JobInfo) -> tuple[Settled, ...] | None:
    """Settles the jobs that wait for its end, and those that wait for them (docs/protocol.md, A2)."""
    told, ended = list[Settled](), [job]
    for parent in ended:
        for child in filter(None, map(rows.job, rows.no_longer_awaited(parent.id))):
            after = relieved(child, [Parent.of(parent)], job.modified_at)
            rows.put_job(after, child)
            if after is not child and (settled := Settled.of(after)) is not None:
                told.append(settled)
                ended += [after] if after.status.terminal else []
    return tuple(told) or None


def _save(rows: Rows, change: Change) -> tuple[Settled, ...] | None:
    job = rows.job(change.job_id)
    if job is None or not change.guards(job):
        raise Stale(change.job_id, job)
    if change.holds_name and not job.holds_name:
        _check_free(rows, job)
    new = change.applied_to(job)
    rows.put_job(new, job)
    for run in change.runs:
        _check_once(rows, run)
        rows.put_run(run)
    if change.rejoins:
        return _place(rows, new, [id_ for id_ in rows.parents(new.id) if rows.job(id_) is not None])
    return _settle(rows, new) if new.status.terminal else None


def _note(rows: Rows, note: Note) -> None:
    job = rows.job(note.job_id)
    if job is None or not note.guards(job):
        raise Stale(note.job_id, job)
    rows.put_job(note.applied_to(job), job)


def _check_free(rows: Rows, job: JobInfo) -> None:
    """A holder whose window has passed gives way (docs/protocol.md, N10)."""
    if holder := rows.holder(job.job_name):
        if not holder.gives_way_to(job):
            raise NameHeld(job.job_name, holder)
        rows.put_job(attrs.evolve(holder, holds_name=False, schedule_rev=holder.schedule_rev + 1), holder)


def _check_once(rows: Rows, run: JobRun) -> None:
    """No second Completed for one occurrence (docs/protocol.md, C6)."""
    for key, token in layout.run_entries(run).items():
        if rows.txn.get(key, default=token, db=rows.tables.index) != token:
            raise StoreRefused(f"job {run.job_id}", f"its occurrence {run.occurrence} has completed already")


def claim(rows: Rows, claim: Claim) -> Claimed:
    """Finds and takes in one transaction: if two want a row, the second one sees it taken."""
    if rows.owner(claim.owner) is None:
        return Claimed()  # the next heartbeat says so (docs/protocol.md, P4)
    jobs = {job.id: job for job in _candidates(rows, claim)}
    taken = [claim.take(job) for job in claim.choose(jobs.values())]
    for job in taken:
        rows.put_job(job, jobs[job.id])
        rows.put_run(begun_run(job))
        jobs[job.id] = job
    return claim.answer(taken, jobs.values())


def _candidates(rows: Rows, claim: Claim) -> Iterator[JobInfo]:
    """The running rows, and the earliest of each handler and priority: enough to fill the claim and to say what comes
    next."""
    held = rows.held()
    if claim.limits:
        yield from rows.jobs(rows.index(layout.HELD))
    if claim.job_id is not None:
        if job := rows.job(claim.job_id):
            yield job.under(held)
        return
    for name in claim.handlers:
        for suspect, manual in product((False, True)[: 1 + claim.suspect], (False, True)):
            if name in held and not manual:
                continue
            for lane in rows.lanes(layout.group(name, suspect, manual)):
                jobs = (job.under(held) for job in rows.jobs(rows.index(lane)))
                yield from islice(filter(claim.asks_for, jobs), claim.limit + 1)


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
        if not _needed(rows, job_id := UUID(bytes=key[-layout.ID :])):
            gone.append(job_id)
    for job in map(rows.job, gone):
        if job is not None:
            rows.delete_job(job)
    return len(gone)


def _needed(rows: Rows, job_id: UUID) -> bool:
    """A job that has not ended runs after it (docs/protocol.md, A4)."""
    return any(not child.status.terminal for child in filter(None, map(rows.job, rows.children(job_id))))


def register(rows: Rows, beat: Heartbeat) -> None:
    """Applies a beat: the owner joins, stops or leaves; recovered owners are removed."""
    if beat.join:
        rows.put_owner(beat.owner, Owner(0, beat.handlers, declares=beat.declares))
    if beat.stopping and (owner := rows.owner(beat.owner)):
        rows.put_owner(beat.owner, attrs.evolve(owner, stopping=True))
    for gone in (*beat.recovered, *([beat.owner] if beat.leave else [])):
        rows.delete_owner(gone)
