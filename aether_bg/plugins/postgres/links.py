"""Parents and children inside the open transaction (docs/protocol.md, A1 to A3).

A transaction that links a child to a parent locks the parent's row, and one that ends a parent looks for children after
it has locked that row: so if two do this at once, one sees the other. Children are changed under their row's lock, in
the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from aether_bg.errors import JobNotFound
from aether_bg.model import Change, Insert, JobInfo, JobStatus, Parent, Settled, placed, relieved
from aether_bg.plugins.postgres.columns import (
    JOB_COLUMNS,
    SETTLED_COLUMNS,
    arrays,
    from_text,
    selected,
    uuids,
    write_settled,
)
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.rows import read_job
from aether_bg.plugins.postgres.schema import Schema

HOLD_PARENTS: Final = "SELECT FROM {schema}.jobs WHERE id = ANY(%s::uuid[]) ORDER BY id FOR SHARE"
_PARENT: Final = "SELECT j.id, j.job_name, j.status, j.last_error FROM"
GIVEN: Final = f"""
{_PARENT} unnest(%s::uuid[]) WITH ORDINALITY AS after(id, place) JOIN {{schema}}.jobs AS j ON j.id = after.id
ORDER BY after.place
"""
LINK: Final = """
INSERT INTO {schema}.links (child, place, parent, waiting) SELECT %s, after.place - 1, j.id, j.status < 2
FROM unnest(%s::uuid[]) WITH ORDINALITY AS after(id, place) JOIN {schema}.jobs AS j ON j.id = after.id
"""
OF_CHILD: Final = "SELECT parent FROM {schema}.links WHERE child = %s"
PARENTS: Final = f"""
{_PARENT} {{schema}}.links AS l JOIN {{schema}}.jobs AS j ON j.id = l.parent WHERE l.child = %s ORDER BY l.place
"""
LINK_AGAIN: Final = """
UPDATE {schema}.links SET waiting = coalesce((SELECT status < 2 FROM {schema}.jobs WHERE id = parent), false)
WHERE child = %s
"""
UNLINK: Final = (
    "UPDATE {schema}.links SET waiting = false WHERE waiting AND parent = ANY(%s::uuid[]) RETURNING child, parent"
)
_CHILDREN: Final = f"SELECT {selected(JOB_COLUMNS)} FROM {{schema}}.jobs WHERE id = ANY(%s::uuid[])"
CHILD: Final = f"{_CHILDREN} FOR UPDATE"
WAITING: Final = f"{_CHILDREN} AND status = 0 AND waits_for > 0 ORDER BY id FOR UPDATE"
SETTLE: Final = f"""
UPDATE {{schema}}.jobs AS j SET {", ".join(f"{name} = v.{name}" for name in SETTLED_COLUMNS[1:])}
FROM unnest({arrays(SETTLED_COLUMNS)}) AS v({", ".join(SETTLED_COLUMNS)}) WHERE j.id = v.id
"""
LEFT: Final = """
SELECT DISTINCT l.parent FROM {schema}.links AS l LEFT JOIN {schema}.jobs AS j ON j.id = l.parent
WHERE l.waiting AND coalesce(j.status, 2) > 1 AND NOT EXISTS (
    SELECT FROM {schema}.runs AS r JOIN {schema}.owners AS o ON o.id = r.owner
    WHERE r.job_id = j.id AND r.token = j.seq - 1 AND r.outcome = 'completed'
)
"""
"""Parents that have ended by other means than an Update: rows that were changed by hand, and those whose handler has
committed its outcome itself and whose process has died before it returned. While that lives, its result is to come."""


def place(conn: Connection, schema: Schema, insert: Insert) -> JobInfo:
    """The row to insert. Raises `JobNotFound`."""
    after = uuids(insert.after)
    conn.execute(schema(HOLD_PARENTS), [after])
    parents = _parents(conn, schema, GIVEN, after)
    if len(parents) != len(insert.after):
        missing = next(iter(set(insert.after) - {parent.id for parent in parents}))
        raise JobNotFound(f"job {missing}", "there is no such job to run after", "Was it purged?")
    return placed(insert.job, parents)


def link(conn: Connection, schema: Schema, child: JobInfo, after: Iterable[UUID]) -> Settled | None:
    """After its row is stored."""
    conn.execute(schema(LINK), [child.id, uuids(after)])
    return Settled.of(child)


def rejoin(conn: Connection, schema: Schema, change: Change) -> list[Settled]:
    """A child that was terminal waits for its parents again."""
    child = change.job_id
    conn.execute(schema(HOLD_PARENTS), [uuids(parent for (parent,) in conn.execute(schema(OF_CHILD), [child]))])
    conn.execute(schema(LINK_AGAIN), [child])
    parents = _parents(conn, schema, PARENTS, child)
    rows = conn.execute(schema(CHILD), [uuids([child])], binary=True).fetchall()
    return _write(conn, schema, [placed(read_job(row), parents) for row in rows]) if parents else []


def settle(conn: Connection, schema: Schema, ended: Sequence[Change]) -> list[Settled]:
    """Settles the jobs that wait for these, and those that wait for them in turn."""
    good = {one.job_id: Parent(one.job_id, "", JobStatus.COMPLETED) for one in ended}
    bad = [one.job_id for one in ended if one.status is not JobStatus.COMPLETED]
    if not ended:
        return []
    return _settle_all(conn, schema, good | _named(conn, schema, bad), max(one.modified_at for one in ended))


def settle_left(conn: Connection, schema: Schema, now: datetime) -> list[Settled]:
    """The same for those whose end no Update has written."""
    with conn.transaction():
        left = [parent for (parent,) in conn.execute(schema(LEFT))]
        gone = {parent: Parent(parent, "", JobStatus.COMPLETED) for parent in left}
        return _settle_all(conn, schema, gone | _named(conn, schema, left), now)


def _settle_all(conn: Connection, schema: Schema, ended: dict[UUID, Parent], at: datetime) -> list[Settled]:
    told: list[Settled] = []
    while ended:
        waited: dict[UUID, list[Parent]] = {}
        for child, parent in conn.execute(schema(UNLINK), [uuids(ended)], binary=True):
            waited.setdefault(child, []).append(ended[parent])
        if not waited:
            break
        jobs = map(read_job, conn.execute(schema(WAITING), [uuids(waited)], binary=True).fetchall())
        changed = [relieved(job, waited[job.id], at) for job in jobs]
        told += _write(conn, schema, changed)
        ended = {job.id: Parent.of(job) for job in changed if job.status is JobStatus.CANCELLED}
    return told


def _write(conn: Connection, schema: Schema, jobs: list[JobInfo]) -> list[Settled]:
    if jobs:
        conn.execute(schema(SETTLE), write_settled(jobs))
    return [settled for job in jobs if (settled := Settled.of(job)) is not None]


def _named(conn: Connection, schema: Schema, ids: Sequence[UUID]) -> dict[UUID, Parent]:
    return {parent.id: parent for parent in _parents(conn, schema, GIVEN, uuids(ids))} if ids else {}


def _parents(conn: Connection, schema: Schema, sql: str, about: Any) -> list[Parent]:
    rows = conn.execute(schema(sql), [about], binary=True).fetchall()
    return [
        Parent(id_, name, JobStatus(status), None if error is None else from_text(error))
        for id_, name, status, error in rows
    ]
