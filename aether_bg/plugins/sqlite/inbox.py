"""The writer's queue, and how it waits for the first operation: a tick, or at rest until the system tells of news."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Final

from aether_bg.plugins.sqlite.operations import Operation
from aether_bg.plugins.sqlite.watch import Watch

TICK: Final = 0.1
"""Seconds between looks at other processes' writes, the heartbeat and the length of the WAL; longer only at rest."""
SOON: Final = 0.002
"""Seconds to the first look after the system has told of a write, which is committed a little later."""


class Inbox:
    def __init__(self, watch: Watch) -> None:
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self.watch = watch
        self._wait, self._quiet = TICK, False
        """`_quiet`: a whole tick has brought neither an operation nor a write of another process."""

    def put(self, operation: Operation | None) -> None:
        self._queue.put(operation)
        self.watch.wake()

    def stir(self) -> None:
        """Another process has written, and may go on: look every tick."""
        self._wait, self._quiet = TICK, False

    def first(self, rest: float, changes: int, news: Callable[[], bool]) -> Operation | None:
        """Waits for it. Raises `queue.Empty` when it is time to look.

        `rest`: seconds that it may take where the system tells of writes; `changes`: rows that we have ever written;
        `news`: whether another process has written since the last look.
        """
        if self._quiet and rest > 0 and self.watch.begin(changes):
            return self._at_rest(rest, news)
        try:
            found = self._queue.get(timeout=self._wait)
        except queue.Empty:
            self._wait, self._quiet = min(2 * self._wait, TICK), self._wait == TICK
            raise
        self.stir()
        return found

    def _at_rest(self, rest: float, news: Callable[[], bool]) -> Operation | None:
        try:
            if self._queue.empty() and (news() or self.watch.rest(rest)):
                self._wait, self._quiet = SOON, False
        finally:
            self.watch.end()
        found = self._queue.get_nowait()
        self.stir()
        return found

    def next(self) -> Operation | None:
        """Raises `queue.Empty`."""
        return self._queue.get_nowait()
