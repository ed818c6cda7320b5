"""A database opened for reading only: no owner, no lock, no migration, no checkpoint.

A read-only connection never gets in the way of the processes that use the file, and never creates one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import attrs

from aether_bg.errors import AetherError, NotADatabase, SchemaTooNew, StoreBroken, StoreError, StoreIsDirectory
from aether_bg.model import FailureGroup, Failures, JobInfo, JobRun, Process, Purge, Query, Ran, Runs, Stats
from aether_bg.plugins.sqlite import backup, files, listing, queries
from aether_bg.plugins.sqlite.bounded import Bounded
from aether_bg.plugins.sqlite.columns import instant, to_time, to_uuid
from aether_bg.plugins.sqlite.locks import OwnerLocks, WriteLock
from aether_bg.plugins.sqlite.reading import any_text
from aether_bg.plugins.sqlite.schema import STEPS, applied, refuse_foreign

R = TypeVar("R")

_BUSY_MS: Final = 5000
PATIENCE: Final = 20.0
"""Seconds for a question."""
STALLED: Final = 60.0
"""Seconds without a sign of life in work that may take long."""
SILENT: Final = 60.0
"""Seconds without a heartbeat after which a process that is not proven dead is called silent: four default leases."""
LOCKED: Final = 5.0
"""Seconds to wait for the write lock of a process that hangs."""
_LONGEST_VALUE: Final = 64 * 1024 * 1024
"""Bytes of a text or BLOB. A file can claim sizes that fill the memory."""


class Inspection:
    """What `SQLiteStore.inspect()` gives: `aether_bg.protocols.Inspection`. Raises a `StoreError` where the file cannot
    answer, or does not in time."""

    def __init__(self, path: Path, conn: sqlite3.Connection) -> None:
        self.path, self.bounded = path, Bounded(conn, f"database {path}")
        self._conn = conn

    async def ask(self, question: Callable[[sqlite3.Connection], R], *, long: bool = False) -> R:
        """Asks in a thread. `long`: it may take as long as it makes progress; otherwise it must end within
        `PATIENCE`."""
        try:
            within = STALLED if long else PATIENCE
            return await self.bounded.run(lambda: question(self._conn), within, while_it_goes_on=long)
        except AetherError:
            raise
        except sqlite3.Error as error:
            raise files.translate(error, self.path) from error
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise StoreBroken(
                f"database {self.path}", f"a row in it cannot be read ({error})", "`aether-bg check` says more."
            ) from error

    async def refuse_others(self) -> None:
        """Raises a `StoreError` for a file that is not a database of this version of aether_bg."""
        await self.ask(partial(refuse_foreign, path=self.path))
        done, what = await self.ask(applied), f"database {self.path}"
        if not done:
            raise NotADatabase(what, "it is not one of aether_bg: it lacks its tables", "Name the file of an app.")
        if unknown := [name for name in done if name not in STEPS]:
            rule = f"it was written by a newer aether_bg (schema step {unknown[-1]})"
            raise SchemaTooNew(what, rule, "Use the command line of that version.")
        if missing := [name for name in STEPS if name not in done]:
            rule = f"it was written by an older aether_bg (schema step {missing[0]} is missing)"
            raise StoreError(what, rule, "Start an app of this version on it, which brings it up to date.")

    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self.ask(partial(queries.find, query=query))

    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self.ask(partial(queries.history, job_id=job_id, limit=limit))

    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self.ask(partial(listing.runs, query=query))

    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self.ask(partial(listing.failures, query=query))

    async def store_stats(self) -> Stats:
        size = os.stat(self.path).st_size + self.wal_size()
        return await self.ask(partial(queries.stats, size=size, now=to_time(datetime.now(UTC))))

    async def processes(self) -> list[Process]:
        return await self.ask(partial(_processes, path=self.path))

    async def purgeable(self, purge: Purge) -> int:
        return await self.ask(partial(queries.purgeable, purge=purge))

    async def writable(self) -> None:
        await self.bounded.run(partial(_wait_for_writers, self.path), LOCKED + 1)

    async def backup(self, target: Path, progress: backup.Progress) -> None:
        await backup.live(lambda: closing(_connect(self.path)), self.path, target, progress)

    def wal_size(self) -> int:
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0


@asynccontextmanager
async def opened(path: Path, *, ours: bool = True) -> AsyncIterator[Inspection]:
    """Raises a `StoreError` that says what else is at `path`. With `ours` False any SQLite database is opened, without
    reading its tables."""
    _check_file(path)
    with files.translating(path):
        conn = _connect(path)
    inspection = Inspection(path, conn)
    try:
        if ours:
            await inspection.refuse_others()
        yield inspection
    finally:
        if not inspection.bounded.stuck:
            conn.close()


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    for pragma in (f"busy_timeout = {_BUSY_MS}", "query_only = ON", "trusted_schema = OFF"):
        conn.execute(f"PRAGMA {pragma}")  # none of them reads the file
    return conn


def _check_file(path: Path) -> None:
    what = f"database {path}"
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            what, "there is no such file", "Check the path. An app creates its database when it starts."
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(what, f"its path cannot be read ({error})", "Check the path.") from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreIsDirectory(what, f"it is {files.kind(found)}", "Name the database file itself.")
    if not os.access(path, os.R_OK):
        raise StoreError(what, "it cannot be read", "Give this user read access.")


# -- processes -----------------------------------------------------------------------------------

PROCESSES: Final = (
    "id, host, pid, started_at, beat_at, iif(stopping, '[]', handlers), problems, limits FROM main.aether_owners"
)


def _processes(conn: sqlite3.Connection, path: Path) -> list[Process]:
    """All that are registered, oldest first. Rows that cannot be read are left out: `check` reports them."""
    now, locks = datetime.now(UTC), OwnerLocks(path)
    with any_text(conn):
        rows = conn.execute(f"SELECT {PROCESSES} ORDER BY started_at").fetchall()
    found = [process for row in rows if (process := read_process(row, now)) is not None]
    # the lock of a dead one is released at once: the process that recovers its jobs needs it
    return [attrs.evolve(one, state="dead") if locks.dead(one.id, keep=False) else one for one in found]


def read_process(row: Sequence[Any], now: datetime) -> Process | None:
    """None if it cannot be read."""
    id_, host, pid, started, beat, handlers, problems, limits = row
    try:
        process = Process(
            id=to_uuid(id_), state="alive", host=host, pid=pid, started_at=instant(started), beat_at=instant(beat),
            handlers=frozenset(json.loads(handlers)), problems=tuple(json.loads(problems)),
            limits=json.loads(limits),
        )  # fmt: skip
        silent = (now - process.beat_at).total_seconds() > SILENT
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None
    return attrs.evolve(process, state="silent") if silent else process


def _wait_for_writers(path: Path) -> None:
    file = path.with_name(f"{path.name}-lock")
    if not file.exists():
        return
    try:
        lock = WriteLock(file, path)
    except OSError:
        return  # another user's: opening the store says so
    try:
        if not lock.acquire_within(LOCKED):
            raise files.busy(path)
    finally:
        lock.close()  # which releases it
