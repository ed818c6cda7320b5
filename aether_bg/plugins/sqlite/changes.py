"""Insert, Update, Note, Call and Hold inside the open transaction: the write half of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from aether_bg.errors import (
    JobNotFound,
    NameHeld,
    Stale,
    StoreError,
    StoreRefused,
)
from aether_bg.model import (
    KEEP,
    Call,
    Change,
    Completion,
    Hold,
    Insert,
    JobInfo,
    JobStatus,
    Note,
    Query,
    RunOutcome,
    Settled,
    Transaction,
    Update,
    Write,
)
from aether_bg.plugins._first import AS_NEW, is_new
from aether_bg.plugins._lent import Lent
from aether_bg.plugins.sqlite import links, queries, reading
from aether_bg.plugins.sqlite.columns import (
    COMPLETION_COLUMNS,
    DEFINITION_COLUMNS,
    JOB_COLUMNS,
    NEW_COLUMNS,
    RUN_COLUMNS,
    STATE_COLUMNS,
    to_checkpoint,
    to_progress,
    to_time,
    write_change,
    write_completion,
    write_definition,
    write_job,
    write_new,
    write_run,
)
from aether_bg.plugins.sqlite.guard import Guard
from aether_bg.plugins.sqlite.statements import Statement, insert

INSERT_JOBS = insert("aether_jobs", JOB_COLUMNS)
INSERT_NEW = insert("aether_jobs", NEW_COLUMNS, others=dict(zip(JOB_COLUMNS, write_job(AS_NEW), strict=True)))
_GUARD = ("job_id", "seq", "schedule_rev", "next_seq", "next_rev")
_GUARDED = " WHERE aether_jobs.id = {job_id} AND aether_jobs.seq = {seq} AND aether_jobs.schedule_rev = {schedule_rev}"
UPDATE_JOBS = Statement(
    (*_GUARD, *STATE_COLUMNS),
    "UPDATE main.aether_jobs SET seq = {next_seq}, schedule_rev = {next_rev}, "
    + ", ".join(f"{name} = {{{name}}}" for name in STATE_COLUMNS)
    + ", checkpoint = iif({status} > 1 OR {attempt} = 0, NULL, checkpoint)",
    _GUARDED,
)
COMPLETE_JOBS = Statement(
    COMPLETION_COLUMNS,
    f"UPDATE main.aether_jobs SET status = {JobStatus.COMPLETED:d}, seq = aether_jobs.seq + 1, due_at = NULL, "
    "owner = NULL, manual = 0, off_schedule = 0, trigger_pending = 0, last_error = NULL, crash_count = 0, "
    "occurrences = occurrences + 1, last_occurrence = max(coalesce(last_occurrence, occurrence), occurrence), "
    "checkpoint = NULL, handled_time = {modified_at}, modified_at = {modified_at}, modified_by = {modified_by}",
    _GUARDED,
)
"""What a `Completion` does to its row."""
COMPLETE_RUNS = Statement(
    COMPLETION_COLUMNS,
    f"UPDATE main.aether_runs SET outcome = '{RunOutcome.COMPLETED}', finished_at = {{modified_at}}",
    " WHERE aether_runs.job_id = {job_id} AND aether_runs.token = {seq} AND aether_runs.gap = 0",
)
"""What it does to the history row that its claim has written."""
UPDATE_DEFINITION = (
    f"UPDATE main.aether_jobs SET {', '.join(f'{name} = ?' for name in DEFINITION_COLUMNS)} WHERE id = ?"
)
UPDATE_PROGRESS = "UPDATE main.aether_jobs SET progress = ? WHERE id = ?"
NOTE = """
UPDATE main.aether_jobs SET progress = coalesce(:progress, progress), checkpoint = iif(:keep, checkpoint, :checkpoint)
WHERE id = :id AND seq = :seq AND status = 1
"""
_RUN_KEY = ("job_id", "token", "gap")
UPSERT_RUNS = insert(
    "aether_runs",
    RUN_COLUMNS,
    f" ON CONFLICT ({', '.join(_RUN_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in RUN_COLUMNS if name not in _RUN_KEY),
)
HOLDER = "FROM main.aether_jobs WHERE job_name = ? AND holds_name = 1"
ROW = "FROM main.aether_jobs WHERE id = ?"
GIVE_WAY = "UPDATE main.aether_jobs SET holds_name = 0, schedule_rev = schedule_rev + 1 WHERE id = ?"


class Tx:
    """What a `Call` gets: the open transaction, under guard, only until the call ends and only on its thread."""

    def __init__(self, conn: sqlite3.Connection, guard: Guard) -> None:
        self._conn, self._guard, self._lent = conn, guard, Lent()

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        self._check()
        return self._guard.execute(sql, params)

    def add(self, job: JobInfo, after: Sequence[UUID] = ()) -> None:
        self._check()
        _add(self._conn, [Insert(job, tuple(after))])

    def find(self, query: Query) -> list[JobInfo]:
        self._check()
        return queries.find(self._conn, query)

    def call(self, fn: Callable[[Transaction], Any]) -> Any:
        """Returns what `fn` returns; afterwards it cannot use the transaction any more."""
        return self._lent.call(fn, self)

    def _check(self) -> None:
        self._lent.check()
        _unbroken(self._conn)


def named(writes: Sequence[Write]) -> str:
    """A unit of work, for messages: its job, and its statements and functions."""
    parts = [f"job {write.change.job_id}" for write in writes if isinstance(write, Update)]
    parts += [write.name for write in writes if isinstance(write, Call)]
    return ", ".join(parts[:5])


def _unbroken(conn: sqlite3.Connection) -> None:
    """An earlier statement may have rolled back everything; what follows would autocommit (docs/protocol.md, W1)."""
    if not conn.in_transaction:
        raise StoreError("a unit of work", "its transaction has been rolled back", "Let the first error pass.")


def transact(conn: sqlite3.Connection, writes: Sequence[Write], guard: Guard) -> list[object]:
    """Carry out `writes` in order; the caller's transaction or savepoint makes them all or nothing."""
    results: list[object] = []
    for kind, group in groupby(writes, type):
        some: list[Any] = list(group)
        _unbroken(conn)
        if kind is Update:
            results += _told(_save(conn, [write.change for write in some]), len(some))
        elif kind is Insert:
            results += _told(_add(conn, some), len(some))
        elif kind is Note:
            for note in some:
                _note(conn, note)
            results += [None] * len(some)
        elif kind is Call:
            results += [Tx(conn, guard).call(write.fn) for write in some]
        elif kind is Hold:
            for write in some:
                _hold(conn, write)
            results += [None] * len(some)
        else:
            raise TypeError(f"not a Write: {some[0]!r}")
    return results


def _told(settled: list[Settled], writes: int) -> list[object]:
    """The results of these writes; the first one also has the children that were settled."""
    return [tuple(settled) or None, *[None] * (writes - 1)]


def _save(conn: sqlite3.Connection, changes: list[Change]) -> list[Settled]:
    others = [change for change in changes if not _is_plain(change)]
    ended = [write_completion(change) for change in changes if _is_plain(change)]
    try:
        written = UPDATE_JOBS.run(conn, [write_change(change) for change in others])
        written += COMPLETE_JOBS.run(conn, ended)
        if written != len(changes):
            raise _stale(conn, changes)
        for change in others:
            if change.definition is not None:
                conn.execute(UPDATE_DEFINITION, [*write_definition(change.definition), str(change.job_id)])
            if change.progress is not None:
                conn.execute(UPDATE_PROGRESS, [to_progress(change.progress), str(change.job_id)])
    except sqlite3.IntegrityError as error:
        raise _name_taken_back(conn, changes) or _refused(error) from error
    try:
        if COMPLETE_RUNS.run(conn, ended) != len(ended):
            others = changes  # some history row was removed meanwhile
        UPSERT_RUNS.run(conn, [write_run(run) for change in others for run in change.runs])
    except (
        sqlite3.IntegrityError
    ) as error:  # aether_runs_completed: an occurrence completes once (docs/protocol.md, C6)
        raise _refused(error) from error
    settled = [told for change in others if change.rejoins for told in links.rejoin(conn, change)]
    return settled + links.settle(conn, [change for change in changes if change.status.terminal])


def _is_plain(change: Change) -> bool:
    """Whether it is a completion without anything special."""
    return type(change) is Completion and change.rest is not None


def _note(conn: sqlite3.Connection, note: Note) -> None:
    keep = note.checkpoint is KEEP
    written = conn.execute(NOTE, {
        "id": str(note.job_id), "seq": note.seq, "progress": to_progress(note.progress), "keep": keep,
        "checkpoint": None if keep else to_checkpoint(note.checkpoint),
    })  # fmt: skip
    if written.rowcount != 1:
        raise Stale(note.job_id, one_job(conn, ROW, str(note.job_id)))


def sweep(conn: sqlite3.Connection, now: datetime) -> None:
    """Settles the jobs that wait for rows that ended by other means than an `Update`: set aside, or changed by hand."""
    links.settle_left(conn, now)


def _add(conn: sqlite3.Connection, adds: list[Insert]) -> list[Settled]:
    if not any(add.after for add in adds):
        insert_jobs(conn, [add.job for add in adds])
        return []
    settled = []
    for add in adds:  # one by one: a parent may come before its child
        if not add.after:
            insert_jobs(conn, [add.job])
            continue
        try:
            job = links.place(conn, add)
        except JobNotFound:
            _check_name(conn, add.job)
            raise
        if not job.holds_name:  # cancelled at once: it takes its name, and frees it
            _check_name(conn, add.job)
        insert_jobs(conn, [job])
        settled.append(links.link(conn, job, add.after))
    return [told for told in settled if told is not None]


def insert_jobs(conn: sqlite3.Connection, jobs: list[JobInfo]) -> None:
    new = all(map(is_new, jobs))
    statement, write = (INSERT_NEW, write_new) if new else (INSERT_JOBS, write_job)
    rows, stored = [write(job) for job in jobs], 0
    while stored < len(rows):
        before = stored
        try:
            for count in statement.each(conn, rows[stored:]):
                stored += count
        except sqlite3.IntegrityError as error:
            if not sum([_check_name(conn, job) for job in jobs[stored:]]):
                raise _refused(error) from error
        else:
            if stored != len(rows):
                raise _refused(f"{stored - before} of {len(rows) - before} rows were stored")


def _check_name(conn: sqlite3.Connection, job: JobInfo) -> bool:
    """Whether the holder has given way to `job` now (docs/protocol.md, N10). Raises `NameHeld` if it does not."""
    holder = one_job(conn, HOLDER, job.job_name) if job.holds_name else None
    if holder is None or holder.id == job.id:  # or one that this statement put there itself
        return False
    if not holder.gives_way_to(job):
        raise NameHeld(job.job_name, holder)
    return conn.execute(GIVE_WAY, [str(holder.id)]).rowcount == 1


def _hold(conn: sqlite3.Connection, hold: Hold) -> None:
    if hold.held:
        sql = "INSERT INTO main.aether_handlers VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        conn.execute(sql, [hold.handler, to_time(hold.at), hold.by])
    else:
        conn.execute("DELETE FROM main.aether_handlers WHERE name = ?", [hold.handler])


def one_job(conn: sqlite3.Connection, source: str, *params: object) -> JobInfo | None:
    found = reading.jobs(conn, source, params)
    return found[0] if found else None


def _stale(conn: sqlite3.Connection, changes: list[Change]) -> Exception:
    """Which guard failed. Rows already written in this statement show their new numbers."""
    for change in changes:
        current = one_job(conn, ROW, str(change.job_id))
        moved = current is None or (current.seq, current.schedule_rev) != (change.next_seq, change.next_rev)
        if moved or len(changes) == 1:  # alone, it is this one, even if a rival's write gave it the same numbers
            return Stale(change.job_id, current)
    return Stale(changes[0].job_id, None)


def _name_taken_back(conn: sqlite3.Connection, changes: list[Change]) -> Exception | None:
    for change in changes:
        row = one_job(conn, ROW, str(change.job_id))
        if row and change.holds_name and not row.holds_name:
            holder = one_job(conn, HOLDER, row.job_name)
            if holder is not None:
                return NameHeld(row.job_name, holder)
    return None


def _refused(error: object) -> StoreRefused:
    return StoreRefused("a write", f"a constraint of the schema refused it ({error})", "Run `aether-bg check`.")
