"""Keeps the user's SQL inside its transaction, away from our tables, and short (docs/protocol.md, W7 and W11)."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from aether_bg.errors import DeniedSQL, UnitOfWorkTimeout, shown
from aether_bg.plugins.sqlite.operations import OWN, Operation
from aether_bg.plugins.sqlite.schema import foreign_names

LONGEST: Final = 1.0
"""Seconds one stretch of the user's SQL may take before it is interrupted."""

_DENIED: Final = {
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT and RELEASE",
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_PRAGMA: "PRAGMA",
}
_TEMPORARY: Final = frozenset((
    sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_INDEX, sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
    sqlite3.SQLITE_CREATE_TEMP_VIEW,
))  # fmt: skip
_LIMITS: Final = {sqlite3.SQLITE_LIMIT_LENGTH: 16 * 1024 * 1024, sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000}
"""For the user's SQL: one function on enormous values is one instruction, which nothing can interrupt."""
MOST_SQL: Final = 1_000_000
"""Characters of a statement."""
MOST_ROWS: Final = 100_000
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of text and BLOBs in the rows of one result."""
_READS: Final = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)
_OURS: Final = "aether_"
_MARK: Final = "/* user */ "
_STEPS_BETWEEN_LOOKS: Final = 10_000
_STEPS_OF_OURS: Final = 1_000_000
"""Each check takes the interpreter lock, so our own statements end before the first one."""


class Guard:
    """`with guard:` around the user's SQL. Installed once on the write connection.

    The authorizer reads a flag when a statement is compiled, and compiled statements are cached by their text: so the
    user's statements begin with a comment that ours never begin with.
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._active = False
        self._denied: tuple[str, str, str] | None = None
        self._altered = False
        self._until = self._unit_until = math.inf
        self._before: dict[int, int] = {}
        conn.set_authorizer(self._authorize)
        conn.set_progress_handler(self._overdue, _STEPS_OF_OURS)

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Runs one statement of the user's and returns its rows. Raises `DeniedSQL` for what a unit of work must not
        do, and `UnitOfWorkTimeout`."""
        if not isinstance(sql, str) or len(sql) > MOST_SQL:
            rule = f"must be text of at most {MOST_SQL:,} characters"
            raise DeniedSQL(f"a statement in a unit of work, {shown(sql)},", rule, "Pass data as parameters.")
        if self._active:
            raise DeniedSQL(
                "a statement in a unit of work", "must not begin while another one runs", "Run it before or after."
            )
        with self:
            self._altered = False
            cursor = self._conn.execute(_MARK + sql, params)
            try:
                rows = _bounded(cursor)
            finally:
                cursor.close()
        if self._altered and (taken := foreign_names(self._conn)):  # the authorizer is not given the new name
            raise DeniedSQL(*_change_of(taken[0]))
        return rows

    def begin(self, op: Operation) -> None:
        """An operation starts. Its statements are interrupted when its time is over."""
        self._unit_until = op.started + (op.limit or OWN)
        if op.limit is not None:
            self._conn.set_progress_handler(self._overdue, _STEPS_BETWEEN_LOOKS)

    def end(self, op: Operation) -> None:
        self._unit_until = math.inf
        if op.limit is not None:
            self._conn.set_progress_handler(self._overdue, _STEPS_OF_OURS)

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self._unit_until

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, within: str | None
    ) -> int:
        if action in _READS:
            return sqlite3.SQLITE_OK
        if not self._active:  # ours; what a trigger does in it is not
            foreign = within is not None and first is not None and first.lower().startswith(_OURS)
            return sqlite3.SQLITE_DENY if foreign else sqlite3.SQLITE_OK
        renames = action == sqlite3.SQLITE_UPDATE and first == "sqlite_temp_master"  # ALTER TABLE … RENAME looks there
        if action in _TEMPORARY or (database == "temp" and action != sqlite3.SQLITE_PRAGMA and not renames):
            self._denied = (
                f"a temporary {first} in a unit of work",
                "temporary objects last as long as the connection, which is not yours",
                "Make a table of your own, or use WITH.",
            )
            return sqlite3.SQLITE_DENY
        if action in _DENIED:
            self._denied = (
                f"{_DENIED[action]} in a unit of work",
                "its statements run inside one transaction, which it may not end or escape",
                "Leave it out; the commit happens when the unit ends.",
            )
            return sqlite3.SQLITE_DENY
        self._altered |= action == sqlite3.SQLITE_ALTER_TABLE
        named = (first,) if action == sqlite3.SQLITE_UPDATE else (first, second)  # the second is a column there
        for name in named:
            if name is not None and name.lower().startswith(_OURS):
                self._denied = _change_of(name)
                return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def _overdue(self) -> bool:
        now = time.monotonic()
        return now > self._until or now > self._unit_until

    def __enter__(self) -> None:
        self._active, self._denied = True, None
        self._until = time.monotonic() + LONGEST
        for limit, value in _LIMITS.items():
            self._before[limit] = self._conn.setlimit(limit, value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        late, self._until = time.monotonic() > self._until, math.inf
        for limit, value in self._before.items():
            self._conn.setlimit(limit, value)
        if late and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise UnitOfWorkTimeout(
                "a statement in a unit of work", f"must end within {LONGEST:g} s",
                "It holds the database for all: let it change fewer rows, or split it.",
            ) from error  # fmt: skip
        if self._denied is not None and isinstance(error, sqlite3.DatabaseError):
            raise DeniedSQL(*self._denied) from error


def _change_of(name: str) -> tuple[str, str, str]:
    return (
        f"a change of {name} in a unit of work",
        f"what is named {_OURS}… belongs to aether_bg and may only be read",
        "Use its verbs (enqueue, update, delete, …), and other names for tables of yours.",
    )


def _bounded(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    while some := cursor.fetchmany(1000):
        rows += some
        size += sum(len(value) for row in some for value in row if isinstance(value, str | bytes))
        if len(rows) > MOST_ROWS or size > MOST_BYTES:
            raise DeniedSQL(
                "the result of a statement in a unit of work",
                f"must have at most {MOST_ROWS:,} rows and {MOST_BYTES / 1024**2:.0f} MiB",
                "Use LIMIT, or read it on a connection of your own.",
            )
    return rows
