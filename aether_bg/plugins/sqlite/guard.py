"""Keeps the user's SQL inside its transaction, and short (PROTOCOL W7)."""

from __future__ import annotations

import secrets
import sqlite3
import time
from types import TracebackType
from typing import Final

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
_STEPS_BETWEEN_LOOKS: Final = 10_000


class Guard:
    """`with guard:` around the user's SQL. Installed once on the write connection.

    The authorizer asks a flag. It is consulted when a statement is compiled, and compiled statements are cached:
    so the writer's own BEGIN, COMMIT and SAVEPOINT carry a comment nobody can guess, and the user's never match them.
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._active = False
        self._denied: str | None = None
        self._until = 0.0
        self.mark: Final = f"/* {secrets.token_hex(8)} */"
        conn.set_authorizer(self._authorize)

    def _authorize(self, action: int, *_about: str | None) -> int:
        if self._active and action in _DENIED:
            self._denied = _DENIED[action]
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
            raise DeniedSQL(
                f"{self._denied} in a unit of work",
                "its statements run inside one transaction, which it may not end or escape",
                "Leave it out; the commit happens when the unit ends.",
            ) from error
