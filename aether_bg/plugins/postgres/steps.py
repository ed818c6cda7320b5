"""Writes one after another, in an open transaction: where names change hands and jobs wait for others (A, N10)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import psycopg

from aether_bg.errors import JobNotFound, NameHeld, StoreContended
from aether_bg.model import Completion, Insert, JobInfo, Settled, Update, Write
from aether_bg.plugins.postgres import links, trouble
from aether_bg.plugins.postgres.changes import HOLDERS, INSERT_IF_FREE, one, refusal, update
from aether_bg.plugins.postgres.columns import write_jobs
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.prepared import fetch
from aether_bg.plugins.postgres.rows import read_job
from aether_bg.plugins.postgres.schema import Schema

GIVE_WAY: Final = "UPDATE {schema}.jobs SET holds_name = false, schedule_rev = schedule_rev + 1 WHERE id = %s"
_TRIES: Final = 10


def transact(conn: Connection, schema: Schema, writes: Sequence[Write]) -> list[object]:
    """All of `writes` or none, in order."""
    try:
        with conn.transaction():
            return carry_out(conn, schema, writes)
    except psycopg.Error as error:
        if conn.closed or trouble.is_lost(error):
            raise
        raise refusal(conn, schema, writes, error) or error from error


def carry_out(conn: Connection, schema: Schema, writes: Sequence[Write]) -> list[object]:
    """In an open transaction; one answer for each. The first of a kind also has the children that were settled."""
    results: list[object] = []
    for kind, group in groupby(writes, type):
        some: list[Any] = list(group)
        settled: list[Settled] = []
        if kind is Update:
            settled = _update(conn, schema, some)
        elif kind is Insert:
            settled = insert(conn, schema, some)
        else:
            for write in some:
                one(conn, schema, write)
        results += [tuple(settled) or None, *[None] * (len(some) - 1)]
    return results


def _update(conn: Connection, schema: Schema, writes: list[Update]) -> list[Settled]:
    changes = [write.change for write in writes]
    update(conn, schema, changes, alone=False)
    again = [change for change in changes if type(change) is not Completion and change.rejoins]
    settled = [told for change in again for told in links.rejoin(conn, schema, change)]
    return settled + links.settle(conn, schema, [change for change in changes if change.status.terminal])


def insert(conn: Connection, schema: Schema, inserts: list[Insert]) -> list[Settled]:
    """Raises `NameHeld` and `JobNotFound`, after which the transaction can go on."""
    settled: list[Settled | None] = []
    if not any(write.after for write in inserts):
        _insert(conn, schema, [write.job for write in inserts])
        return []
    for write in inserts:  # one by one: a parent may come before its child
        try:
            job = links.place(conn, schema, write) if write.after else write.job
        except JobNotFound:
            _check_name(conn, schema, write.job)
            raise
        if not job.holds_name:  # cancelled at once: it takes its name, and frees it
            _check_name(conn, schema, write.job)
        _insert(conn, schema, [job])
        if write.after:
            settled.append(links.link(conn, schema, job, write.after))
    return [told for told in settled if told is not None]


def _insert(conn: Connection, schema: Schema, jobs: list[JobInfo]) -> None:
    left = sorted(jobs, key=lambda job: job.job_name)
    for _ in range(_TRIES):
        stored = {id_ for (id_,) in fetch(conn, schema(INSERT_IF_FREE), write_jobs(left))}
        left = [job for job in left if job.id not in stored]
        if not left:
            return
        for job in left:
            _check_name(conn, schema, job)
    raise StoreContended("a job name", "others take it again and again", "It can be tried again.")


def _check_name(conn: Connection, schema: Schema, job: JobInfo) -> None:
    """Have the holder give way to `job` (docs/protocol.md, N10). Raises `NameHeld` if it does not."""
    rows = conn.execute(schema(f"{HOLDERS} FOR UPDATE"), [[job.job_name] if job.holds_name else []], binary=True)
    for holder in map(read_job, rows.fetchall()):
        if not holder.gives_way_to(job):
            raise NameHeld(job.job_name, holder)
        conn.execute(schema(GIVE_WAY), [holder.id])
