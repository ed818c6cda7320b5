"""Tells the time: by the app's clock, or by the store's if the store tells its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aether_bg._rules.changes import Moment
from aether_bg._rules.settings import SystemClock
from aether_bg.protocols import Clock


class Timekeeper:
    """Machines that share a store have different clocks. Once the store has told its time, `now` is that time plus the
    monotonic time since; an app with a clock of its own keeps that clock. `by`: who acts, for the audit fields."""

    def __init__(self, clock: Clock, by: Callable[[], str | None]) -> None:
        self._clock, self._by = clock, by
        self.now: Callable[[], datetime] = clock.now
        self.monotonic: Callable[[], float] = clock.monotonic
        self._told: datetime | None = None
        self._at = 0.0
        self._moment = Moment(datetime.min.replace(tzinfo=UTC), None)

    def __repr__(self) -> str:
        return repr(self._clock) if self._told is None else f"<the store's clock, by {self._clock!r}>"

    def moment(self) -> Moment:
        now, by, last = self.now(), self._by(), self._moment
        if now is last.now and by == last.by:  # what happens together shares one
            return last
        self._moment = Moment(now, by)
        return self._moment

    def adopt(self, told: datetime | None, asked: float) -> timedelta:
        """The store answered that it is `told`; it was asked at `asked` of the monotonic clock. Returns how far the
        store's clock is ahead of this machine's."""
        if told is None or not isinstance(self._clock, SystemClock):
            return timedelta(0)
        answered = self.monotonic()
        at, doubt = (asked + answered) / 2, timedelta(seconds=(answered - asked) / 2)
        if self._told is None or abs(told - self._by_store(at)) > doubt:  # else it says nothing new
            self._told, self._at, self.now = told, at, self._shared
        return self.now() - self._clock.now()

    def _shared(self) -> datetime:
        return self._by_store(self.monotonic())

    def _by_store(self, monotonic: float) -> datetime:
        assert self._told is not None
        return self._told + timedelta(seconds=monotonic - self._at)
