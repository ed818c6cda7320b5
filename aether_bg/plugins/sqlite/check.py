"""Checks whether the file is sound, its rows agree, and a process runs its jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from aether_bg.errors import shown
from aether_bg.explain import OVERDUE
from aether_bg.model import Finding, Process, Report, Unreadable
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
from aether_bg.plugins._stored import REMEDY
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS, RUN_COLUMNS, to_time
from aether_bg.plugins.sqlite.inspection import PROCESSES, Inspection, opened, read_process
from aether_bg.plugins.sqlite.reading import any_text
from aether_bg.plugins.sqlite.rows import read_job, read_run
from aether_bg.plugins.sqlite.schema import NOT_HELD, PAUSED_HANDLERS, READY, STEPS, applied, migrate

_LARGE_WAL: Final = 64 * 1024 * 1024

Row = tuple[Any, ...]


async def check(path: Path, quick: bool, progress: Callable[[], object]) -> Report:
    """What `SQLiteStore.check()` returns. A damaged file is not read any further."""
    async with opened(path, ours=False) as db:
        db.bounded.ticked = progress
        found = await db.ask(partial(_file, quick=quick), long=True)
        if any(finding.code == "damaged" for finding in found):
            return Report(schema=None, findings=tuple(found))
        await db.refuse_others()
        schema = (await db.ask(applied))[-1]
        missing = await db.ask(_schema)
        if not missing:  # otherwise the queries below may fail for lack of a column
            found += await db.ask(_contradictions, long=True)
            found += await db.ask(_broken_rows, long=True)
            found += await _unattended(db)
            found += _wal(db.wal_size())
    return Report(schema=schema, findings=(*found, *missing))


# -- the file ------------------------------------------------------------------------------------


def _file(conn: sqlite3.Connection, quick: bool) -> Findings:
    pragma = "quick_check" if quick else "integrity_check"
    try:
        with any_text(conn):
            said = [str(row[0]) for row in conn.execute(f"PRAGMA {pragma}({MOST})")]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        said = [str(error)]
    if said != ["ok"]:
        lines = [line.strip() for text in said for line in text.splitlines() if line.strip()]
        message = "SQLite finds the file damaged: restore a backup, or save what `.recover` can read"
        return problem("damaged", message, lines)
    broken = conn.execute("PRAGMA foreign_key_check").fetchall()
    examples = [f"{row[0]} row {row[1]}" if row[1] else str(row[0]) for row in broken]
    return problem("foreign_keys", "rows refer to rows that do not exist", examples)


def _schema(conn: sqlite3.Connection) -> Findings:
    """Compares its tables, columns and indexes with those of a new database."""
    with closing(sqlite3.connect(":memory:")) as fresh:
        migrate(fresh, "in memory")
        missing = sorted(_shape(fresh) - _shape(conn))
    return problem("schema", f"the schema is not that of {STEPS[-1]}: parts are missing", missing)


def _shape(conn: sqlite3.Connection) -> set[str]:
    names = conn.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    shape = {f"{kind} {name}" for kind, name in names if kind in ("table", "index")}
    for kind, name in names:
        if kind == "table":
            columns = conn.execute("SELECT name FROM pragma_table_info(?)", [name])
            shape |= {f"column {name}.{column}" for (column,) in columns}
    return shape


def _wal(size: int) -> Findings:
    message = f"the WAL has {size / 1024**2:,.0f} MiB: a program has been reading for long, or a process was killed"
    return [Finding(level="note", code="wal_size", count=size, message=message)] if size > _LARGE_WAL else []


# -- rows ----------------------------------------------------------------------------------------

CONTRADICTIONS: Final = (
    ("status", "id", "main.aether_jobs WHERE status NOT IN (SELECT id FROM main.aether_job_status)",
     "have no known status"),
    ("not_due", "id", "main.aether_jobs WHERE status = 0 AND (due_at IS NULL OR occurrence IS NULL)",
     "are SCHEDULED without a due instant and will never run: delete them, and enqueue them again"),
    ("due_though_ended", "id", "main.aether_jobs WHERE status > 1 AND due_at IS NOT NULL",
     "have ended but have a due instant"),
    ("no_owner", "id", "main.aether_jobs WHERE status = 1 AND owner IS NULL", "are RUNNING but belong to no process"),
    ("no_attempt", "j.id",
     "main.aether_jobs j LEFT JOIN main.aether_runs r ON r.job_id = j.id AND r.token = j.seq AND r.gap = 0 "
     "AND r.outcome IS NULL WHERE j.status = 1 AND r.job_id IS NULL",
     "are RUNNING without an open row of history"),
    ("open_attempt", "r.job_id",
     "main.aether_runs r JOIN main.aether_jobs j ON j.id = r.job_id WHERE r.outcome IS NULL "
     "AND NOT (j.status = 1 AND j.seq = r.token)",
     "have an open row of history though no attempt runs"),
)  # fmt: skip


def _contradictions(conn: sqlite3.Connection) -> Findings:
    """States that no sequence of the kernel's own writes leaves behind."""
    conn.execute("BEGIN")  # one moment for all of it
    try:
        return [
            finding
            for code, column, rows, message in CONTRADICTIONS
            for finding in _rows(conn, code, column, rows, f"jobs {message}")
        ]
    finally:
        conn.execute("ROLLBACK")


def _broken_rows(conn: sqlite3.Connection) -> Findings:
    """Rows that no process can read: they are set aside, and do not run."""
    tables: tuple[tuple[str, str, str, Callable[[Row], str | None], str], ...] = (
        ("unreadable", "jobs", f"{', '.join(JOB_COLUMNS)} FROM main.aether_jobs", _wrong_in_job,
         ": they do not run; delete them, and enqueue them again"),
        ("unreadable_history", "history", f"{', '.join(RUN_COLUMNS)} FROM main.aether_runs", _wrong_in_run, ""),
        ("unreadable_process", "processes", PROCESSES, _wrong_in_process, ""),
    )  # fmt: skip
    found: Findings = []
    for code, what, source, wrong, remedy in tables:
        count, examples, first = 0, list[str](), ""
        with any_text(conn):
            for row in conn.execute(f"SELECT {source}"):
                if (said := wrong(row)) is not None:
                    count, first = count + 1, first or said
                    examples += [row[0] if isinstance(row[0], str) else shown(row[0])] if count <= MOST else []
        found += problem(code, f"rows of {what} cannot be read, {first}{remedy}", examples, count=count)
    return found


def _wrong_in_job(row: Row) -> str | None:
    job = read_job(row)
    if isinstance(job, Unreadable):
        return (job.last_error or "").removesuffix(f". {REMEDY}")
    if isinstance(job.payload, str) and not row[JOB_COLUMNS.index("payload")].lstrip().startswith('"'):
        return f"payload is {shown(job.payload)}, not JSON"
    return None


def _wrong_in_run(row: Row) -> str | None:
    error = read_run(row).error or ""
    prefix = "its row cannot be read: "
    return error.removeprefix(prefix) if error.startswith(prefix) and error != row[RUN_COLUMNS.index("error")] else None


def _wrong_in_process(row: Row) -> str | None:
    return "an id, an instant or its handlers" if read_process(row, datetime.now(UTC)) is None else None


# -- rows that wait ------------------------------------------------------------------------------


async def _unattended(db: Inspection) -> Findings:
    def looking(ask: Callable[[sqlite3.Connection, list[Process]], Findings]) -> Look:
        return lambda known: db.ask(lambda conn: ask(conn, known))

    return await unattended(
        db.processes, (looking(_held), looking(_no_handler)), looking(_unreadable_schedules),
        (looking(_undeclared), looking(_late), looking(_paused)),
    )  # fmt: skip


def _held(conn: sqlite3.Connection, known: list[Process]) -> Findings:
    not_dead = [str(process.id) for process in known if process.state != "dead"]
    rows = f"main.aether_jobs WHERE status = 1 AND owner NOT IN ({_places(not_dead)})"
    return _rows(conn, "orphaned", "id", rows, ORPHANED, *not_dead)


def _no_handler(conn: sqlite3.Connection, known: list[Process]) -> Findings:
    live, handlers = living(known)
    rows = (
        f"main.aether_jobs WHERE {READY} AND {NOT_HELD} AND due_at <= ? AND handler_name NOT IN ({_places(handlers)})"
    )
    params = (_ago(1), *handlers)
    if not live:
        return _rows(conn, "no_process", "id", rows, NO_PROCESS, *params)
    found = _rows(conn, "no_handler", "id", rows, NO_HANDLER, *params)
    sql = f"SELECT handler_name, min(due_at) FROM {rows} GROUP BY 1 ORDER BY 2 LIMIT {MOST}"
    names = [f"{name} since {since}" for name, since in _all(conn, sql, *params)] if found else []
    return [attrs.evolve(finding, examples=names) for finding in found]


def _unreadable_schedules(conn: sqlite3.Connection, known: list[Process]) -> Findings:
    sql = "SELECT expression_value, timezone, min(due_at), count(*) FROM main.aether_jobs"
    due = _all(conn, f"{sql} WHERE {READY} AND {NOT_HELD} AND due_at <= ? GROUP BY 1, 2 ORDER BY 3", _ago(1))
    overdue = _ago(OVERDUE)
    return unreadable_schedules(
        (text, zone, since, since <= overdue, count)
        for text, zone, since, count in due
        if isinstance(text, str) and isinstance(zone, str | None)
    )


def _late(conn: sqlite3.Connection, known: list[Process]) -> Findings:
    _, handlers = living(known)
    rows = f"main.aether_jobs WHERE {READY} AND {NOT_HELD} AND due_at <= ? AND handler_name IN ({_places(handlers)})"
    return as_notes(_rows(conn, "overdue", "id", rows, LATE, _ago(OVERDUE), *handlers))


def _undeclared(conn: sqlite3.Connection, known: list[Process]) -> Findings:
    """Only living processes know what the code declares (docs/protocol.md, N9)."""
    live, _ = living(known)
    if not live:
        return []
    declares = "SELECT value FROM main.aether_owners AS o, json_each(iif(json_valid(o.declares), o.declares, '[]'))"
    rows = f"main.aether_jobs WHERE declared = 1 AND status < 2 AND job_name NOT IN ({declares} WHERE o.id IN ({{}}))"
    ids = [str(process.id) for process in live]
    return as_notes(_rows(conn, "undeclared", "job_name", rows.format(_places(ids)), UNDECLARED, *ids))


def _paused(conn: sqlite3.Connection, known: list[Process]) -> Findings:
    names = [str(name) for (name,) in _all(conn, PAUSED_HANDLERS)]
    return as_notes(problem("paused_handlers", "handlers are paused: their jobs wait for `resume --handler`", names))


def _rows(conn: sqlite3.Connection, code: str, column: str, rows: str, message: str, *params: Any) -> Findings:
    ((count,),) = _all(conn, f"SELECT count(*) FROM {rows}", *params)
    examples = _all(conn, f"SELECT {column} FROM {rows} LIMIT {MOST}", *params) if count else []
    return problem(code, message, [str(row[0]) for row in examples], count=count)


def _all(conn: sqlite3.Connection, sql: str, *params: Any) -> list[Row]:
    with any_text(conn):
        return conn.execute(sql, params).fetchall()


def _ago(seconds: float) -> str | None:
    return to_time(datetime.now(UTC) - timedelta(seconds=seconds))


def _places(values: list[str]) -> str:
    return ", ".join("?" * len(values))
