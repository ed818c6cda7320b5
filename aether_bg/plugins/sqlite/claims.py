"""Claims and the life of owners, inside the open transaction (docs/protocol.md, C1, C7, P1 to P4, R3)."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
from datetime import datetime
from typing import Any, Final, NamedTuple

import attrs

from aether_bg.model import Claim, Heartbeat, JobInfo, Unreadable
from aether_bg.plugins.sqlite.choosing import Choice
from aether_bg.plugins.sqlite.columns import from_json, mapping, to_json, to_mapping, to_time
from aether_bg.plugins.sqlite.quarantine import isolate
from aether_bg.plugins.sqlite.reading import any_text, rows
from aether_bg.plugins.sqlite.rows import FIRST_AS_JSON, IS_FIRST, JOBS_AS_JSON, read_first, read_job, read_jobs
from aether_bg.plugins.sqlite.schema import READY, SUSPECT

ALIVE: Final = f"""
SELECT (SELECT json_group_array(name) FROM main.aether_handlers),
    EXISTS (SELECT 1 FROM main.aether_jobs WHERE {READY} AND {SUSPECT})
FROM main.aether_owners WHERE id = ?
"""
"""Nothing if the owner is not registered; otherwise the handlers that are paused, and whether there are suspects."""
TAKE: Final = """
UPDATE main.aether_jobs SET status = 1, seq = seq + 1, attempt = attempt + 1, manual = 0, owner = :owner,
    started_at = :now, modified_at = :now, progress = NULL
WHERE rowid IN (SELECT value FROM json_each(:rows))
"""
BEGIN_RUNS: Final = """
INSERT INTO main.aether_runs (job_id, token, gap, attempt, occurrence, started_at, owner, count)
SELECT id, seq, 0, attempt, occurrence, :now, owner, 1 FROM main.aether_jobs
WHERE rowid IN (SELECT value FROM json_each(:rows))
"""
_THESE, _THIS = "rowid IN (SELECT value FROM json_each(:rows))", "rowid = :row"
BEGIN_RUN_OF: Final = BEGIN_RUNS.replace(_THESE, "id = ?").replace(":now", "started_at")
TAKEN: Final = f"SELECT {JOBS_AS_JSON} FROM main.aether_jobs WHERE {_THESE}"
TAKEN_FIRST: Final = f"SELECT {FIRST_AS_JSON}, min({IS_FIRST}) FROM main.aether_jobs WHERE {_THESE}"
_OF_MANY: Final = (TAKE, BEGIN_RUNS, TAKEN_FIRST, TAKEN)
_OF_ONE: Final = tuple(statement.replace(_THESE, _THIS) for statement in _OF_MANY)
"""For one row, each in half of the time."""
_INFINITE: Final = re.compile(r"[\[,]-?Inf[,\]]")
"""What may be an infinite number of a row that is not ours, as SQLite before 3.42 writes it: that is no JSON."""


class Taken(NamedTuple):
    """The rows of a claim as JSON, to be read off the writer. `first`: all of them are first attempts."""

    rows: str = "[]"
    first: bool = False

    def read(self, wanted: Claim) -> list[JobInfo]:
        return read_first(self.rows, wanted.owner, wanted.now) if self.first else read_jobs(self.rows)


def claim(conn: sqlite3.Connection, wanted: Claim) -> tuple[Taken, datetime | None, bool]:
    """The rows taken, and the rest of `Claimed`."""
    owner, now = str(wanted.owner), to_time(wanted.now)
    if (known := conn.execute(ALIVE, [owner]).fetchone()) is None:
        return Taken(), None, False  # docs/protocol.md, P4: the next beat says so
    choice = Choice(conn, wanted, json.loads(known[0]), suspects=known[1] == 1)
    chosen = choice.chosen()
    taken = _take(conn, [row.id for row in chosen], owner, now)
    return taken, *choice.rest(chosen)


def at_once(conn: sqlite3.Connection, wanted: Claim, job: JobInfo) -> JobInfo | None:
    """The row with which `job` begins, read as it will be stored; None if it must wait (docs/protocol.md, C9)."""
    known = conn.execute(ALIVE, [str(wanted.owner)]).fetchone()
    if known is None or job.handler_name in json.loads(known[0]):
        return None
    payload, notes = from_json(to_json(job.payload)), mapping(to_mapping(job.extra_properties))
    return attrs.evolve(wanted.take(job), payload=payload, extra_properties=notes)


def begin_run(conn: sqlite3.Connection, row: JobInfo) -> None:
    conn.execute(BEGIN_RUN_OF, [str(row.id)])


def _take(conn: sqlite3.Connection, found: list[int], owner: str, now: str | None) -> Taken:
    if not found:
        return Taken()
    one = len(found) == 1
    values: dict[str, Any] = {"owner": owner, "now": now}
    values |= {"row": found[0]} if one else {"rows": json.dumps(found)}
    take, begin_runs, taken_first, taken = _OF_ONE if one else _OF_MANY
    conn.execute(take, values)
    conn.execute(begin_runs, values)
    rows, first = conn.execute(taken_first, values).fetchone()
    if not first:
        (rows,) = conn.execute(taken, values).fetchone()
    if "Inf" in rows and _INFINITE.search(rows):
        try:
            json.loads(rows)
        except ValueError:
            raise sqlite3.DataError("a row has an infinite number") from None  # now, so that the claim is undone
    return Taken(rows, bool(first))


def claim_one_by_one(conn: sqlite3.Connection, wanted: Claim) -> tuple[list[JobInfo], list[str]]:
    """The same if `claim` failed because of a row: the jobs taken, and what to report about rows set aside."""
    owner, now = str(wanted.owner), to_time(wanted.now)
    taken, told = list[JobInfo](), list[str]()
    take, begin_run, *_ = _OF_ONE
    with any_text(conn):
        if (known := conn.execute(ALIVE, [owner]).fetchone()) is None:
            return [], []
        for row_id in [
            row.id for row in Choice(conn, wanted, json.loads(known[0]), suspects=known[1] == 1, odd=True).chosen()
        ]:
            conn.execute("SAVEPOINT job")
            try:
                for statement in (take, begin_run):
                    conn.execute(statement, {"row": row_id, "owner": owner, "now": now})
                reason = ""
            except (sqlite3.IntegrityError, sqlite3.OperationalError, sqlite3.DataError) as error:
                if not conn.in_transaction:
                    raise
                conn.execute("ROLLBACK TO job")
                reason = f"it cannot be claimed: {error}"
            for row in rows(conn, "FROM main.aether_jobs WHERE rowid = ?", [row_id]):
                job = read_job(row)
                if reason or isinstance(job, Unreadable):
                    told += isolate(conn, [job], now, reason)
                else:
                    taken.append(job)
            conn.execute("RELEASE job")
    return taken, told


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
    """Deletes owner rows. Jobs that they still hold keep their owner's id and are found by it."""
    conn.execute("DELETE FROM main.aether_owners WHERE id IN (SELECT value FROM json_each(?))", [json.dumps(owners)])
