"""Reads: `Query`, history and statistics as SQL; and retention, which decides by the same columns."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from aether_bg.model import JobInfo, JobRun, JobStatus, Purge, Query, Stats
from aether_bg.plugins.postgres import listing
from aether_bg.plugins.postgres.columns import JOB_COLUMNS, RUN_COLUMNS, encode_sorted, is_odd, selected
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.owners import SIZE
from aether_bg.plugins.postgres.reading import run_of
from aether_bg.plugins.postgres.rows import read_job
from aether_bg.plugins.postgres.schema import MANUAL, NOT_HELD, PAUSED, READY, RECURS, Schema

_HELD: Final = "EXISTS (SELECT FROM {schema}.handlers AS p WHERE p.name = handler_name)"
_JOBS: Final = f"SELECT {selected(JOB_COLUMNS)}, CASE WHEN {_HELD} THEN handler_name END FROM {{schema}}.jobs"
_PARENTS: Final = f"{_JOBS} JOIN {{schema}}.links AS l ON l.parent = id AND l.child = %(child)s"
_BEYOND_PARENT: Final = "l.place > (SELECT place FROM {schema}.links WHERE child = %(child)s AND parent = %(after)s)"
_PLACE: Final = {
    "created": ("id",), "newest": ("id",), "due": ("coalesce(due_at, '-infinity')", "id"),
    "ended": ("handled_time", "id"),
}  # fmt: skip
_LAST: Final = {"due": _PLACE["due"], "ended": ("coalesce(handled_time, created_at)", "id")}
"""The place of the row at which a page ends: it may have changed by now, and have no such instant any more."""
BEGINS: Final = "job_name >= %(prefix)s AND starts_with(job_name, %(prefix)s) AND (holds_name OR NOT holds_name)"
BEFORE: Final = "job_name < %(end)s"
STATUS: Final = "status = ANY(%(status)s)"
OF_HANDLER: Final = "handler_name = %(handler)s"
CHILD: Final = "id IN (SELECT child FROM {schema}.links WHERE parent = %(parent)s)"
FEW: Final = 20_000
"""Up to this many rows of a handler, or whose names begin alike, are found by that and sorted; more are found soon in
the order of ids."""
_DOWN: Final = frozenset(("newest", "ended"))
HISTORY: Final = f"""
SELECT {selected(RUN_COLUMNS)} FROM {{schema}}.runs WHERE job_id = %s ORDER BY token DESC, gap DESC LIMIT %s
"""


def find(conn: Connection, schema: Schema, query: Query) -> list[JobInfo]:
    if any(is_odd(text) for text in (query.job_name, query.handler_name, query.name_prefix, query.error_line) if text):
        return []  # no column can hold it
    terms, given = _where(query)
    if query.changed_after is not None and not _any_created_after(conn, schema, query.changed_after):
        terms.append("seq > 0")  # their index has only rows that were changed since they were made
    place, down = _PLACE[query.order], query.order in _DOWN
    if query.order == "due" and (query.due_before is not None or query.unarmed):
        place = ("due_at", "id")  # what can be claimed has a due instant: the order of an index
    order = ", ".join(f"{column} DESC" if down else column for column in place)
    source = _JOBS
    if query.parents_of is not None:
        place, down, source = ("l.place",), False, _PARENTS
        given["child"] = query.parents_of
        order = "l.place"
    elif query.job_name is not None:
        order = "holds_name DESC, id DESC"
    elif (few := _few(conn, schema, query, given)) is not None:  # a fence: else it walks all rows in the order of ids
        source = _JOBS.replace("{schema}.jobs", f"(SELECT * FROM {{schema}}.jobs WHERE {few} OFFSET 0) AS jobs")
    approximate = bool(query.metadata) or query.error_line is not None  # the text may be elsewhere in the column
    found, after = list[JobInfo](), query.after
    while True:
        page, values = list(terms), dict(given, limit=query.limit)
        if after is not None:
            beyond = _beyond_row(place, _LAST.get(query.order, place), "<" if down else ">")
            page.append(beyond if query.parents_of is None else _BEYOND_PARENT)
            values["after"] = after
        where = f"WHERE {' AND '.join(page)}" if page else ""
        sql = schema.once(
            _by_status(query, source, page, order) or f"{source} {where} ORDER BY {order} LIMIT %(limit)s"
        )
        rows = [read_job(row[:-1]).under(row[-1:]) for row in conn.execute(sql, values, binary=True)]
        if not approximate:
            return rows
        found += [job for job in rows if query.matches(job)]
        if len(rows) < query.limit or len(found) >= query.limit or query.job_name is not None:
            return found[: query.limit]
        after = rows[-1].id


def _by_status(query: Query, source: str, terms: list[str], order: str) -> str | None:
    """Jobs that have ended, the latest first, and the newest that recur: one part for each status, in the order of its
    index."""
    listed = query.order == "ended" or (query.order == "newest" and query.recurring)
    if not listed or source is not _JOBS or query.job_name is not None:
        return None
    kinds = [status for status in query.status or JobStatus if status.terminal or query.order == "newest"]
    if not kinds:
        return None
    which = " AND ".join(term for term in terms if term != STATUS)  # said twice, the planner takes it to be rarer
    parts = " UNION ALL ".join(
        f"(SELECT * FROM {{schema}}.jobs WHERE {which} AND status = {int(kind)} ORDER BY {order} LIMIT %(limit)s)"
        for kind in dict.fromkeys(kinds)
    )
    return f"{source.replace('{schema}.jobs', f'({parts}) AS jobs')} ORDER BY {order} LIMIT %(limit)s"


def _few(conn: Connection, schema: Schema, query: Query, given: dict[str, Any]) -> str | None:
    """The term that only few rows keep, which an index finds; None if there is none."""
    if query.children_of is not None:
        return CHILD
    if query.status == (JobStatus.RUNNING,):
        return "status = 1"
    terms = list[str]()
    if query.name_prefix:
        terms.append(BEGINS if following(query.name_prefix) is None else f"{BEGINS} AND {BEFORE}")
    listed = query.paused or query.recurring  # they have indexes of their own
    if query.order == "newest" and query.handler_name is not None and not listed:
        terms.append(OF_HANDLER)
    for term in terms:
        sql = f"SELECT count(*) FROM (SELECT FROM {{schema}}.jobs WHERE {term} LIMIT {FEW + 1}) AS found"
        row = conn.execute(schema.once(sql), given).fetchone()
        if row is not None and row[0] <= FEW:
            return term
    return None


def following(prefix: str) -> str | None:
    """The first text after all that have this beginning, compared by code points as the column is; None if there is
    none."""
    last = prefix.rstrip("\U0010ffff")
    if not last:
        return None
    point = ord(last[-1]) + 1
    return last[:-1] + chr(0xE000 if 0xD800 <= point < 0xE000 else point)


def _any_created_after(conn: Connection, schema: Schema, at: datetime) -> bool:
    """Read from the newest row."""
    newest = conn.execute(schema("SELECT created_at FROM {schema}.jobs ORDER BY id DESC LIMIT 1")).fetchone()
    return newest is not None and newest[0] > at


def _beyond_row(place: tuple[str, ...], last: tuple[str, ...], than: str) -> str:
    """Compares the id itself if that is the order: its row may be purged in the meantime. `last`: its place."""
    if place == ("id",):
        return f"id {than} %(after)s"
    return f"({', '.join(place)}) {than} (SELECT {', '.join(last)} FROM {{schema}}.jobs WHERE id = %(after)s)"


def _where(query: Query) -> tuple[list[str], dict[str, Any]]:
    """Only our own text becomes SQL; every value is a parameter."""
    terms: list[str] = []
    given: dict[str, Any] = {}

    def add(term: str, **values: Any) -> None:
        terms.append(term)
        given.update(values)

    if query.ids is not None:
        add("id = ANY(%(ids)s)", ids=list(query.ids))
    if query.job_name is not None:  # two partial indexes cover the names: held, and given up
        add("job_name = %(name)s AND (holds_name OR NOT holds_name)", name=query.job_name)
    if query.holders is not None:
        add("holds_name AND job_name = ANY(%(holders)s)", holders=[name for name in query.holders if not is_odd(name)])
    if query.handler_name is not None:
        add(OF_HANDLER, handler=query.handler_name)
    if query.status is not None:
        add(STATUS, status=[int(status) for status in query.status])
    if query.owner is not None:
        add("status = 1 AND owner = %(owner)s", owner=query.owner)
    if query.due_before is not None:
        add(f"{READY} AND {NOT_HELD} AND due_at <= %(due)s", due=query.due_before)
    if query.created_after is not None:
        add("created_at > %(since)s", since=query.created_after)
    if query.created_before is not None:
        add("created_at < %(until)s", until=query.created_before)
    if query.unarmed:
        add(f"{READY} AND {NOT_HELD} AND armed_seq <> seq")
    if query.changed_after is not None:
        add("status = 0 AND modified_at > %(changed)s", changed=query.changed_after)
    if query.name_prefix and (end := following(query.name_prefix)) is not None:
        add(BEFORE, end=end)
    if query.zoned:
        add("status = 0 AND timezone IS NOT NULL")
    if query.name_prefix:
        add(BEGINS, prefix=query.name_prefix)
    if query.error_line is not None:
        add(listing.has_line("last_error", "%(line)s"), line=query.error_line)
    if query.paused:
        add(PAUSED)
    if query.recurring:
        add(RECURS)
    if query.children_of is not None:
        add(CHILD, parent=query.children_of)
    if query.declared:
        add("declared AND status < 2")
    if query.order == "ended":
        add(listing.ENDED)
    for number, (key, value) in enumerate((query.metadata or {}).items()):
        text = encode_sorted({key: value})[1:-1]
        add(f"strpos(extra_properties::text, %(has{number})s) > 0", **{f"has{number}": text})
    return terms, given


def history(conn: Connection, schema: Schema, job_id: UUID, limit: int) -> list[JobRun]:
    return [run_of(row) for row in conn.execute(schema(HISTORY), [job_id, limit], binary=True)]


COUNTED: Final = f"""
SELECT handler_name, status, count(*), count(*) FILTER (WHERE {PAUSED}),
    count(*) FILTER (WHERE {READY} AND due_at <= clock_timestamp()), min(due_at) FILTER (WHERE {READY}),
    count(*) FILTER (WHERE {MANUAL} AND due_at <= clock_timestamp()), min(due_at) FILTER (WHERE {MANUAL})
FROM {{schema}}.jobs GROUP BY handler_name, status
"""
"""Everything about jobs, in one walk through them."""
COUNTS: Final = f"""
SELECT (SELECT count(*) FROM {{schema}}.owners), (SELECT count(*) FROM {{schema}}.runs), {SIZE},
    ARRAY(SELECT name FROM {{schema}}.handlers ORDER BY name)
"""


def stats(conn: Connection, schema: Schema, store_id: UUID) -> Stats:
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = conn.execute(schema(COUNTS)).fetchone()
        counted = conn.execute(schema(COUNTED), binary=True).fetchall()
    assert row is not None
    owners, runs, size, held = row
    by_status, by_handler = dict.fromkeys(JobStatus, 0), dict[str, dict[str, int]]()
    paused, due, waiting = 0, 0, list[datetime]()
    for handler, status, count, paused_of_it, *ready in counted:
        by_status[JobStatus(status)] += count
        by_handler.setdefault(handler, {})[JobStatus(status).name.lower()] = count
        paused += paused_of_it
        due_of_it, oldest = ready[2:] if handler in held else ready[:2]  # a pause leaves what is to run by hand
        due += due_of_it
        waiting += [] if oldest is None else [oldest]
    return Stats(
        store_id=store_id, **{status.name.lower(): count for status, count in by_status.items()}, paused=paused,
        due=due, oldest_due=min(waiting, default=None), owners=owners, runs=runs, size=size, by_handler=by_handler,
        paused_handlers=tuple(held),
    )  # fmt: skip


# -- retention -----------------------------------------------------------------------------------


def _beyond(rows: str) -> str:
    oldest = "ORDER BY token DESC, gap DESC LIMIT 1 OFFSET %(history)s"
    return f"{rows} AND token <= (SELECT token FROM {{schema}}.runs WHERE job_id = %(job)s AND {rows} {oldest})"


TRIM_HISTORY: Final = f"""
DELETE FROM {{schema}}.runs WHERE job_id = %(job)s AND (
    {_beyond("outcome IS DISTINCT FROM 'skipped'")} OR {_beyond("outcome IS NOT DISTINCT FROM 'skipped'")}
)
"""
PURGE: Final = """
WITH old AS MATERIALIZED (
    SELECT id FROM {schema}.jobs WHERE {terms} ORDER BY handled_time {nulls} LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), told AS (DELETE FROM {schema}.runs USING old WHERE job_id = old.id),
unlinked AS (DELETE FROM {schema}.links USING old WHERE child = old.id),
gone AS (DELETE FROM {schema}.jobs USING old WHERE jobs.id = old.id RETURNING 1)
SELECT count(*) FROM gone
"""
NOT_NEEDED: Final = """NOT EXISTS (
    SELECT FROM {schema}.links AS l JOIN {schema}.jobs AS children ON children.id = l.child
    WHERE l.parent = jobs.id AND children.status < 2
)"""
"""No job that has not ended runs after it (docs/protocol.md, A4)."""
KEPT: Final = """(handled_time, id) <= (
    SELECT handled_time, id FROM {schema}.jobs WHERE status > 1 AND status = %(status)s AND handled_time IS NOT NULL
    ORDER BY handled_time DESC, id DESC LIMIT 1 OFFSET %(keep)s
)"""


def purge(conn: Connection, schema: Schema, purge: Purge) -> int:
    """One step of retention; history goes with its job. Only terminal rows are deleted (docs/protocol.md, N5)."""
    if purge.job_id is not None:
        return conn.execute(schema(TRIM_HISTORY), {"job": purge.job_id, "history": purge.history}).rowcount
    terms = ["status > 1", NOT_NEEDED]
    if purge.status is not None:
        terms.append("status = %(status)s")
    if purge.before is not None:
        terms.append("handled_time < %(before)s")
    if purge.keep is not None:  # everything not newer than the first row beyond the newest `keep`; ties by id
        terms.append(KEPT)
    given = {"limit": purge.limit, "status": int(purge.status or 0), "before": purge.before, "keep": purge.keep}
    nulls = "NULLS FIRST" if purge.before is None and purge.keep is None else ""
    text = PURGE.replace("{terms}", " AND ".join(terms)).replace("{nulls}", nulls)
    row = conn.execute(schema(text), given).fetchone()
    return int(row[0]) if row else 0


def purgeable(conn: Connection, schema: Schema, purge: Purge) -> int:
    """How many jobs a purge of one status would take, in the order in which it takes them, oldest first."""
    sql, given = "SELECT count(*) FROM {schema}.jobs WHERE status = %s", list[Any]([int(purge.status or 0)])
    total = old = _one(conn, schema(sql), given)
    if purge.before is not None:
        old = _one(conn, schema(f"{sql} AND handled_time < %s"), [*given, purge.before])
    return min(old, total if purge.keep is None else max(total - purge.keep, 0))


def _one(conn: Connection, sql: bytes, given: list[int | datetime]) -> int:
    row = conn.execute(sql, given).fetchone()
    return int(row[0]) if row else 0
