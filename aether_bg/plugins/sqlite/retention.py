"""Retention: ended jobs that are no longer kept, and the oldest history of a job that recurs for long."""

from __future__ import annotations

import sqlite3
from typing import Any

from aether_bg.model import Purge
from aether_bg.plugins.sqlite.columns import to_time
from aether_bg.plugins.sqlite.schema import NOT_NEEDED


def purge(conn: sqlite3.Connection, purge: Purge) -> int:
    """One step of retention; history goes with its job. Only terminal rows are deleted (docs/protocol.md, N5)."""
    if purge.job_id is not None:
        return conn.execute(TRIM_HISTORY, {"job": str(purge.job_id), "history": purge.history}).rowcount
    terms, params = ["status > 1", NOT_NEEDED], list[Any]()
    if purge.status is not None:
        terms.append("status = ?")
        params.append(int(purge.status))
    if purge.before is not None:
        terms.append("handled_time < ?")
        params.append(to_time(purge.before))
    if purge.keep is not None:  # everything not newer than the first row beyond the newest `keep`; ties by rowid
        terms.append(
            "(handled_time, rowid) <= (SELECT handled_time, rowid FROM main.aether_jobs "
            f"WHERE {terms[0]} AND status = ? ORDER BY handled_time DESC, rowid DESC LIMIT 1 OFFSET ?)"
        )
        params += [int(purge.status or 0), purge.keep]
    oldest = f"SELECT id FROM main.aether_jobs WHERE {' AND '.join(terms)} ORDER BY handled_time LIMIT ?"
    return conn.execute(f"DELETE FROM main.aether_jobs WHERE id IN ({oldest})", [*params, purge.limit]).rowcount


def _beyond(rows: str) -> str:
    oldest = "ORDER BY token DESC, gap DESC LIMIT 1 OFFSET :history"
    return f"{rows} AND token <= (SELECT token FROM main.aether_runs WHERE job_id = :job AND {rows} {oldest})"


TRIM_HISTORY = f"""
DELETE FROM main.aether_runs WHERE job_id = :job
AND ({_beyond("outcome IS NOT 'skipped'")} OR {_beyond("outcome IS 'skipped'")})
"""
