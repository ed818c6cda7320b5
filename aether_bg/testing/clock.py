"""A clock that stands still until you move it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aether_bg.errors import InvalidOption, shown

START: Final = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """Pass it as `Aether(…, clock=FakeClock())`; then time passes only by `advance`, in every thread.

    A running scheduler reads the clock at least once a second and is not woken by `advance`; `await app.drain()` runs
    at once whatever is due by then. Timeouts, `wait` and the stop use real time, whatever this clock says.
    """

    def __init__(self, start: datetime = START) -> None:
        """`start`: an aware datetime; the monotonic clock begins at zero."""
        self._lock = threading.Lock()
        self._now = _utc(start)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds advanced so far: never goes back."""
        return self._monotonic

    def advance(self, by: timedelta | None = None, /, **length: float) -> datetime:
        """Let time pass, for both clocks: a timedelta or its arguments, `advance(hours=1, seconds=5)`.

        Returns the new wall clock time. Raises `InvalidOption` for a negative length: use `set` to move back.
        """
        step = step_of(by, length)
        with self._lock:
            if step > datetime.max.replace(tzinfo=UTC) - self._now:
                raise InvalidOption(f"advance({step})", "leads out of the calendar", "Advance less.")
            self._now += step
            self._monotonic += step.total_seconds()
            return self._now

    def set(self, now: datetime) -> None:
        """Put the wall clock to an aware datetime, forwards or back; the monotonic clock does not move."""
        with self._lock:
            self._now = _utc(now)

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:%Y-%m-%dT%H:%M:%S.%fZ} monotonic={self._monotonic:g}>"


def step_of(by: timedelta | None, length: Mapping[str, float]) -> timedelta:
    """What `advance` was given. Raises `InvalidOption`."""
    if not isinstance(by, timedelta | None):
        raise InvalidOption(
            shown(by),
            "must be a timedelta, or its arguments by name",
            "For example: advance(days=3).",
            name="the length given to advance()",
        )
    try:
        step = (by or timedelta(0)) + timedelta(**length)
    except OverflowError:
        raise InvalidOption(f"advance({shown(by or length)})", "leads out of the calendar", "Advance less.") from None
    if step < timedelta(0):
        given = "the length given to advance()"
        raise InvalidOption(str(step), "must not lead backwards", "To set the clock back, use set().", name=given)
    return step


def _utc(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidOption(
            shown(value), "must be a datetime with a time zone", "For example: datetime.now(UTC).", name="the time"
        )
    return value.astimezone(UTC)
