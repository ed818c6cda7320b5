"""Rows that cannot be read or claimed: FAILED with the reason, so that the other rows run.

Their payload and schedule stay as they are stored. `delete` and `purge` remove them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aether_bg.errors import shown
from aether_bg.model import JobInfo, Unreadable
from aether_bg.plugins._stored import REMEDY
from aether_bg.plugins.sqlite.changes import sweep
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS, STATE_COLUMNS, readable_time, write_job
from aether_bg.plugins.sqlite.reading import rows
from aether_bg.plugins.sqlite.rows import QUARANTINED, read_job

_STATE: Final = tuple(name for name in STATE_COLUMNS if name not in ("status", "handled_time", "last_error"))
QUARANTINE: Final = f"""
UPDATE main.aether_jobs SET {", ".join(f"{name} = :{name}" for name in _STATE)}, id = :id, status = 3,
    seq = max(:seq, (SELECT coalesce(max(token), 0) FROM main.aether_runs WHERE job_id = :stored_id)) + 1,
    schedule_rev = :schedule_rev, handled_time = :now, last_error = :error
WHERE id IS :stored_id AND status IS :stored_status AND seq IS :stored_seq
"""
END_RUNS: Final = """
UPDATE main.aether_runs SET outcome = 'failed', finished_at = :now, error = :error WHERE job_id = :stored_id
AND outcome IS NULL
"""
RENAME_RUNS: Final = "UPDATE main.aether_runs SET job_id = :id WHERE job_id = :stored_id"


def needed(job: JobInfo, *, for_work: bool) -> bool:
    """Whether the row itself must be changed: it would come again and again, or no guarded write could change it."""
    if not isinstance(job, Unreadable):
        return False
    stored = job.stored
    guards = (str(job.id), job.status.value, job.seq, job.schedule_rev)
    return for_work or guards != tuple(stored[name] for name in ("id", "status", "seq", "schedule_rev"))


def isolate(conn: sqlite3.Connection, found: Iterable[JobInfo], now: str | None, reason: str = "") -> list[str]:
    """Sets these rows aside, inside the open transaction; returns what to report about them."""
    told = []
    for job in found:
        stored = job.stored if isinstance(job, Unreadable) else dict(zip(JOB_COLUMNS, write_job(job), strict=True))
        error = f"{reason}. {REMEDY}" if reason else str(job.last_error).removeprefix(QUARANTINED)
        values = _values(job, stored) | {"now": now, "error": f"{QUARANTINED}{error}"}
        renamed = values["id"] != values["stored_id"]
        if renamed:
            conn.execute("PRAGMA defer_foreign_keys = ON")  # until the commit
        if conn.execute(QUARANTINE, values).rowcount:
            conn.execute(END_RUNS, values)
            if renamed:
                conn.execute(RENAME_RUNS, values)
            told.append(f"job {job.id} ({shown(job.job_name)}) is FAILED: {error}")
    if told and (at := readable_time(now)) is not None:
        sweep(conn, at)
    return told


def _values(job: JobInfo, stored: Mapping[str, Any]) -> dict[str, Any]:
    written = dict(zip(JOB_COLUMNS, write_job(job), strict=True))
    written |= {"due_at": None, "owner": None, "manual": 0, "off_schedule": 0, "trigger_pending": 0}
    return written | {f"stored_{name}": stored[name] for name in ("id", "status", "seq")}


def drop_owner(conn: sqlite3.Connection, owner: object, now: str | None) -> list[str]:
    """An owner whose id is missing or is not a UUID: deletes its row, and sets aside what it holds."""
    conn.execute("DELETE FROM main.aether_owners WHERE id IS ?", [owner])
    found = [read_job(row) for row in rows(conn, "FROM main.aether_jobs WHERE status = 1 AND owner IS ?", [owner])]
    return isolate(conn, found, now, f"it was RUNNING for the owner {shown(owner)}, which is no process")
