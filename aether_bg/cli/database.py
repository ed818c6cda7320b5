"""The database file, opened for reading only: no owner, no lock, no migration, no checkpoint.

A read-only connection cannot get in the way of the processes that use the file, and never makes one.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import click

from aether_bg.cli.bounded import Bounded
from aether_bg.errors import JobNotFound, NotADatabase, SchemaTooNew, StoreBroken, StoreError, StoreIsDirectory, shown
from aether_bg.model import JobInfo, JobRun, Query, Stats
from aether_bg.plugins.sqlite import files, queries
from aether_bg.plugins.sqlite.columns import to_time
from aether_bg.plugins.sqlite.reading import any_text
from aether_bg.plugins.sqlite.rows import stand_ins
from aether_bg.plugins.sqlite.schema import STEPS, applied, refuse_foreign

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_BUSY_MS: Final = 5000
PATIENCE: Final = 20.0
"""Seconds for a question."""
STALLED: Final = 60.0
"""Seconds without a sign of life from a check of the whole file."""
_LONGEST_VALUE: Final = 64 * 1024 * 1024
"""Bytes of a text or BLOB: a file can name sizes that fill the memory."""


def database_argument(command: F) -> F:
    return click.argument("database", metavar="DB", type=click.Path(path_type=Path))(command)


def job_argument(command: F) -> F:
    return click.argument("job", metavar="JOB")(command)


class Reading:
    """Questions to an open database. Raises a `StoreError` where it cannot answer."""

    def __init__(self, path: Path, conn: sqlite3.Connection) -> None:
        self.path, self.conn = path, conn
        self.bounded = Bounded(conn, f"database {path}")

    def ask(self, question: Callable[[sqlite3.Connection], R], *, thorough: bool = False) -> R:
        """`thorough`: it may take as long as it goes on; else it must end within `PATIENCE`."""
        try:
            within = STALLED if thorough else PATIENCE
            return self.bounded.run(lambda: question(self.conn), within, while_it_goes_on=thorough)
        except sqlite3.Error as error:
            raise files.translate(error, self.path) from error
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise StoreBroken(
                f"database {self.path}", f"a row in it cannot be read ({error})", "`aether-bg check` says more."
            ) from error

    def rows(self, sql: str, *params: Any, thorough: bool = False) -> list[tuple[Any, ...]]:
        def all_rows(conn: sqlite3.Connection) -> list[tuple[Any, ...]]:
            with any_text(conn):
                return conn.execute(sql, params).fetchall()

        return self.ask(all_rows, thorough=thorough)

    def one(self, sql: str, *params: Any) -> Any:
        """The first column of the first row."""
        return self.rows(sql, *params)[0][0]

    def find(self, query: Query) -> list[JobInfo]:
        return self.ask(lambda conn: queries.find(conn, query))

    def history(self, job_id: UUID, limit: int) -> list[JobRun]:
        return self.ask(lambda conn: queries.history(conn, job_id, limit))

    def stats(self) -> Stats:
        now = to_time(datetime.now(UTC))
        return self.ask(lambda conn: queries.stats(conn, self.size() + self.wal_size(), now))

    def job(self, text: str) -> JobInfo:
        """By id, or else by name, or else by what is stored as its id. Raises `JobNotFound`."""
        try:
            found = self.find(Query(ids=(UUID(text),)))
        except ValueError:
            found = []
        found = found or self.find(Query(job_name=text, limit=1))
        found = found or self.find(Query(ids=stand_ins(text)))
        if not found:
            raise JobNotFound(
                f"job {shown(text)}", "there is no job with that id or name", "`aether-bg list` shows what there is."
            )
        return found[0]

    def size(self) -> int:
        return os.stat(self.path).st_size

    def wal_size(self) -> int:
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """Open a database of ours. Raises a `StoreError` that says what else it is."""
    with opening(path) as database:
        _check_schema(database)
        yield database


@contextmanager
def opening(path: Path) -> Iterator[Reading]:
    """Open any SQLite database, without a look at its tables."""
    _check_file(path)
    try:
        conn = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise files.translate(error, path) from error
    conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    database = Reading(path, conn)
    try:
        database.rows(f"PRAGMA busy_timeout = {_BUSY_MS}")
        database.rows("PRAGMA query_only = ON")
        database.rows("PRAGMA trusted_schema = OFF")
        yield database
    finally:
        if not database.bounded.stuck:
            conn.close()


def _check_schema(database: Reading) -> None:
    database.ask(lambda conn: refuse_foreign(conn, database.path))
    done = database.ask(applied)
    if not done:
        raise NotADatabase(
            f"database {database.path}", "it is not one of aether_bg: it lacks its tables", "Name an app's file."
        )
    if unknown := [name for name in done if name not in STEPS]:
        raise SchemaTooNew(
            f"database {database.path}",
            f"it was written by a newer aether_bg (schema step {unknown[-1]})",
            "Use the command line of that version.",
        )
    if missing := [name for name in STEPS if name not in done]:
        raise StoreError(
            f"database {database.path}",
            f"it was written by an older aether_bg (schema step {missing[0]} is missing)",
            "Start an app of this version on it, which brings it up to date.",
        )


def _check_file(path: Path) -> None:
    what = f"database {path}"
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            what, "there is no such file", "Check the path; an app makes its database when it starts, aether-bg never."
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(what, f"it cannot be looked at ({error})", "Check the path.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise StoreIsDirectory(what, f"it is {kind}", "Name the database file itself.")
    if not os.access(path, os.R_OK):
        raise StoreError(what, "it cannot be read", "Give this user read access.")
