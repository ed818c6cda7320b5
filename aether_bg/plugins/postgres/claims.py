"""Claims: due rows, locked where they are found and skipped where others hold them, in one statement (C1, C7, R3)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from aether_bg.model import Claim, Claimed, JobInfo
from aether_bg.plugins.postgres.columns import JOB_COLUMNS, job_of, selected, to_text
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.schema import NOT_HELD, READY, SUSPECT, Schema

_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)
_FRESH: Final = 1.0
"""Seconds between two claims that begin at the earliest row, however fast they follow each other."""

_TAKEN: Final = f"""
taken AS (
    UPDATE {{schema}}.jobs AS j SET status = 1, seq = j.seq + 1, attempt = j.attempt + 1, manual = false,
        owner = %(owner)s, started_at = %(now)s, modified_at = %(now)s, progress = NULL
    FROM picked WHERE j.id = picked.id AND EXISTS (SELECT FROM {{schema}}.owners WHERE id = %(owner)s)
    RETURNING {selected(JOB_COLUMNS, "j.")}
), begun AS (
    INSERT INTO {{schema}}.runs (job_id, token, gap, attempt, occurrence, started_at, owner, count)
    SELECT id, seq, 0, attempt, occurrence, started_at, owner, 1 FROM taken
)"""
_HANDLERS: Final = """(
    SELECT name, EXISTS (SELECT FROM {schema}.handlers AS p WHERE p.name = u.name) AS held
    FROM unnest(%(handlers)s::text[]) AS u(name)
) AS h"""
_READABLE: Final = "AND expression_value || chr(10) || coalesce(timezone, '') <> ALL (%(unreadable)s)"
"""Part of the statements only while this process knows schedules that it cannot read (docs/protocol.md, C8)."""


def _earliest(test: str, limit: str, since: str = "") -> str:
    return f"""
    SELECT p.id, p.due_at FROM {_HANDLERS} CROSS JOIN LATERAL (
        SELECT id, due_at FROM {{schema}}.jobs WHERE {READY} AND handler_name = h.name
        AND due_at <= %(now)s {since} AND {test} AND (manual OR NOT h.held) {{readable}}
        ORDER BY due_at LIMIT {limit} FOR UPDATE SKIP LOCKED
    ) AS p ORDER BY p.due_at LIMIT {limit}"""


CLAIM: Final = f"""
WITH suspect AS MATERIALIZED ({_earliest(SUSPECT, "%(suspects)s")}
), calm AS MATERIALIZED ({_earliest(f"NOT ({SUSPECT})", "%(limit)s", "AND due_at >= %(floor)s")}
), picked AS (
    SELECT id FROM (SELECT id, due_at, 0 AS rank FROM suspect UNION ALL SELECT id, due_at, 1 FROM calm) AS u
    ORDER BY rank, due_at LIMIT %(limit)s
), {_TAKEN}, next AS (
    SELECT min(n.due_at) AS due FROM {_HANDLERS} CROSS JOIN LATERAL (
        SELECT due_at FROM {{schema}}.jobs WHERE {READY} AND handler_name = h.name AND due_at > %(since)s
        AND (NOT ({SUSPECT}) OR %(suspects)s > 0) AND (manual OR NOT h.held) {{readable}} ORDER BY due_at LIMIT 1
    ) AS n
)
SELECT next.due, taken.* FROM next LEFT JOIN taken ON true ORDER BY taken.due_at, taken.id
"""
EXACTLY: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT id FROM {{schema}}.jobs WHERE id = %(id)s AND seq = %(seq)s AND {READY} AND {NOT_HELD} AND due_at <= %(now)s
    FOR UPDATE SKIP LOCKED
), {_TAKEN} SELECT taken.* FROM taken
"""
_STATEMENTS: Final = {False: CLAIM.replace("{readable}", ""), True: CLAIM.replace("{readable}", _READABLE)}


class Claims:
    """Where claims of one store begin to look.

    While some session holds an old snapshot, the index keeps every row that was ever taken from its head. So a claim
    that follows a full one begins where that one ended; once a second, and when it is not full, it begins at the start.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._floors: dict[tuple[str, ...], datetime] = {}
        self._whole = 0.0

    def forget(self) -> None:
        """Something may have become due before the rows that were taken last."""
        self._floors.clear()

    def claim(self, conn: Connection, claim: Claim) -> Claimed:
        if claim.job_id is not None:
            about = {"owner": claim.owner, "now": claim.now, "id": claim.job_id, "seq": claim.seq}
            rows = conn.execute(self._schema(EXACTLY), about, binary=True).fetchall()
            return Claimed(jobs=tuple(map(job_of, rows)))
        now = time.monotonic()
        if now - self._whole > _FRESH:
            self._floors.clear()
            self._whole = now
        floor = self._floors.pop(claim.handlers, None)
        jobs, due = self._take(conn, claim, claim.limit, claim.suspect, floor)
        if floor is not None and len(jobs) < claim.limit:
            suspect = claim.suspect and not any(job.suspect for job in jobs)
            more, due = self._take(conn, claim, claim.limit - len(jobs), suspect, None)
            jobs = sorted([*jobs, *more], key=lambda job: job.due_at or claim.now)
        if claim.limit < 1 or len(jobs) < claim.limit:
            return Claimed(jobs=tuple(jobs), next_due=due)
        last = jobs[-1].due_at
        if last is not None:
            self._floors[claim.handlers] = last
        return Claimed(jobs=tuple(jobs), next_due=last)  # more may be due by then

    def _take(
        self, conn: Connection, claim: Claim, limit: int, suspect: bool, floor: datetime | None
    ) -> tuple[list[JobInfo], datetime | None]:
        about: dict[str, Any] = {
            "owner": claim.owner, "now": claim.now, "limit": max(limit, 0), "handlers": list(claim.handlers),
            "suspects": int(suspect), "floor": floor or _LONG_AGO,
            "since": claim.now if limit > 0 else _LONG_AGO,
        }  # fmt: skip
        if claim.unreadable:
            about["unreadable"] = [f"{to_text(text)}\n{zone or ''}" for text, zone in claim.unreadable]
        sql = self._schema(_STATEMENTS[bool(claim.unreadable)])
        rows = conn.execute(sql, about, binary=True).fetchall()
        return [job_of(row[1:]) for row in rows if row[1] is not None], rows[0][0]
