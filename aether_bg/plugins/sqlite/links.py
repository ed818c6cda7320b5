"""Parents and children inside the open transaction (docs/protocol.md, A1 to A3)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from aether_bg.errors import JobNotFound
from aether_bg.model import Change, Insert, JobInfo, JobStatus, Parent, Settled, placed, relieved
from aether_bg.plugins.sqlite import reading
from aether_bg.plugins.sqlite.columns import STATUS, to_time, to_uuid
from aether_bg.plugins.sqlite.statements import Statement

ANY_WAITS: Final = "SELECT 1 FROM main.aether_links WHERE waiting = 1 LIMIT 1"
LINK: Final = """
INSERT INTO main.aether_links (child, place, parent, waiting)
SELECT ?, after.key, after.value, jobs.status < 2
FROM json_each(?) AS after JOIN main.aether_jobs AS jobs ON jobs.id = after.value
"""
GIVEN: Final = """
SELECT jobs.id, job_name, status, last_error FROM json_each(?) AS after
JOIN main.aether_jobs AS jobs ON jobs.id = after.value ORDER BY after.key
"""
PARENTS: Final = """
SELECT jobs.id, job_name, status, last_error FROM main.aether_links AS links
JOIN main.aether_jobs AS jobs ON jobs.id = links.parent WHERE links.child = ? ORDER BY links.place
"""
LINK_AGAIN: Final = """
UPDATE main.aether_links SET waiting = coalesce((SELECT status < 2 FROM main.aether_jobs WHERE id = parent), 0)
WHERE child = ?
"""
_SETTLED: Final = "waiting = 1 AND parent IN (SELECT value FROM json_each(?))"
CHILDREN: Final = f"SELECT child, parent FROM main.aether_links WHERE {_SETTLED}"
UNLINK: Final = f"UPDATE main.aether_links SET waiting = 0 WHERE {_SETTLED}"
WAITING: Final = """
FROM main.aether_jobs WHERE id IN (SELECT value FROM json_each(?)) AND status = 0 AND waits_for > 0
"""
_WRITTEN: Final = (
    "status", "seq", "waits_for", "due_at", "holds_name", "manual", "off_schedule", "handled_time", "last_error",
    "modified_at",
)  # fmt: skip
SETTLE: Final = Statement(
    ("id", *_WRITTEN),
    f"UPDATE main.aether_jobs SET {', '.join(f'{name} = {{{name}}}' for name in _WRITTEN)}",
    " WHERE aether_jobs.id = {id}",
)
LEFT: Final = """
SELECT DISTINCT parent FROM main.aether_links
WHERE waiting = 1 AND coalesce((SELECT status FROM main.aether_jobs WHERE id = parent), 2) > 1
"""
"""Parents that have ended by other means than an Update: rows that were set aside, or changed by hand."""


def place(conn: sqlite3.Connection, insert: Insert) -> JobInfo:
    """The row to insert. Raises `JobNotFound`."""
    parents = [_parent(row) for row in conn.execute(GIVEN, [_ids(insert.after)])]
    if len(parents) != len(insert.after):
        missing = next(iter(set(insert.after) - {parent.id for parent in parents}))
        raise JobNotFound(f"job {missing}", "there is no such job to run after", "Was it purged?")
    return placed(insert.job, parents)


def link(conn: sqlite3.Connection, child: JobInfo, after: Iterable[UUID]) -> Settled | None:
    """After its row is stored."""
    conn.execute(LINK, [str(child.id), _ids(after)])
    return Settled.of(child)


def rejoin(conn: sqlite3.Connection, change: Change) -> list[Settled]:
    """A child that was terminal waits for its parents again."""
    child = str(change.job_id)
    conn.execute(LINK_AGAIN, [child])
    parents = [_parent(row) for row in conn.execute(PARENTS, [child])]
    jobs = reading.jobs(conn, "FROM main.aether_jobs WHERE id = ?", [child])
    return _write(conn, [placed(job, parents) for job in jobs]) if parents else []


def settle(conn: sqlite3.Connection, ended: Sequence[Change]) -> list[Settled]:
    """Settles the jobs that wait for these, and those that wait for them in turn."""
    if not ended or conn.execute(ANY_WAITS).fetchone() is None:
        return []
    good = {str(one.job_id) for one in ended if one.status is JobStatus.COMPLETED}
    bad = [one.job_id for one in ended if one.status is not JobStatus.COMPLETED]
    parents = {id_: Parent(UUID(id_), "", JobStatus.COMPLETED) for id_ in good}
    return _settle_all(conn, parents | _named(conn, _ids(bad)), max(one.modified_at for one in ended))


def settle_left(conn: sqlite3.Connection, now: datetime) -> list[Settled]:
    """The same for those whose end no Update has written."""
    left = [id_ for (id_,) in conn.execute(LEFT)]
    gone = {id_: Parent(UUID(int=0), "", JobStatus.COMPLETED) for id_ in left}
    return _settle_all(conn, gone | _named(conn, json.dumps(left)), now)


def _settle_all(conn: sqlite3.Connection, ended: dict[str, Parent], at: datetime) -> list[Settled]:
    told: list[Settled] = []
    while ended:
        ids = json.dumps([*ended])
        waited: dict[str, list[Parent]] = {}
        for child, parent in conn.execute(CHILDREN, [ids]):
            waited.setdefault(child, []).append(ended[parent])
        if not waited:
            break
        conn.execute(UNLINK, [ids])
        jobs = reading.jobs(conn, WAITING, [json.dumps([*waited])])
        changed = [relieved(job, waited[str(job.id)], at) for job in jobs if str(job.id) in waited]
        told += _write(conn, changed)
        ended = {str(job.id): Parent.of(job) for job in changed if job.status is JobStatus.CANCELLED}
    return told


def _write(conn: sqlite3.Connection, jobs: list[JobInfo]) -> list[Settled]:
    rows: list[list[Any]] = [
        [
            str(job.id), int(job.status), job.seq, job.waits_for, to_time(job.due_at), int(job.holds_name),
            int(job.manual), int(job.off_schedule), to_time(job.handled_time), job.last_error, to_time(job.modified_at),
        ]
        for job in jobs
    ]  # fmt: skip
    SETTLE.run(conn, rows)
    return [settled for job in jobs if (settled := Settled.of(job)) is not None]


def _named(conn: sqlite3.Connection, ids: str) -> dict[str, Parent]:
    return {} if ids == "[]" else {row[0]: _parent(row) for row in conn.execute(GIVEN, [ids])}


def _parent(row: tuple[Any, ...]) -> Parent:
    id_, name, status, error = row
    return Parent(to_uuid(id_), str(name), STATUS.get(status, JobStatus.SCHEDULED), error)


def _ids(ids: Iterable[UUID]) -> str:
    return json.dumps([str(id_) for id_ in ids])
