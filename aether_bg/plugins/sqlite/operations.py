"""What the writer does: operations by rank, and the heartbeat that it keeps by itself."""

from __future__ import annotations

import enum
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aether_bg.bridge import Bridge

OWN: Final = 10.0
"""Seconds for our own statements: a trigger on one of the user's tables may run inside them."""
OFTEN: Final = 0.5
"""Seconds between looks at whether a stop has been asked for, while jobs of this process run."""
SELDOM: Final = 5.0
"""The longest rest of an idle writer, whatever the system tells."""
_SLACK: Final = 0.5
"""Seconds that SQLite has to react to an interrupt before a statement counts as stuck."""


class Rank(enum.IntEnum):
    """Order within the queue (W3)."""

    BEAT = 0
    OUTCOME = 1
    OTHER = 2


class _State(enum.Enum):
    PENDING = enum.auto()
    TAKEN = enum.auto()
    EXPIRED = enum.auto()
    SEALED = enum.auto()
    ABANDONED = enum.auto()


class Operation:
    """Something to do inside a write transaction, and what became of it.

    PENDING changes once, to TAKEN by the writer or to EXPIRED by its waiter: an expired operation never runs (W2). From
    TAKEN it changes to SEALED by the writer, just before the commit, or before that to ABANDONED by its waiter: an
    abandoned one is never committed.
    """

    __slots__ = (
        "_lock",
        "_state",
        "bridge",
        "deadline",
        "done",
        "error",
        "finished",
        "limit",
        "name",
        "rank",
        "result",
        "run",
        "started",
        "theirs",
    )

    def __init__(
        self,
        run: Callable[[sqlite3.Connection], Any],
        rank: Rank,
        deadline: float,
        bridge: Bridge | None = None,
        finished: Callable[[], object] = bool,
        *,
        theirs: bool = False,
        limit: float | None = None,
        name: Callable[[], str] = str,
    ) -> None:
        """`finished` is called through `bridge`, on the loop that waits. `theirs`: it runs the user's SQL or code,
        whose errors are not the store's. `limit`: seconds that it may run; `name`: what it is, for errors."""
        self.run, self.rank, self.deadline = run, rank, deadline
        self.bridge, self.finished, self.theirs = bridge, finished, theirs
        self.limit, self.name, self.started = limit, name, 0.0
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self._state = _State.PENDING
        self._lock = threading.Lock()

    def take(self) -> bool:
        return self._move(_State.PENDING, _State.TAKEN)

    def expire(self) -> bool:
        return self._move(_State.PENDING, _State.EXPIRED)

    def seal(self) -> bool:
        """It will be committed now."""
        return self._move(_State.TAKEN, _State.SEALED)

    def again(self) -> None:
        """It must run again: its changes were rolled back with another operation's."""
        self._move(_State.SEALED, _State.TAKEN)

    def abandon(self) -> bool:
        return self._move(_State.TAKEN, _State.ABANDONED)

    @property
    def abandoned(self) -> bool:
        return self._state is _State.ABANDONED

    @property
    def given_up(self) -> bool:
        return self._state in (_State.ABANDONED, _State.EXPIRED)

    @property
    def overdue(self) -> bool:
        """It has been running for longer than it may."""
        return self._runs_for(0.0)

    @property
    def stuck(self) -> bool:
        """It is running, its caller has given up, and nothing else can be written until it ends."""
        return self.abandoned or self._runs_for(_SLACK)

    def _runs_for(self, more: float) -> bool:
        return self.started > 0 and time.monotonic() > self.started + (self.limit or OWN) + more

    def _move(self, before: _State, to: _State) -> bool:
        with self._lock:
            if self._state is not before:
                return False
            self._state = to
            return True


class Beat:
    """The heartbeat that the writer keeps while the loop is busy (docs/protocol.md, P3).

    `renew` is given whether the owner is stopping: with a blocked loop nothing else announces it (S7).
    """

    def __init__(
        self, renew: Callable[[sqlite3.Connection, bool], bool], interval: float, keep_for: float,
        stop_asked: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._renew, self._interval, self._stop_asked = renew, interval, stop_asked
        self._next = time.monotonic() + interval
        self._announced = False
        self._last: Operation | None = None
        self.keep(keep_for)
        self.lost = False
        self.claims = self.settled = 0
        """Claims that took something; how many there had been when nothing of it was running any more."""

    def keep(self, seconds: float) -> None:
        self._keep_until = time.monotonic() + seconds

    def rest(self) -> float:
        """Seconds until the next question. A handler may block the loop, so that only this notices the stop."""
        if self._last is not None and self._last.error is not None:
            return 0.0
        return min(max(0.0, self._next - time.monotonic()), OFTEN if self.claims > self.settled else SELDOM)

    def due(self) -> Operation | None:
        """A beat that failed is tried again at once: others may count the time without one (docs/protocol.md, P6)."""
        now = time.monotonic()
        failed = self._last is not None and self._last.error is not None
        stopping = self._stop_asked()
        in_time = now <= self._keep_until and (now >= self._next or failed)
        if self.lost or not (in_time or stopping > self._announced):
            return None
        self._next, self._announced = now + self._interval, stopping
        self._last = Operation(partial(self._run, stopping=stopping), Rank.BEAT, now + self._interval)
        return self._last

    def _run(self, conn: sqlite3.Connection, *, stopping: bool) -> None:
        self.lost = not self._renew(conn, stopping)
