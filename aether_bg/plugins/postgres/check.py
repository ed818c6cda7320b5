"""Do the rows agree, does some process run the jobs, and does the server keep up?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import anyio
import attrs

from aether_bg.errors import InvalidSchedule, shown
from aether_bg.explain import OVERDUE
from aether_bg.model import Finding, Process, Report
from aether_bg.plugins.postgres.columns import from_text
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.inspection import Inspection, opened
from aether_bg.plugins.postgres.opened import Options
from aether_bg.plugins.postgres.schema import NOT_HELD, READY, STEPS, Schema
from aether_bg.schedule import load

_MOST: Final = 5
"""Examples of each finding."""
_SETTLING: Final = 1.5
"""Seconds that a live process is given to take back what a dead one held, before that is a finding."""
Findings = list[Finding]

CONTRADICTIONS: Final = (
    ("not_due", "id", "{schema}.jobs WHERE status = 0 AND (due_at IS NULL OR occurrence IS NULL)",
     "are SCHEDULED without a due instant and will never run: delete them, and enqueue them again"),
    ("due_though_ended", "id", "{schema}.jobs WHERE status > 1 AND due_at IS NOT NULL",
     "have ended but have a due instant"),
    ("no_owner", "id", "{schema}.jobs WHERE status = 1 AND owner IS NULL", "are RUNNING but belong to no process"),
    ("no_attempt", "j.id",
     "{schema}.jobs j LEFT JOIN {schema}.runs r ON r.job_id = j.id AND r.token = j.seq AND r.gap = 0 "
     "AND r.outcome IS NULL WHERE j.status = 1 AND r.job_id IS NULL",
     "are RUNNING without an open row of history"),
    ("open_attempt", "r.job_id",
     "{schema}.runs r JOIN {schema}.jobs j ON j.id = r.job_id WHERE r.outcome IS NULL "
     "AND NOT (j.status = 1 AND j.seq = r.token)",
     "have an open row of history though no attempt runs"),
    ("no_job", "r.job_id", "{schema}.runs r WHERE NOT EXISTS (SELECT FROM {schema}.jobs j WHERE j.id = r.job_id)",
     "have history but no row"),
)  # fmt: skip
_LATE: Final = f"{{schema}}.jobs WHERE {READY} AND {NOT_HELD} AND due_at <= clock_timestamp() - %s * interval '1 s'"
OLDEST_SNAPSHOT: Final = """
SELECT pid, usename, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)
FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND xact_start < clock_timestamp() - interval '5 minutes'
AND datname = current_database() ORDER BY xact_start
"""
DEAD_ROWS: Final = """
SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_all_tables
WHERE schemaname = %s AND n_dead_tup > 100000 AND n_dead_tup > 2 * n_live_tup
"""
BROKEN_INDEXES: Final = """
SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND NOT i.indisvalid
"""


async def check(options: Options, quick: bool, progress: Callable[[], object]) -> Report:
    """What `PostgresStore.check()` returns. `quick`: without the comparison of all rows."""
    async with opened(options) as db:
        found: Findings = []
        for part in () if quick else CONTRADICTIONS:
            found += await db.ask(partial(_contradiction, schema=db.schema, part=part))
            progress()
        found += await _unattended(db)
        found += await db.ask(partial(_server, schema=db.schema))
    return Report(schema=list(STEPS)[-1], findings=tuple(found))


def _contradiction(conn: Connection, schema: Schema, part: tuple[str, str, str, str]) -> Findings:
    code, column, rows, message = part
    return _rows(conn, schema, code, column, rows, f"jobs {message}")


def _server(conn: Connection, schema: Schema) -> Findings:
    """What makes every store on a server slow in the end."""
    old = [
        f"process {pid} ({shown(user)[1:-1]}, {shown(name or '')[1:-1]}) is {state}, for {seconds:,.0f} s"
        for pid, user, name, state, seconds in conn.execute(OLDEST_SNAPSHOT)
    ]
    message = "transactions have been open for more than five minutes: dead rows cannot be removed meanwhile"
    found = _as_notes(_found("old_snapshot", message, old))
    dead = [f"{table}: {dead:,} dead, {live:,} live" for table, dead, live in conn.execute(DEAD_ROWS, [schema.name])]
    found += _as_notes(_found("bloat", "tables have more dead rows than live ones: does autovacuum run?", dead))
    broken = [str(name) for (name,) in conn.execute(BROKEN_INDEXES, [schema.name])]
    return found + _found("invalid_index", "indexes are not valid: drop them, or REINDEX", broken)


# -- rows that wait ------------------------------------------------------------------------------


async def _unattended(db: Inspection) -> Findings:
    """Looks twice where a live process may be about to act."""
    known, schema = await db.processes(), db.schema
    held = await db.ask(partial(_held, schema=schema, known=known))
    due = await db.ask(partial(_no_handler, schema=schema, known=known))
    if (held or due) and any(process.state == "alive" for process in known):
        await anyio.sleep(_SETTLING)
        known = await db.processes()
        held = held and await db.ask(partial(_held, schema=schema, known=known))
        due = due and await db.ask(partial(_no_handler, schema=schema, known=known))
    found = [*held, *due, *await db.ask(partial(_unreadable_schedules, schema=schema))]
    for process in known:
        if process.state == "silent":
            message = f"{process.name} has given no sign since {process.beat_at:%Y-%m-%d %H:%M:%SZ}: is it stopped?"
            found.append(Finding(level="note", code="silent", message=message, examples=[str(process.id)]))
        if process.state == "alive":
            message = f"{process.name} could not apply declarations"
            found += _as_notes(_found("declarations", message, process.problems))
    for look in (_late, _undeclared):
        found += await db.ask(partial(look, schema=schema, known=known))
    return found


def _held(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    not_dead = [process.id for process in known if process.state != "dead"]
    rows = "{schema}.jobs WHERE status = 1 AND owner <> ALL (%s::uuid[])"
    message = "jobs are RUNNING in processes that are gone: the next process that starts takes them back"
    return _rows(conn, schema, "orphaned", "id", rows, message, not_dead)


def _no_handler(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    live, handlers = _live(known)
    rows, params = f"{_LATE} AND handler_name <> ALL (%s::text[])", (1, handlers)
    if not live:
        message = "jobs are due and no live process runs jobs here: start the app"
        return _rows(conn, schema, "no_process", "id", rows, message, *params)
    found = _rows(conn, schema, "no_handler", "id", rows, "jobs are due whose handler no live process has", *params)
    sql = f"SELECT handler_name, min(due_at) FROM {rows} GROUP BY 1 ORDER BY 2 LIMIT {_MOST}"
    since = conn.execute(schema(sql), params).fetchall() if found else []
    names = [f"{name} since {at:%Y-%m-%dT%H:%M:%SZ}" for name, at in since]
    return [attrs.evolve(finding, examples=names) for finding in found]


def _unreadable_schedules(conn: Connection, schema: Schema) -> Findings:
    """Due jobs whose schedule the built-in language cannot read: some process must have the plugin that can."""
    sql = f"""
    SELECT expression_value, timezone, min(due_at), count(*), clock_timestamp() - min(due_at) FROM {_LATE}
    GROUP BY 1, 2 ORDER BY 3
    """
    found = []
    for stored, zone, since, count, late in conn.execute(schema(sql), [1]):
        text = from_text(stored)
        try:
            load(text, zone)
        except InvalidSchedule:
            found.append((f"{shown(text)} since {since:%Y-%m-%dT%H:%M:%SZ}", late.total_seconds(), count))
    if not found:
        return []
    return [
        Finding(
            level="problem" if found[0][1] >= OVERDUE else "note", code="unreadable_schedule",
            count=sum(count for *_, count in found), examples=[text for text, *_ in found[:_MOST]],
            message="jobs are due whose schedule only a plugin can read: is a process that has it alive?",
        )
    ]  # fmt: skip


def _late(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    _, handlers = _live(known)
    message = f"jobs are more than {OVERDUE:g} s late: all slots are taken, or the scheduler does not call (see health)"
    rows = f"{_LATE} AND handler_name = ANY (%s::text[])"
    return _as_notes(_rows(conn, schema, "overdue", "id", rows, message, OVERDUE, handlers))


def _undeclared(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    """Only living processes can tell what the code declares (docs/protocol.md, N9)."""
    live, _ = _live(known)
    if not live:
        return []
    declares = "SELECT unnest(declares) FROM {schema}.owners WHERE id = ANY (%s::uuid[])"
    rows = f"{{schema}}.jobs WHERE declared AND status < 2 AND job_name NOT IN ({declares})"
    message = "declared jobs that no live process declares any more: `aether-bg prune`, or prune_declared=True"
    ids = [process.id for process in live]
    return _as_notes(_rows(conn, schema, "undeclared", "job_name", rows, message, ids))


def _live(known: list[Process]) -> tuple[list[Process], list[str]]:
    live = [process for process in known if process.state == "alive"]
    return live, sorted({name for process in live for name in process.handlers})


# -- findings ------------------------------------------------------------------------------------


def _rows(
    conn: Connection, schema: Schema, code: str, column: str, rows: str, message: str, *params: Any
) -> Findings:  # fmt: skip
    given = list(params) or None
    row = conn.execute(schema(f"SELECT count(*) FROM {rows}"), given).fetchone()
    count = row[0] if row else 0
    examples = conn.execute(schema(f"SELECT {column} FROM {rows} LIMIT {_MOST}"), given).fetchall() if count else []
    return _found(code, message, [str(example) for (example,) in examples], count=count)


def _found(code: str, message: str, examples: Sequence[str], *, count: int | None = None) -> Findings:
    """A problem, if there are examples of it."""
    if not examples:
        return []
    count = len(examples) if count is None else count
    return [Finding(level="problem", code=code, message=message, count=count, examples=list(examples[:_MOST]))]


def _as_notes(findings: Iterable[Finding]) -> Findings:
    return [attrs.evolve(finding, level="note") for finding in findings]
