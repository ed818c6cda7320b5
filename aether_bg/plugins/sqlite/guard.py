"""Keeps the user's SQL inside its transaction, away from our tables, and short (docs/protocol.md, W7 and W11)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from aether_bg.errors import DeniedSQL

LONGEST: Final = 1.0
"""Seconds one stretch of the user's SQL may take before it is interrupted."""

_DENIED: Final = {
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT and RELEASE",
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_PRAGMA: "PRAGMA",
}
_READS: Final = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)
_OURS: Final = "aether_"
_MARK: Final = "/* user */ "
_STEPS_BETWEEN_LOOKS: Final = 10_000


class Guard:
    """`with guard:` around the user's SQL. Installed once on the write connection.

    The authorizer asks a flag. It is consulted when a statement is compiled, and compiled statements are cached by
    their text: so the user's begin with a comment that ours never begin with.
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._active = False
        self._denied: tuple[str, str, str] | None = None
        self._until = 0.0
        conn.set_authorizer(self._authorize)

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run one statement of the user's; its rows. Raises `DeniedSQL` for what a unit of work may not do."""
        with self:
            return self._conn.execute(_MARK + sql, params).fetchall()

    def _authorize(self, action: int, first: str | None, second: str | None, *_where: str | None) -> int:
        if not self._active or action in _READS:
            return sqlite3.SQLITE_OK
        if action in _DENIED:
            self._denied = (
                f"{_DENIED[action]} in a unit of work",
                "its statements run inside one transaction, which it may not end or escape",
                "Leave it out; the commit happens when the unit ends.",
            )
            return sqlite3.SQLITE_DENY
        named = (first,) if action == sqlite3.SQLITE_UPDATE else (first, second)  # the second is a column there
        for name in named:
            if name is not None and name.lower().startswith(_OURS):
                self._denied = (
                    f"a change of {name} in a unit of work",
                    f"what is named {_OURS}… belongs to aether_bg and may only be read",
                    "Use its verbs (enqueue, update, delete, …), and other names for tables of yours.",
                )
                return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def _overdue(self) -> bool:
        return time.monotonic() > self._until

    def __enter__(self) -> None:
        self._active, self._denied = True, None
        self._until = time.monotonic() + LONGEST
        self._conn.set_progress_handler(self._overdue, _STEPS_BETWEEN_LOOKS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        self._conn.set_progress_handler(None, 0)
        if self._denied is not None and isinstance(error, sqlite3.DatabaseError):
            raise DeniedSQL(*self._denied) from error
