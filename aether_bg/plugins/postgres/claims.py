"""Claims: due rows, locked where they are found and skipped if others hold them, in one statement (C1, C7, L, R3).

A **lane** is the waiting rows of one handler at one priority: the index has them in the order of their due instants.
Each lane gives at most as many rows as its handler may take; `Claim.deal` says which of them are taken. The rest stays
locked until the statement has ended; other claims do not wait for them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aether_bg.model import Claim, Claimed, JobInfo
from aether_bg.plugins._first import OWN
from aether_bg.plugins.postgres.columns import array, quoted, to_text
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.prepared import fetch
from aether_bg.plugins.postgres.rows import FIRST, read_claimed
from aether_bg.plugins.postgres.schema import MANUAL, NOT_HELD, READY, SUSPECT, Schema

_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)
_PASSED: Final = timedelta(milliseconds=20)
"""When to look again for a due row that was locked: by one who links a child to it, by a verb, by another program."""
_FRESH: Final = 1.0
"""Seconds between two claims that begin at the earliest row, however fast they follow each other."""

SERIALIZE: Final = """
SELECT pg_advisory_xact_lock(%s, hashtext(name)) FROM (
    SELECT DISTINCT name FROM unnest(%s::text[]) AS u(name) ORDER BY name
) AS names
"""
"""Claims of handlers with a limit come one after the other: each counts what the previous one has taken."""
_TAKEN: Final = f"""
taken AS (
    UPDATE {{schema}}.jobs AS j SET status = 1, seq = j.seq + 1, attempt = j.attempt + 1, manual = false,
        owner = %(owner)s, started_at = %(now)s, modified_at = %(now)s, progress = NULL
    FROM picked WHERE j.id = picked.id AND EXISTS (SELECT FROM {{schema}}.owners WHERE id = %(owner)s)
    RETURNING j.attempt AS number, {FIRST}
), begun AS (
    INSERT INTO {{schema}}.runs (job_id, token, gap, attempt, occurrence, started_at, owner, count)
    SELECT id, seq, 0, number, occurrence, %(now)s, %(owner)s, 1 FROM taken
)"""
_READABLE: Final = "AND expression_value || chr(10) || coalesce(timezone, '') <> ALL (%(unreadable)s)"
"""Part of the statements only while this process knows schedules that it cannot read (docs/protocol.md, C8)."""
_RUNNING: Final = "(SELECT count(*) FROM {schema}.jobs AS r WHERE r.status = 1 AND r.handler_name = %s)"
_LANE: Final = f"(SELECT max(priority) FROM {{schema}}.jobs WHERE {READY} AND handler_name ="

CLAIM: Final = f"""
WITH RECURSIVE h AS MATERIALIZED (
    SELECT name, nr, busy, cap IS NOT NULL AS capped, runs,
        EXISTS (SELECT FROM {{schema}}.handlers AS p WHERE p.name = u.name) AS held,
        CASE WHEN cap IS NULL THEN most ELSE greatest(least(most, cap - runs), 0) END AS most
    FROM unnest(%(handlers)s::text[], %(busy)s::boolean[], %(most)s::integer[], %(caps)s::integer[])
        WITH ORDINALITY AS u(name, busy, most, cap, nr)
    CROSS JOIN LATERAL (SELECT CASE WHEN cap IS NULL THEN 0 ELSE {_RUNNING.replace("%s", "u.name")} END AS runs) AS r
), lane(name, nr, busy, most, priority) AS (
    SELECT name, nr, busy, most, {_LANE} h.name) FROM h WHERE NOT held
    UNION ALL
    SELECT name, nr, busy, most, {_LANE} lane.name AND priority < lane.priority) FROM lane WHERE priority IS NOT NULL
), suspect AS MATERIALIZED (
    SELECT p.id, p.due_at, p.priority, h.nr, h.busy, h.most FROM h CROSS JOIN LATERAL (
        SELECT id, due_at, priority FROM {{schema}}.jobs WHERE {READY} AND handler_name = h.name AND {SUSPECT}
        AND due_at <= %(now)s AND (manual OR NOT h.held) {{readable}} ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS p WHERE %(suspects)s > 0 AND h.most > 0
), calm AS MATERIALIZED (
    SELECT p.id, p.due_at, l.priority, l.nr, l.busy, l.most FROM lane AS l
    LEFT JOIN unnest(%(names)s::text[], %(priorities)s::integer[], %(floors)s::timestamptz[])
        AS f(name, priority, since) ON f.name = l.name AND f.priority = l.priority
    CROSS JOIN LATERAL (
        SELECT id, due_at FROM {{schema}}.jobs WHERE {READY} AND handler_name = l.name AND priority = l.priority
        AND due_at >= coalesce(f.since, '-infinity') AND due_at <= %(now)s AND NOT ({SUSPECT})
        {{readable}} ORDER BY due_at LIMIT l.most FOR UPDATE SKIP LOCKED
    ) AS p WHERE l.priority IS NOT NULL AND l.most > 0
), asked AS MATERIALIZED (
    SELECT p.id, p.due_at, p.priority, h.nr, h.busy, h.most FROM h CROSS JOIN LATERAL (
        SELECT id, due_at, priority FROM {{schema}}.jobs WHERE {MANUAL} AND handler_name = h.name
        AND due_at <= %(now)s AND NOT ({SUSPECT}) {{readable}} ORDER BY due_at LIMIT h.most FOR UPDATE SKIP LOCKED
    ) AS p WHERE h.held AND h.most > 0
), ranked AS (
    SELECT *, -priority - floor(date_part('epoch', %(now)s - due_at) / 60) AS rank
    FROM (SELECT * FROM calm UNION ALL SELECT * FROM asked) AS found
    UNION ALL (
        SELECT *, -priority - floor(date_part('epoch', %(now)s - due_at) / 60) AS rank FROM suspect
        ORDER BY rank, due_at, id LIMIT %(suspects)s
    )
), numbered AS (
    SELECT *, row_number() OVER (PARTITION BY nr ORDER BY rank, due_at, id) AS number FROM ranked
), dealt AS MATERIALIZED (
    SELECT id, number = 1 AND NOT busy AS first,
        row_number() OVER (ORDER BY number > 1 OR busy, rank, due_at, id) AS place FROM numbered WHERE number <= most
), picked AS (
    SELECT id FROM dealt WHERE place <= CASE WHEN first THEN %(limit)s ELSE %(limit)s - least(%(kept)s,
        (SELECT count(*) FROM h WHERE NOT busy) - (SELECT count(*) FROM dealt WHERE first AND place <= %(limit)s)
    ) END
), {_TAKEN}, passed AS (
    SELECT (SELECT count(*) FROM ranked) < %(limit)s AND EXISTS (
        SELECT FROM lane AS l CROSS JOIN LATERAL (
            SELECT FROM {{schema}}.jobs WHERE {READY} AND handler_name = l.name AND priority = l.priority
            AND due_at <= %(now)s AND NOT ({SUSPECT}) AND id <> ALL (ARRAY(SELECT id FROM calm)) {{readable}} LIMIT 1
        ) AS p WHERE l.most > (SELECT count(*) FROM calm AS c WHERE c.nr = l.nr AND c.priority = l.priority)
    ) AS over
), next AS (
    SELECT json_build_array((SELECT over FROM passed), json_agg(json_build_array(h.name, h.runs, n.due, (
        SELECT true FROM {{schema}}.jobs WHERE {READY} AND handler_name = h.name AND NOT h.held
        AND id <> ALL (ARRAY(SELECT id FROM picked)) {{readable}} AND (%(kept)s > 0 OR h.capped)
        ORDER BY priority DESC, due_at DESC LIMIT 1
    ))))::text AS told
    FROM h LEFT JOIN (
        SELECT l.name, min(p.due_at) AS due FROM lane AS l CROSS JOIN LATERAL (
            SELECT due_at FROM {{schema}}.jobs WHERE {READY} AND handler_name = l.name AND priority = l.priority
            AND due_at > %(since)s AND (NOT ({SUSPECT}) OR %(suspects)s > 0) {{readable}}
            ORDER BY due_at LIMIT 1
        ) AS p GROUP BY l.name
    ) AS n ON n.name = h.name
)
SELECT next.told, {", ".join(f"taken.{name}" for name in (*OWN, "whole"))} FROM next LEFT JOIN taken ON true
"""
"""Beside the rows taken, one text about what is left: the same in each row, so that it is read once."""
EXACTLY: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT id FROM {{schema}}.jobs WHERE id = %(id)s AND seq = %(seq)s AND {READY} AND {NOT_HELD}
    AND due_at <= %(now)s AND NOT EXISTS (
        SELECT FROM unnest(%(handlers)s::text[], %(caps)s::integer[]) AS u(name, cap)
        WHERE name = handler_name AND cap <= {_RUNNING.replace("%s", "u.name")}
    ) FOR UPDATE SKIP LOCKED
), {_TAKEN} SELECT {", ".join(f"taken.{name}" for name in (*OWN, "whole"))} FROM taken
"""


_TYPES: Final = {
    "owner": "uuid", "now": "timestamptz", "since": "timestamptz", "id": "uuid", "seq": "bigint", "limit": "bigint",
    "kept": "bigint", "suspects": "bigint", "unreadable": "text[]",
}  # fmt: skip
"""Of parameters whose type is not said where they stand."""


def _positional(text: str) -> tuple[str, tuple[str, ...]]:
    """With numbered parameters, and their names in order."""
    names = tuple(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))

    def place(found: re.Match[str]) -> str:
        kind = _TYPES.get(found[1])
        return f"${names.index(found[1]) + 1}{f'::{kind}' if kind else ''}"

    return re.sub(r"%\((\w+)\)s", place, text), names


_STATEMENTS: Final = {
    False: _positional(CLAIM.replace("{readable}", "")), True: _positional(CLAIM.replace("{readable}", _READABLE))
}  # fmt: skip
_EXACTLY: Final = _positional(EXACTLY)


class Claims:
    """Where the claims of one store begin to look.

    While a session holds an old snapshot, the index keeps every row that was ever taken from its head. So a claim that
    follows a full one begins where that one ended; once a second, and when it is not full, it begins at the start.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._floors: dict[tuple[str, int], datetime] = {}
        self._whole = 0.0

    def forget(self) -> None:
        """Something may have become due before the rows that were taken last."""
        self._floors = {}

    def claim(self, conn: Connection, claim: Claim) -> Claimed:
        if not claim.limits:
            return self._claim(conn, claim)
        with conn.transaction():
            conn.execute(self._schema(SERIALIZE), [self._schema.lock_class + 1, sorted(claim.limits)])
            return self._claim(conn, claim)

    def _claim(self, conn: Connection, claim: Claim) -> Claimed:
        if claim.job_id is not None:
            about = {
                "id": str(claim.job_id), "seq": str(claim.seq), "handlers": array(claim.limits, quoted),
                "caps": array(claim.limits.values(), str),
            }  # fmt: skip
            return Claimed(jobs=tuple(self._carry_out(conn, claim, _EXACTLY, about)[0]))
        now = time.monotonic()
        if now - self._whole > _FRESH:
            self._floors, self._whole = {}, now
        floors = self._floors
        jobs, answer = self._take(conn, claim, floors)
        if floors and len(jobs) < claim.limit:
            self._floors = {}
            rest = claim.after(jobs)
            more, answer = self._take(conn, rest, {}, suspect=not any(job.suspect for job in jobs))
            jobs += more
        jobs.sort(key=claim.rank)
        if 0 < claim.limit <= len(jobs):
            last = {(job.handler_name, job.priority): job.due_at for job in jobs if job.due_at is not None}
            self._floors = floors | last
        return _answered(claim, jobs, answer)

    def _take(
        self, conn: Connection, claim: Claim, floors: Mapping[tuple[str, int], datetime], suspect: bool = True
    ) -> tuple[list[JobInfo], str]:
        names = list(dict.fromkeys(claim.handlers))
        most = [claim.most(name, {}) if name not in claim.limits else max(claim.limit, 0) for name in names]
        about = {
            "limit": str(max(claim.limit, 0)), "kept": str(claim.kept), "suspects": str(int(claim.suspect and suspect)),
            "handlers": array(names, quoted), "busy": array((name in claim.busy for name in names), str),
            "most": array(most, str), "caps": array(map(claim.limits.get, names), str),
            "names": array((name for name, _ in floors), quoted),
            "priorities": array((priority for _, priority in floors), str),
            "floors": array(floors.values(), _text_of),
            "since": _text_of(claim.now if claim.limit > 0 else _LONG_AGO),
        }  # fmt: skip
        if claim.unreadable:
            texts = (f"{to_text(text)}\n{zone or ''}" for text, zone in claim.unreadable)
            about["unreadable"] = array(texts, quoted)
        jobs, rest = self._carry_out(conn, claim, _STATEMENTS[bool(claim.unreadable)], about, 1)
        return jobs, rest[0]

    def _carry_out(
        self,
        conn: Connection,
        claim: Claim,
        statement: tuple[str, tuple[str, ...]],
        about: dict[str, str],
        told: int = 0,
    ) -> tuple[list[JobInfo], tuple[Any, ...]]:  # fmt: skip
        """The rows taken; and the first `told` columns, which are the same in each row."""
        text, parameters = statement
        about |= {"owner": str(claim.owner), "now": _text_of(claim.now)}
        rows = fetch(conn, self._schema(text), [about[name] for name in parameters])
        taken = (row[told:] for row in rows if row[told] is not None)
        return read_claimed(taken, claim.owner, claim.now), rows[0][:told] if told else ()


def _text_of(when: datetime) -> str:
    return when.isoformat()


def _answered(claim: Claim, jobs: list[JobInfo], told: str) -> Claimed:
    """A full claim says only that there may be more. Otherwise, due rows that are left are locked by others, or wait
    for a limit or a slot."""
    passed, handlers = json.loads(told)
    rest, running = claim.after(jobs), {name: runs for name, runs, _, _ in handlers or ()}
    for job in jobs:
        running[job.handler_name] = running.get(job.handler_name, 0) + 1
    ahead, short = list[datetime](), False
    for name, _, due, waits in handlers or ():
        if rest.waits_for_others(name, running):
            short = short or bool(waits)
        elif due is not None:
            ahead.append(datetime.fromisoformat(due))
    if passed:
        ahead.append(claim.now + _PASSED)
    if 0 < claim.limit <= len(jobs):
        ahead += [job.due_at for job in jobs[:1] if job.due_at is not None]
    return Claimed(jobs=tuple(jobs), next_due=min(ahead, default=None), short=short)
