"""Reads for people: newest and last ended first, attempts of all jobs, failures in groups.

Each page is found by an index and costs the same among a million rows. If one statement would have to sort, there is
one part for each status, in the order of its index.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from aether_bg.model import FailureGroup, Failures, JobStatus, Query, Ran, RunOutcome, Runs
from aether_bg.plugins.sqlite.columns import RUN_COLUMNS, instant, to_time, to_uuid
from aether_bg.plugins.sqlite.reading import any_text
from aether_bg.plugins.sqlite.rows import read_run
from aether_bg.plugins.sqlite.schema import ATTEMPTED, HELD_BACK, LISTED, READY

ENDED: Final = "status > 1 AND handled_time IS NOT NULL"
FEW: Final = 20_000
"""Up to this many rows that have a status, or names with a common beginning, are found by that and sorted; more are
found soon in the order of ids."""
_WHOLE: Final = "".join(f", r.{name}" for name in RUN_COLUMNS)
SCHEDULED: Final = (
    f"(SELECT {{0}} FROM main.aether_jobs INDEXED BY aether_jobs_ready WHERE {READY}"
    f" UNION ALL SELECT {{0}} FROM main.aether_jobs INDEXED BY aether_jobs_held_back WHERE {HELD_BACK})"
)
"""What to select columns from, of the rows that are SCHEDULED: found by two small indexes."""
_ORDER: Final = {"newest": "id DESC", "ended": "handled_time DESC, id DESC"}


def error_line(column: str) -> str:
    """`model.job.error_line` in SQL; `substr` ends at a NUL."""
    text = f"coalesce({column}, '')"
    return f"substr(substr({text}, 1, instr({text} || char(10), char(10)) - 1), 1, 200)"


def source(conn: sqlite3.Connection, query: Query, terms: list[str], params: list[Any]) -> tuple[str, list[Any]]:
    """What to select the page from, with its parameters: for the orders "newest" and "ended"."""
    terms, params, order = list(terms), list(params), _ORDER[query.order]
    if query.after is not None and query.order == "newest":
        terms.append("id < ?")
        params.append(str(query.after))
    elif query.after is not None:
        sql = "SELECT coalesce(handled_time, created_at) FROM main.aether_jobs WHERE id = ?"
        at = conn.execute(sql, [str(query.after)]).fetchone() or (None,)
        terms.append("handled_time <= ? AND (handled_time < ? OR id < ?)")
        params += [at[0], at[0], str(query.after)]
    limit, table = [query.limit], "main.aether_jobs"
    if query.job_name is not None:
        return _every("job_name = ?", [query.job_name], terms, params, "holds_name DESC, id DESC", limit)
    if query.name_prefix and _few(conn, *prefix(query.name_prefix)):
        return _every(*prefix(query.name_prefix), terms, params, order, limit)
    statuses = [status for status in query.status or JobStatus if status.terminal or query.order == "newest"]
    if query.status == () or not statuses:
        return f"(SELECT * FROM {table} WHERE FALSE)", []
    index = "aether_jobs_ended" if query.order == "ended" else _by_id(conn, query)
    if index is not None and query.order == "newest":
        terms += [LISTED] if index == "aether_jobs_handler" else []
        return f"(SELECT * FROM {table} INDEXED BY {index} {_where(terms)} ORDER BY {order} LIMIT ?)", params + limit
    if query.order == "newest" and query.status is None:
        return f"(SELECT * FROM {table} {_where(terms)} ORDER BY {order} LIMIT ?)", params + limit
    chosen = dict.fromkeys(statuses)
    parts = " UNION ALL ".join(_part(conn, status, terms, query) for status in chosen)
    return f"(SELECT * FROM ({parts}) ORDER BY {order} LIMIT ?)", (params + limit) * len(chosen) + limit


def _by_id(conn: sqlite3.Connection, query: Query) -> str | None:
    """The index whose rows are walked, the newest first, whatever their status."""
    if query.paused:
        return "aether_jobs_paused"
    if query.recurring:
        return "aether_jobs_recurring"
    only_active = query.status is not None and not any(status.terminal for status in query.status)
    if query.handler_name is None or only_active:
        return None
    made = "SELECT 1 FROM main.sqlite_schema WHERE type = 'index' AND name = 'aether_jobs_handler'"
    return "aether_jobs_handler" if conn.execute(made).fetchone() else None


def _part(conn: sqlite3.Connection, status: JobStatus, terms: list[str], query: Query) -> str:
    """The rows of one status, in order. Few are found by the index of their status and sorted; many of them, in the
    order of ids, are met soon among all."""
    table, order, terms = "main.aether_jobs", _ORDER[query.order], [f"status = {int(status)}", *terms]
    if status is JobStatus.SCHEDULED:
        table = SCHEDULED.format("*") if _at_most_few(conn, SCHEDULED.format(1)) else table
    elif status is JobStatus.RUNNING:
        order = f"+{order}"
    elif query.order == "ended" or _seldom(conn, status):
        table += " INDEXED BY aether_jobs_ended"
        order = order if query.order == "ended" else f"+{order}"
        terms.append("status > 1")
    return f"SELECT * FROM (SELECT * FROM {table} {_where(terms)} ORDER BY {order} LIMIT ?)"


def _seldom(conn: sqlite3.Connection, status: JobStatus) -> bool:
    some = "SELECT 1 FROM main.aether_jobs INDEXED BY aether_jobs_ended WHERE status > 1 AND status"
    return _at_most_few(conn, f"({some} = {int(status)})")


def _at_most_few(conn: sqlite3.Connection, rows: str) -> bool:
    return bool(conn.execute(f"SELECT count(*) FROM (SELECT 1 FROM {rows} LIMIT {FEW + 1})").fetchone()[0] <= FEW)


def _every(
    name: str, named: list[Any], terms: list[str], params: list[Any], order: str, limit: list[int]
) -> tuple[str, list[Any]]:
    """By name: two partial indexes cover them, held and given up."""
    both = " UNION ALL ".join(f"SELECT * FROM main.aether_jobs WHERE {name} AND holds_name = {held}" for held in (1, 0))
    return f"(SELECT * FROM ({both}) {_where(terms)} ORDER BY {order} LIMIT ?)", [*named, *named, *params, *limit]


def _where(terms: list[str]) -> str:
    return f"WHERE {' AND '.join(terms)}" if terms else ""


def prefix(text: str) -> tuple[str, list[Any]]:
    """Texts with this beginning, as a range: SQLite compares by code point."""
    last = text.rstrip("\U0010ffff")
    if not last:
        return "job_name >= ?", [text]
    following = ord(last[-1]) + 1
    following = 0xE000 if 0xD800 <= following < 0xE000 else following
    return "job_name >= ? AND job_name < ?", [text, last[:-1] + chr(following)]


def _few(conn: sqlite3.Connection, name: str, params: list[Any]) -> bool:
    seen = 0
    for held in (1, 0):
        part = f"SELECT 1 FROM main.aether_jobs WHERE {name} AND holds_name = {held} LIMIT {FEW + 1}"
        seen += conn.execute(f"SELECT count(*) FROM ({part})", params).fetchone()[0]
    return seen <= FEW


# -- attempts and failures -----------------------------------------------------------------------


def runs(conn: sqlite3.Connection, query: Runs) -> list[Ran]:
    """Rows that cannot be read are left out: `check` reports them."""
    terms, params = ATTEMPTED.split(" AND "), list[Any]()
    for term, value in (("finished_at > ?", query.after), ("finished_at < ?", query.before)):
        if value is not None:
            terms.append(term)
            params.append(to_time(value))
    if query.outcomes is not None:
        terms.append(f"outcome IN ({', '.join('?' * len(query.outcomes))})")
        params += [str(outcome) for outcome in query.outcomes]
    table, end, outer = "main.aether_runs AS r", "r.finished_at", [f"r.{term}" for term in terms]
    if query.last:
        sooner = " AND ".join(["job_id = r.job_id", *terms])
        outer.append(f"r.token = (SELECT token FROM main.aether_runs WHERE {sooner} ORDER BY token DESC LIMIT 1)")
        params += params
    if query.ids is not None:
        table, end = f"json_each(?) AS wanted CROSS JOIN {table} ON r.job_id = wanted.value", f"+{end}"
        params.insert(0, json.dumps([str(id_) for id_ in dict.fromkeys(query.ids)]))
    if query.handler_name is not None:
        outer.append("j.handler_name = ?")
        params.append(query.handler_name)
    sql = f"""
    SELECT r.job_id, r.token, j.job_name, j.handler_name, r.attempt, r.outcome, r.started_at, r.finished_at,
        {error_line("r.error")}{_WHOLE if query.whole else ""}
    FROM {table} CROSS JOIN main.aether_jobs AS j ON j.id = r.job_id {_where(outer)}
    ORDER BY {end} DESC, r.job_id DESC, r.token DESC LIMIT ?
    """
    with any_text(conn):
        found = conn.execute(sql, [*params, query.limit]).fetchall()
    return [ran for row in found if (ran := _ran(row)) is not None]


def _ran(row: tuple[Any, ...]) -> Ran | None:
    job_id, token, job_name, handler_name, attempt, outcome, started, finished, line, *whole = row
    try:
        "".join((job_name, handler_name, line))
        return Ran(
            job_id=to_uuid(job_id), token=token + 0, job_name=job_name, handler_name=handler_name, attempt=attempt + 0,
            outcome=RunOutcome(outcome), started_at=instant(started), finished_at=instant(finished), error_line=line,
            run=read_run(whole) if whole else None,
        )  # fmt: skip
    except (ValueError, TypeError):
        return None


def failures(conn: sqlite3.Connection, query: Failures) -> list[FailureGroup]:
    terms, params = [f"status = {int(JobStatus.FAILED)}", ENDED], list[Any]()
    if query.handler_name is not None:
        terms.append("handler_name = ?")
        params.append(query.handler_name)
    sql = f"""
    SELECT handled_time, id, handler_name, {error_line("last_error")} FROM main.aether_jobs INDEXED BY aether_jobs_ended
    {_where(terms)} ORDER BY handled_time DESC, id DESC LIMIT ?
    """
    with any_text(conn):
        found = conn.execute(sql, [*params, query.among]).fetchall()
    return query.grouped(_readable(found))


def _readable(rows: list[tuple[Any, ...]]) -> Iterator[tuple[Any, UUID, str, str]]:
    for at, job_id, handler, line in rows:
        try:
            "".join((handler, line))
            yield instant(at), to_uuid(job_id), handler, line
        except (ValueError, TypeError):
            continue
