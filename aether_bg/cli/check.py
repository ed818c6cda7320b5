"""`check`: is the file sound, and does somebody see to every job?"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import click

from aether_bg.cli.database import Reading, database_argument, opening, reading
from aether_bg.cli.output import Progress, json_option, print_document, table
from aether_bg.cli.processes import Process, processes, read_process
from aether_bg.errors import InvalidSchedule, StoreError, shown
from aether_bg.explain import OVERDUE
from aether_bg.model import Unreadable
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS, RUN_COLUMNS, to_time
from aether_bg.plugins.sqlite.reading import any_text
from aether_bg.plugins.sqlite.rows import REMEDY, read_job, read_run
from aether_bg.plugins.sqlite.schema import READY, STEPS, applied, migrations
from aether_bg.schedule import load

_MOST: Final = 5
"""Examples of each finding."""
_SETTLING: Final = 1.5
"""Seconds a live process is given to take back what a dead one held, before that is a finding."""
_LARGE_WAL: Final = 64 * 1024 * 1024

Level = Literal["problem", "note"]


@attrs.frozen(kw_only=True)
class Finding:
    """`level`: a problem makes the exit code 1, a note does not. `examples`: ids or texts of the first few."""

    level: Level
    code: str
    message: str
    count: int = 1
    examples: list[str] = attrs.field(factory=list)


Findings = Iterator[Finding]
Row = tuple[Any, ...]


@click.command()
@database_argument
@click.option("--quick", is_flag=True, help="SQLite's quick_check instead of its integrity_check.")
@json_option
def check(database: Path, quick: bool, as_json: bool) -> None:
    """Check a database, its rows, and who sees to them.

    The file, its schema, rows that contradict each other, jobs of processes that are gone, due jobs nobody has a
    handler for, declarations that a live process could not apply.

    Exit code 1 when something is wrong. What may be in order (a long queue, a large WAL) is a note and does not count.

    \b
    aether-bg check jobs.db
    """
    schema = None
    with opening(database) as db, Progress("checking") as progress:
        db.bounded.ticked = progress.tell
        found = list(_file(db, quick))
    if not any(finding.code == "damaged" for finding in found):
        with reading(database) as db, Progress("checking") as progress:
            db.bounded.ticked = progress.tell
            schema = db.ask(applied)[-1]
            schema_findings = list(_schema(db))
            found += schema_findings
            if not schema_findings:  # else the queries below may fail for want of a column
                found += [*_contradictions(db), *_broken_rows(db), *_unattended(db), *_wal(db)]
    problems = [finding for finding in found if finding.level == "problem"]
    if as_json:
        print_document({"ok": not problems, "schema": schema, "findings": found})
    else:
        if found:
            table(
                ["LEVEL", "CODE", "COUNT", "MESSAGE"],
                ([finding.level, finding.code, str(finding.count), _told(finding)] for finding in found),
            )
        click.echo(f"problems: {len(problems)}" if problems else f"ok (schema {schema})")
    if problems:
        raise click.exceptions.Exit(1)


def _told(finding: Finding) -> str:
    return finding.message + (f" ({', '.join(finding.examples)})" if finding.examples else "")


# -- the file ------------------------------------------------------------------------------------


def _file(db: Reading, quick: bool) -> Findings:
    pragma = "quick_check" if quick else "integrity_check"
    try:
        said = [str(row[0]) for row in db.rows(f"PRAGMA {pragma}({_MOST})", thorough=True)]
    except StoreError as error:
        if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        said = [str(error.__cause__)]
    if said != ["ok"]:
        lines = [line.strip() for text in said for line in text.splitlines() if line.strip()]
        yield Finding(
            level="problem", code="damaged", count=len(lines), examples=lines[:_MOST],
            message="SQLite finds the file damaged: restore a backup, or save what `.recover` can read",
        )  # fmt: skip
        return
    if broken := db.rows("PRAGMA foreign_key_check", thorough=True):
        examples = [f"{row[0]} row {row[1]}" if row[1] else str(row[0]) for row in broken[:_MOST]]
        yield Finding(
            level="problem", code="foreign_keys", count=len(broken), examples=examples,
            message="rows refer to rows that do not exist",
        )  # fmt: skip


def _schema(db: Reading) -> Findings:
    """Its tables, columns and indexes against those a new database gets."""
    from sqlite_utils import Database

    fresh = Database(memory=True, execute_plugins=False)
    try:
        migrations().apply(fresh)
        wanted = _shape(fresh.conn)
    finally:
        fresh.close()
    missing = sorted(wanted - db.ask(_shape))
    if missing:
        yield Finding(
            level="problem", code="schema", count=len(missing), examples=missing[:_MOST],
            message=f"the schema is not that of {STEPS[-1]}: parts are missing",
        )  # fmt: skip


def _shape(conn: sqlite3.Connection) -> set[str]:
    names = conn.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    shape = {f"{kind} {name}" for kind, name in names if kind in ("table", "index")}
    for kind, name in names:
        if kind == "table":
            columns = conn.execute("SELECT name FROM pragma_table_info(?)", [name])
            shape |= {f"column {name}.{column}" for (column,) in columns}
    return shape


def _wal(db: Reading) -> Findings:
    size = db.wal_size()
    if size > _LARGE_WAL:
        yield Finding(
            level="note", code="wal_size", count=size,
            message=f"the WAL has {size / 1024**2:,.0f} MiB: a program reads for long, or a process was killed",
        )  # fmt: skip


# -- rows ----------------------------------------------------------------------------------------

_CONTRADICTIONS: Final = (
    ("status", "id", "aether_jobs WHERE status NOT IN (SELECT id FROM aether_job_status)", "have no known status"),
    ("not_due", "id", "aether_jobs WHERE status = 0 AND (due_at IS NULL OR occurrence IS NULL)",
     "are SCHEDULED without a due instant and will never run: delete and enqueue them anew"),
    ("due_though_ended", "id", "aether_jobs WHERE status > 1 AND due_at IS NOT NULL",
     "have ended but have a due instant"),
    ("no_owner", "id", "aether_jobs WHERE status = 1 AND owner IS NULL", "are RUNNING but belong to no process"),
    ("no_attempt", "j.id",
     "aether_jobs j LEFT JOIN aether_runs r ON r.job_id = j.id AND r.token = j.seq AND r.gap = 0 "
     "AND r.outcome IS NULL WHERE j.status = 1 AND r.job_id IS NULL",
     "are RUNNING without an open row of history"),
    ("open_attempt", "r.job_id",
     "aether_runs r JOIN aether_jobs j ON j.id = r.job_id WHERE r.outcome IS NULL "
     "AND NOT (j.status = 1 AND j.seq = r.token)",
     "have an open row of history though no attempt runs"),
)  # fmt: skip


def _contradictions(db: Reading) -> Findings:
    """What no sequence of the kernel's own writes leaves behind."""
    db.rows("BEGIN")  # one moment for all of it
    try:
        for code, column, rows, message in _CONTRADICTIONS:
            yield from _rows(db, code, column, rows, f"jobs {message}")
    finally:
        db.rows("ROLLBACK")


def _broken_rows(db: Reading) -> Findings:
    """Rows that no process can read: they are set aside, and do not run."""
    tables: tuple[tuple[str, str, str, Callable[[Row], str | None]], ...] = (
        ("unreadable", "jobs", f"{', '.join(JOB_COLUMNS)} FROM aether_jobs", _wrong_in_job),
        ("unreadable_history", "history", f"{', '.join(RUN_COLUMNS)} FROM aether_runs", _wrong_in_run),
        ("unreadable_process", "processes", "id, host, pid, started_at, beat_at, handlers, problems FROM aether_owners",
         _wrong_in_process),
    )  # fmt: skip
    for code, what, source, wrong in tables:
        count, examples, first = db.ask(partial(_read_all, source=source, wrong=wrong), thorough=True)
        if count:
            message = f"rows of {what} cannot be read, {first}"
            if code == "unreadable":
                message += ": they do not run; delete them, and enqueue them again"
            yield Finding(level="problem", code=code, count=count, examples=examples, message=message)


def _read_all(conn: sqlite3.Connection, source: str, wrong: Callable[[Row], str | None]) -> tuple[int, list[str], str]:
    """How many rows cannot be read, the ids of the first few, and what is wrong with the first."""
    count, examples, first = 0, list[str](), ""
    with any_text(conn):
        for row in conn.execute(f"SELECT {source}"):
            said = wrong(row)
            if said is not None:
                count, first = count + 1, first or said
                examples += [row[0] if isinstance(row[0], str) else shown(row[0])] if count <= _MOST else []
    return count, examples, first


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


def _unattended(db: Reading) -> Findings:
    """Rows that wait for somebody: looked at twice where a live process may be about to see to them."""
    known = processes(db)
    held, waiting = _held_by_the_dead(db, known), _no_handler(db, known)
    if (held or waiting) and any(process.state == "alive" for process in known):
        time.sleep(_SETTLING)
        known = processes(db)
        held, waiting = held and _held_by_the_dead(db, known), waiting and _no_handler(db, known)
    yield from held
    yield from waiting
    yield from _unreadable(db)
    for process in known:
        if process.state == "silent":
            yield Finding(
                level="note", code="silent", examples=[str(process.id)],
                message=f"{process.name} has given no sign since {process.beat_at:%Y-%m-%d %H:%M:%SZ}: is it stopped?",
            )  # fmt: skip
        if process.state == "alive" and process.problems:
            yield Finding(
                level="note", code="declarations", count=len(process.problems), examples=list(process.problems[:_MOST]),
                message=f"{process.name} could not apply declarations",
            )  # fmt: skip
    yield from _late(db, known)


def _held_by_the_dead(db: Reading, known: list[Process]) -> list[Finding]:
    alive = [str(process.id) for process in known if process.state != "dead"]
    rows = f"aether_jobs WHERE status = 1 AND owner NOT IN ({_places(alive)})"
    message = "jobs are RUNNING in processes that are gone: the next process that starts takes them back"
    return list(_rows(db, "orphaned", "id", rows, message, *alive))


def _no_handler(db: Reading, known: list[Process]) -> list[Finding]:
    live = [process for process in known if process.state == "alive"]
    handlers = sorted({name for process in live for name in process.handlers})
    rows = f"aether_jobs WHERE {READY} AND due_at <= ? AND handler_name NOT IN ({_places(handlers)})"
    what = "whose handler no live process has" if live else "and no live process runs jobs here: start the app"
    params = (to_time(datetime.now(UTC) - timedelta(seconds=1)), *handlers)
    found = list(_rows(db, "no_handler" if live else "no_process", "id", rows, f"jobs are due {what}", *params))
    if not found or not live:
        return found
    names = db.rows(f"SELECT handler_name, min(due_at) FROM {rows} GROUP BY 1 ORDER BY 2 LIMIT {_MOST}", *params)
    return [attrs.evolve(found[0], examples=[f"{name} since {since}" for name, since in names])]


def _unreadable(db: Reading) -> Findings:
    """Due jobs whose schedule the built-in language cannot read: some process must have the plugin that can."""
    due = to_time(datetime.now(UTC) - timedelta(seconds=1))
    rows = f"aether_jobs WHERE {READY} AND due_at <= ?"
    found = []
    for text, zone, since, count in db.rows(
        f"SELECT expression_value, timezone, min(due_at), count(*) FROM {rows} GROUP BY 1, 2 ORDER BY 3", due
    ):
        if not isinstance(text, str) or not isinstance(zone, str | None):
            continue
        try:
            load(text, zone)
        except InvalidSchedule:
            found.append((f"{shown(text)} since {since}", since, count))
    if found:
        late = to_time(datetime.now(UTC) - timedelta(seconds=OVERDUE))
        yield Finding(
            level="problem" if found[0][1] <= late else "note", code="unreadable_schedule",
            count=sum(count for *_, count in found), examples=[told for told, *_ in found[:_MOST]],
            message="jobs are due whose schedule only a plugin can read: is a process that has it alive?",
        )  # fmt: skip


def _late(db: Reading, known: list[Process]) -> Findings:
    handlers = sorted({name for process in known if process.state == "alive" for name in process.handlers})
    rows = f"aether_jobs WHERE {READY} AND due_at <= ? AND handler_name IN ({_places(handlers)})"
    message = "jobs are late by more than a minute: all slots are taken, or the scheduler does not call (see health)"
    when = to_time(datetime.now(UTC) - timedelta(seconds=OVERDUE))
    yield from _rows(db, "overdue", "id", rows, message, when, *handlers, level="note")


def _rows(
    db: Reading, code: str, column: str, rows: str, message: str, *params: Any, level: Level = "problem"
) -> Findings:
    count = db.one(f"SELECT count(*) FROM {rows}", *params)
    if count:
        first = db.rows(f"SELECT {column} FROM {rows} LIMIT {_MOST}", *params)
        yield Finding(level=level, code=code, count=count, message=message, examples=[str(row[0]) for row in first])


def _places(values: list[str]) -> str:
    return ", ".join("?" * len(values))
