"""Checks whether the rows agree, a process runs the jobs, and the server keeps up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from aether_bg.errors import shown
from aether_bg.explain import OVERDUE
from aether_bg.model import Process, Report
from aether_bg.plugins._findings import (
    LATE,
    MOST,
    NO_HANDLER,
    NO_PROCESS,
    ORPHANED,
    UNDECLARED,
    Findings,
    Look,
    as_notes,
    living,
    problem,
    unattended,
    unreadable_schedules,
)
from aether_bg.plugins.postgres.columns import from_text
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.inspection import Inspection, opened
from aether_bg.plugins.postgres.opened import Options
from aether_bg.plugins.postgres.schema import NOT_HELD, READY, STEPS, Schema

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
SELECT pid, coalesce(usename, backend_type), application_name, coalesce(state, 'at work'),
    extract(epoch FROM clock_timestamp() - xact_start)
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
    found = as_notes(problem("old_snapshot", message, old))
    dead = [f"{table}: {dead:,} dead, {live:,} live" for table, dead, live in conn.execute(DEAD_ROWS, [schema.name])]
    found += as_notes(problem("bloat", "tables have more dead rows than live ones: does autovacuum run?", dead))
    broken = [str(name) for (name,) in conn.execute(BROKEN_INDEXES, [schema.name])]
    return found + problem("invalid_index", "indexes are not valid: drop them, or REINDEX", broken)


# -- rows that wait ------------------------------------------------------------------------------


async def _unattended(db: Inspection) -> Findings:
    def looking(ask: Callable[[Connection, Schema, list[Process]], Findings]) -> Look:
        return lambda known: db.ask(lambda conn: ask(conn, db.schema, known))

    return await unattended(
        db.processes, (looking(_held), looking(_no_handler)), looking(_unreadable_schedules),
        (looking(_late), looking(_undeclared)),
    )  # fmt: skip


def _held(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    not_dead = [process.id for process in known if process.state != "dead"]
    rows = "{schema}.jobs WHERE status = 1 AND owner <> ALL (%s::uuid[])"
    return _rows(conn, schema, "orphaned", "id", rows, ORPHANED, not_dead)


def _no_handler(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    live, handlers = living(known)
    rows, params = f"{_LATE} AND handler_name <> ALL (%s::text[])", (1, handlers)
    if not live:
        return _rows(conn, schema, "no_process", "id", rows, NO_PROCESS, *params)
    found = _rows(conn, schema, "no_handler", "id", rows, NO_HANDLER, *params)
    sql = f"SELECT handler_name, min(due_at) FROM {rows} GROUP BY 1 ORDER BY 2 LIMIT {MOST}"
    since = conn.execute(schema(sql), params).fetchall() if found else []
    names = [f"{name} since {at:%Y-%m-%dT%H:%M:%SZ}" for name, at in since]
    return [attrs.evolve(finding, examples=names) for finding in found]


def _unreadable_schedules(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    sql = f"""
    SELECT expression_value, timezone, min(due_at), count(*), clock_timestamp() - min(due_at) FROM {_LATE}
    GROUP BY 1, 2 ORDER BY 3
    """
    return unreadable_schedules(
        (from_text(stored), zone, f"{since:%Y-%m-%dT%H:%M:%SZ}", late.total_seconds() >= OVERDUE, count)
        for stored, zone, since, count, late in conn.execute(schema(sql), [1])
    )


def _late(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    _, handlers = living(known)
    rows = f"{_LATE} AND handler_name = ANY (%s::text[])"
    return as_notes(_rows(conn, schema, "overdue", "id", rows, LATE, OVERDUE, handlers))


def _undeclared(conn: Connection, schema: Schema, known: list[Process]) -> Findings:
    """Only living processes know what the code declares (docs/protocol.md, N9)."""
    live, _ = living(known)
    if not live:
        return []
    declares = "SELECT unnest(declares) FROM {schema}.owners WHERE id = ANY (%s::uuid[])"
    rows = f"{{schema}}.jobs WHERE declared AND status < 2 AND job_name NOT IN ({declares})"
    ids = [process.id for process in live]
    return as_notes(_rows(conn, schema, "undeclared", "job_name", rows, UNDECLARED, ids))


# -- findings ------------------------------------------------------------------------------------


def _rows(
    conn: Connection, schema: Schema, code: str, column: str, rows: str, message: str, *params: Any
) -> Findings:  # fmt: skip
    given = list(params) or None
    row = conn.execute(schema(f"SELECT count(*) FROM {rows}"), given).fetchone()
    count = row[0] if row else 0
    examples = conn.execute(schema(f"SELECT {column} FROM {rows} LIMIT {MOST}"), given).fetchall() if count else []
    return problem(code, message, [str(example) for (example,) in examples], count=count)
