"""Reads, each over one snapshot: queries, history, counts, who is alive."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any
from uuid import UUID

import attrs

from aether_bg import JobInfo, JobRun, JobStatus
from aether_bg.model import Alive, FailureGroup, Failures, Heartbeat, Query, Ran, Runs, Stats

from . import layout
from .rows import Rows


def find(rows: Rows, query: Query) -> list[JobInfo]:
    if query.order in ("newest", "ended"):  # for people: all that match are read, and sorted by the query itself
        known = attrs.evolve(query, order="created", after=None)
        found = (job for job in map(rows.job, _candidates(rows, known)) if job is not None)
        last = rows.job(query.after) if query.after is not None else None
        return query.select({job.id: job for job in (*found, *([last] if last else []))}.values())
    held = rows.held()
    jobs = (job.under(held) for job in map(rows.job, _candidates(rows, query)) if job is not None)
    if query.children_of is not None:
        children = set(rows.children(query.children_of))
        jobs = (job for job in jobs if job.id in children)
    return list(islice((job for job in jobs if query.matches(job)), query.limit))


def _candidates(rows: Rows, query: Query) -> Iterator[UUID]:
    """Ids in the requested order, beyond `after`: by the index that leaves the fewest rows to read."""
    after = query.after.bytes if query.after is not None else b""
    if query.parents_of is not None:
        parents = rows.parents(query.parents_of)
        return iter(parents[parents.index(query.after) + 1 :] if query.after in parents else parents)
    if query.job_name is not None:
        return _named(rows, query.job_name, query.after)
    if query.holders is not None and query.order == "created":
        holders = (rows.holder(name) for name in set(query.holders))
        return iter(sorted(job.id for job in holders if job is not None and job.id.bytes > after))
    if query.order == "due":
        last = rows.job(query.after) if query.after is not None else None
        if query.after is not None and last is None:
            return iter(())
        start = layout.DUE + layout.instant(last.due_at) + after if last is not None else b""
        return (UUID(bytes=key[-layout.ID :]) for key, _ in rows.index(layout.DUE, start))
    if query.children_of is not None:
        return iter(sorted(child for child in rows.children(query.children_of) if child.bytes > after))
    if query.ids is not None:
        return iter(sorted(job_id for job_id in set(query.ids) if job_id.bytes > after))
    waiting = query.unarmed or query.due_before is not None or query.changed_after is not None or query.zoned
    status = (JobStatus.SCHEDULED,) if waiting else query.status
    if query.unarmed:
        prefixes = [layout.UNARMED]
    elif query.owner is not None:
        prefixes = [layout.HELD + query.owner.bytes]
    elif query.handler_name is not None:
        handler = layout.HANDLER + layout.digest(query.handler_name)
        prefixes = [handler + layout.flag(one) for one in status or JobStatus]
    elif status is not None:
        prefixes = [layout.STATUS + layout.flag(one) for one in status]
    else:
        return (UUID(bytes=key) for key, _ in rows.every_job(after))
    scans = (rows.index(prefix, prefix + after) for prefix in prefixes)
    return (UUID(bytes=row) for row in heapq.merge(*map(_ids, scans)))


def _ids(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    return (key[-layout.ID :] for key, _ in entries)


def _named(rows: Rows, name: str, after: UUID | None) -> Iterator[UUID]:
    """The holder of the name, then the newest that had it."""
    holder = rows.holder(name)
    had = sorted((UUID(bytes=row) for row in _ids(rows.index(layout.NAME + layout.digest(name)))), reverse=True)
    if holder is not None:
        had.remove(holder.id)
        had.insert(0, holder.id)
    if after is not None:
        had = had[had.index(after) + 1 :] if after in had else []
    return iter(had)


def history(rows: Rows, job_id: UUID, limit: int) -> list[JobRun]:
    return [layout.unpack_run(value) for _, value in islice(rows.runs(job_id), limit)]


def runs(rows: Rows, query: Runs) -> list[Ran]:
    every = (layout.unpack_run(value) for _, value in rows.every_run())
    return query.select(Ran.of(run, job) for run in every if (job := rows.job(run.job_id)) is not None)


def failures(rows: Rows, query: Failures) -> list[FailureGroup]:
    return query.select(rows.jobs(rows.index(layout.ENDED + layout.flag(JobStatus.FAILED))))


def stats(rows: Rows) -> Stats:
    by_handler = dict[str, Counter[str]]()
    status_at = len(layout.HANDLER) + layout.ID
    for key, handler in rows.index(layout.HANDLER):
        by_handler.setdefault(handler.decode(), Counter())[JobStatus(key[status_at]).name.lower()] += 1
    now = layout.instant(datetime.now(UTC))
    held = rows.held()
    waiting = [
        key[-layout.ID - 8 : -layout.ID]
        for key, handler in rows.index(layout.READY)
        if layout.triggered(key) or handler.decode() not in held
    ]
    total: dict[str, Any] = sum(by_handler.values(), Counter[str]())
    return Stats(
        store_id=rows.tables.store_id,
        **total,
        paused=sum(1 for _ in rows.index(layout.PAUSED)),
        due=sum(due <= now for due in waiting),
        oldest_due=layout.datetime_of(min(waiting)) if waiting else None,
        owners=len(rows.owners()),
        runs=rows.txn.stat(rows.tables.runs)["entries"],
        size=size(rows),
        by_handler=by_handler,
        paused_handlers=tuple(sorted(held)),
    )


def size(rows: Rows) -> int:
    """Bytes of the pages in use."""
    return rows.tables.env.stat()["psize"] * (rows.tables.env.info()["last_pgno"] + 1)


def alive(rows: Rows, beat: Heartbeat, proven: set[UUID]) -> Alive:
    """`proven`: the registered owners whose lock is free."""
    owners = rows.owners()
    held, earliest = rows.held(), (next(rows.index(lane)) for lane in rows.lanes(layout.READY))
    jobs = chain(rows.jobs(rows.index(layout.HELD)), (job.under(held) for job in rows.jobs(earliest)))
    found = Alive.of(beat, rows.tables.store_id, owners, jobs, proven & owners.keys())
    return attrs.evolve(found, size=size(rows)) if beat.join else found
