"""Work on a database that may be made to hang: it ends at a deadline or when cancelled, whatever SQLite is doing."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

from aether_bg.bridge import Bridge
from aether_bg.errors import StoreError

R = TypeVar("R")

_STEP: Final = 100_000
"""SQLite instructions between two checks for an interrupt."""
_LOOK: Final = 0.1
"""Seconds between two checks of the deadline."""
_LAST: Final = 0.5
"""Seconds that an interrupted statement has to end."""


class Bounded:
    """Runs work on one connection, each time in a new daemon thread.

    SQLite checks for an interrupt between its instructions, but a crafted database can make a single instruction run
    for ever. Then the thread is left behind, and `stuck` is set: the connection must not be closed.
    """

    def __init__(self, conn: sqlite3.Connection, what: str) -> None:
        self._conn, self._what = conn, what
        self.stuck = False
        self.ticked: Callable[[], object] = bool
        """Called from time to time, in the thread, while SQLite works."""
        self._stop = False
        self._last = 0.0
        conn.set_progress_handler(self._tick, _STEP)

    def _tick(self) -> bool:
        self._last = time.monotonic()
        self.ticked()
        return self._stop

    async def run(self, work: Callable[[], R], within: float, *, while_it_goes_on: bool = False) -> R:
        """Returns what `work` returns; raises its error, or a `StoreError` after `within` seconds, which
        `while_it_goes_on` counts from the last sign of life."""
        done, bridge = anyio.Event(), Bridge()
        result: list[R] = []
        error: list[BaseException] = []

        def target() -> None:
            try:
                result.append(work())
            except BaseException as problem:
                error.append(problem)
            bridge.post(done.set)

        began = self._last = time.monotonic()
        threading.Thread(target=target, name="aether_bg question", daemon=True).start()
        try:
            while not done.is_set() and time.monotonic() - (self._last if while_it_goes_on else began) <= within:
                with anyio.move_on_after(_LOOK):
                    await done.wait()
        finally:
            if not done.is_set():
                self._stop = True
                self._conn.interrupt()
                with anyio.move_on_after(_LAST, shield=True):
                    await done.wait()
                self.stuck = not done.is_set()
        if self._stop:
            raise StoreError(
                self._what, f"it has not answered a question within {within:g} s",
                "A database of aether_bg answers at once. Find out whether another program made or changed this one.",
            )  # fmt: skip
        if error:
            raise error[0]
        return result[0]
