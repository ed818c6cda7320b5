"""Claims and the life of owners, inside the open transaction (docs/protocol.md, C1, C7, P1 to P4, R3)."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from datetime import datetime
from functools import cache
from typing import Any, Final

from aether_bg.model import Claim, Heartbeat, JobInfo, Unreadable
from aether_bg.plugins.sqlite.columns import readable_time, to_time
from aether_bg.plugins.sqlite.quarantine import isolate
from aether_bg.plugins.sqlite.reading import any_text, rows
from aether_bg.plugins.sqlite.rows import JOBS_AS_JSON, read_job
from aether_bg.plugins.sqlite.schema import READY, SUSPECT

_MOST_HANDLERS: Final = 50
"""Handlers served by one claim, those with the earliest due rows first: bounds the length of the statement."""

READABLE: Final = (
    "AND expression_value || char(10) || coalesce(timezone, '') NOT IN (SELECT value FROM json_each(:unreadable))"
)
"""Part of the statements below only while this process knows schedules that it cannot read (docs/protocol.md, C8)."""
NEXT_DUE: Final = f"""
SELECT h.value AS handler, (
    SELECT due_at FROM main.aether_jobs WHERE {READY} AND handler_name = h.value
    AND (NOT {SUSPECT} OR :suspect) {{readable}} AND due_at > '' AND due_at < x'' ORDER BY due_at LIMIT 1
) AS due FROM json_each(:handlers) AS h WHERE due IS NOT NULL ORDER BY due
"""
ONE_SUSPECT: Final = f"""
SELECT id FROM main.aether_jobs WHERE {READY} AND {SUSPECT} AND due_at <= :now {{readable}}
AND handler_name IN (SELECT value FROM json_each(:handlers)) ORDER BY due_at LIMIT 1
"""
EXACTLY: Final = (
    f"SELECT json_group_array(id) FROM main.aether_jobs WHERE id = ? AND seq = ? AND due_at <= ? AND {READY}"
)
TAKE: Final = """
UPDATE main.aether_jobs SET status = 1, seq = seq + 1, attempt = attempt + 1, manual = 0, owner = :owner,
    started_at = :now, modified_at = :now, progress = NULL
WHERE id IN (SELECT value FROM json_each(:ids))
"""
BEGIN_RUNS: Final = """
INSERT INTO main.aether_runs (job_id, token, gap, attempt, occurrence, started_at, owner, count)
SELECT id, seq, 0, attempt, occurrence, :now, owner, 1 FROM main.aether_jobs
WHERE id IN (SELECT value FROM json_each(:ids))
"""
_THESE, _THIS = "id IN (SELECT value FROM json_each(:ids))", "id IS :id"
TAKE_ONE, BEGIN_RUN = TAKE.replace(_THESE, _THIS), BEGIN_RUNS.replace(_THESE, _THIS)
TAKEN: Final = f"SELECT {JOBS_AS_JSON} FROM main.aether_jobs WHERE id IN (SELECT value FROM json_each(:ids))"


def claim(conn: sqlite3.Connection, wanted: Claim) -> tuple[str, datetime | None]:
    """The rows taken, as JSON (parsed by the caller, off the writer), and the next due instant."""
    owner, now = str(wanted.owner), to_time(wanted.now)
    if conn.execute("SELECT 1 FROM main.aether_owners WHERE id = ?", [owner]).fetchone() is None:
        return "[]", None  # docs/protocol.md, P4: the next beat says so
    if wanted.job_id is not None:
        ids = conn.execute(EXACTLY, [str(wanted.job_id), wanted.seq, now]).fetchone()[0]
        return _take(conn, ids, owner, now), None
    readable, given = _given(wanted, now)
    next_due = NEXT_DUE.format(readable=readable)
    waiting = conn.execute(next_due, given).fetchall()
    due = [handler for handler, at in waiting if at <= now][:_MOST_HANDLERS]
    if not due or wanted.limit < 1:
        return "[]", readable_time(waiting[0][1]) if waiting else None
    pick = {f"handler{number}": handler for number, handler in enumerate(due)}
    ids = conn.execute(_earliest(len(due), readable), {**given, **pick, "limit": wanted.limit}).fetchone()[0]
    suspect = None
    if wanted.suspect:
        suspect = conn.execute(ONE_SUSPECT.format(readable=readable), given | {"handlers": json.dumps(due)}).fetchone()
    if suspect:
        ids = json.dumps([suspect[0], *json.loads(ids)][: wanted.limit])
    taken = _take(conn, ids, owner, now)
    rest = conn.execute(next_due, given | {"suspect": wanted.suspect and not suspect}).fetchone()
    return taken, readable_time(rest[1]) if rest else None


def _given(wanted: Claim, now: str | None) -> tuple[str, dict[str, Any]]:
    """The part of the statements for schedules that cannot be read, and what all of them are given."""
    given: dict[str, Any] = {"now": now, "suspect": wanted.suspect, "handlers": json.dumps(wanted.handlers)}
    given["unreadable"] = json.dumps([f"{text}\n{zone or ''}" for text, zone in wanted.unreadable])
    return READABLE if wanted.unreadable else "", given


def _take(conn: sqlite3.Connection, ids: str, owner: str, now: str | None) -> str:
    if ids == "[]":
        return ids
    values = {"ids": ids, "owner": owner, "now": now}
    conn.execute(TAKE, values)
    conn.execute(BEGIN_RUNS, values)
    taken: str = conn.execute(TAKEN, values).fetchone()[0]
    return taken


def claim_one_by_one(conn: sqlite3.Connection, wanted: Claim) -> tuple[list[JobInfo], list[str]]:
    """The same where `claim` failed for what is in some row: the jobs taken, and what to report of rows set aside."""
    owner, now = str(wanted.owner), to_time(wanted.now)
    if conn.execute("SELECT 1 FROM main.aether_owners WHERE id = ?", [owner]).fetchone() is None:
        return [], []
    taken, told = list[JobInfo](), list[str]()
    with any_text(conn):
        for id_ in _due_ids(conn, wanted, now):
            conn.execute("SAVEPOINT job")
            try:
                for statement in (TAKE_ONE, BEGIN_RUN):
                    conn.execute(statement, {"id": id_, "owner": owner, "now": now})
                reason = ""
            except (sqlite3.IntegrityError, sqlite3.OperationalError, sqlite3.DataError) as error:
                if not conn.in_transaction:
                    raise
                conn.execute("ROLLBACK TO job")
                reason = f"it cannot be claimed: {error}"
            for row in rows(conn, "FROM main.aether_jobs WHERE id IS ?", [id_]):
                job = read_job(row)
                if reason or isinstance(job, Unreadable):
                    told += isolate(conn, [job], now, reason)
                else:
                    taken.append(job)
            conn.execute("RELEASE job")
    return taken, told


def _due_ids(conn: sqlite3.Connection, wanted: Claim, now: str | None) -> list[Any]:
    if wanted.job_id is not None:
        sql = f"SELECT id FROM main.aether_jobs WHERE id = ? AND seq IS ? AND due_at <= ? AND {READY}"
        return [id_ for (id_,) in conn.execute(sql, [str(wanted.job_id), wanted.seq, now])]
    readable, given = _given(wanted, now)
    due: list[tuple[str, Any]] = []
    for handler in wanted.handlers:
        sql = (
            f"SELECT due_at, id FROM main.aether_jobs WHERE {READY} AND handler_name = :handler AND due_at <= :now "
            f"AND NOT {SUSPECT} {readable} ORDER BY due_at LIMIT :limit"
        )
        due += conn.execute(sql, given | {"handler": handler, "limit": wanted.limit})
    found = [id_ for _, id_ in sorted(due, key=lambda one: one[0])]
    if wanted.suspect:
        found = [*(id_ for (id_,) in conn.execute(ONE_SUSPECT.format(readable=readable), given)), *found]
    return found[: wanted.limit]


@cache
def _earliest(handlers: int, readable: str) -> str:
    """The earliest due rows of this many handlers, each read in the order of its index."""
    each = [
        f"SELECT * FROM (SELECT id, due_at FROM main.aether_jobs WHERE {READY} AND handler_name = :handler{number} "
        f"AND due_at <= :now AND NOT {SUSPECT} {readable} ORDER BY due_at LIMIT :limit)"
        for number in range(handlers)
    ]
    earliest = f"SELECT id FROM ({' UNION ALL '.join(each)}) ORDER BY due_at LIMIT :limit"
    return f"SELECT json_group_array(id) FROM ({earliest})"


def join(conn: sqlite3.Connection, beat: Heartbeat) -> None:
    now = to_time(beat.now)
    conn.execute(
        "INSERT INTO main.aether_owners "
        "(id, host, pid, started_at, beat, beat_at, handlers, problems, declares, limits) "
        "VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        [
            str(beat.owner),
            socket.gethostname(),
            os.getpid(),
            now,
            now,
            json.dumps(beat.handlers),
            _told(beat),
            json.dumps(beat.declares),
            json.dumps(dict(beat.limits)),
        ],
    )


def tell(conn: sqlite3.Connection, beat: Heartbeat) -> None:
    conn.execute("UPDATE main.aether_owners SET problems = ? WHERE id = ?", [_told(beat), str(beat.owner)])


def _told(beat: Heartbeat) -> str:
    return json.dumps(beat.problems)


def renew(conn: sqlite3.Connection, owner: str, now: str | None, *, stopping: bool = False) -> bool:
    """False when the owner's row is gone: another process declared this one dead (docs/protocol.md, P4)."""
    sql = "UPDATE main.aether_owners SET beat = beat + 1, beat_at = ?, stopping = max(stopping, ?) WHERE id = ?"
    return conn.execute(sql, [now, stopping, owner]).rowcount == 1


def announce_stop(conn: sqlite3.Connection, owner: str) -> None:
    conn.execute("UPDATE main.aether_owners SET stopping = 1 WHERE id = ?", [owner])


def forget(conn: sqlite3.Connection, owners: list[str]) -> None:
    """Delete owner rows. Rows of jobs they still hold keep their owner's id and are found by it."""
    conn.execute("DELETE FROM main.aether_owners WHERE id IN (SELECT value FROM json_each(?))", [json.dumps(owners)])
