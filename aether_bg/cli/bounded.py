"""Work on a database that may be made to hang: it ends at a deadline, and on Ctrl-C, whatever SQLite is doing."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aether_bg.errors import StoreError

R = TypeVar("R")

_STEP: Final = 100_000
"""Instructions of SQLite's between two looks."""
_LAST: Final = 0.5
"""Seconds that an interrupted statement gets to end."""


class Bounded:
    """Runs work on one connection in a thread of its own; the main thread waits, and stays free for Ctrl-C.

    SQLite looks at an interrupt only between its instructions, and a single one can be made to take for ever: then
    the thread is left behind, and `stuck` is set.
    """

    def __init__(self, conn: sqlite3.Connection, what: str) -> None:
        self._conn, self._what = conn, what
        self.stuck = False
        self.ticked: Callable[[], object] = lambda: None
        """Called now and then while SQLite works."""
        self._stop = False
        self._last = 0.0
        conn.set_progress_handler(self._tick, _STEP)

    def _tick(self) -> bool:
        self._last = time.monotonic()
        self.ticked()
        return self._stop

    def run(self, work: Callable[[], R], within: float, *, while_it_goes_on: bool = False) -> R:
        """What `work` returns, or raises. `within`: seconds; with `while_it_goes_on` since the last sign of life.

        Raises a `StoreError` after that.
        """
        done, result = threading.Event(), list[Any]()
        error: list[BaseException] = []

        def target() -> None:
            try:
                result.append(work())
            except BaseException as problem:
                error.append(problem)
            done.set()

        began = self._last = time.monotonic()
        threading.Thread(target=target, name="aether-bg question", daemon=True).start()
        try:
            while not done.wait(0.1):
                if time.monotonic() - (self._last if while_it_goes_on else began) > within:
                    break
        finally:
            if not done.is_set():
                self._stop = True
                self._conn.interrupt()
                self.stuck = not done.wait(_LAST)
        if not done.is_set() or self._stop:
            raise StoreError(
                self._what, f"a question to it has not been answered within {within:g} s",
                "A database of aether_bg answers at once: was this one made, or changed, by something else?",
            )  # fmt: skip
        if error:
            raise error[0]
        answer: R = result[0]
        return answer
