"""Stored schedules as this process reads them, and those that it cannot read (docs/protocol.md, C8)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

import anyio

from aether_bg._rules.recurrence import Plan
from aether_bg.bridge import Threads
from aether_bg.errors import InvalidSchedule
from aether_bg.model import JobInfo
from aether_bg.protocols import Clock
from aether_bg.schedule import Schedule

T = TypeVar("T")


class Schedules:
    """`load`: reads a stored schedule, or raises `InvalidSchedule`."""

    def __init__(self, load: Callable[[str, str | None], Schedule], clock: Clock) -> None:
        self.load, self._clock = lru_cache(maxsize=1024)(load), clock
        self.unreadable: set[tuple[str, str | None]] = set()
        """As (text, zone): jobs with these schedules are left to other processes."""
        self.undone: datetime | None = None
        """What the wall clock showed before it was last set back by three hours or more (docs/protocol.md, R5)."""
        self._one, self._threads = anyio.CapacityLimiter(1), Threads("aether_bg kernel")

    def plan(self, job: JobInfo) -> Plan:
        """Raises `InvalidSchedule`, for example when the schedule's plugin is gone."""
        schedule: Schedule = self.load(job.expression_value, job.timezone)
        plan = Plan.of(schedule, job, self.undone)
        return plan.grounded(self._clock.now()) if schedule.recurring else plan

    def plan_or_none(self, job: JobInfo) -> Plan | None:
        """None: this process cannot read it, and will not claim its jobs."""
        try:
            return self.plan(job)
        except InvalidSchedule:
            self.unreadable.add((job.expression_value, job.timezone))
            return None

    def cannot_read(self, job: JobInfo) -> bool:
        return (job.expression_value, job.timezone) in self.unreadable

    def read_again(self) -> bool:
        """Whether a schedule that could not be read can be read now: its plugin may have failed for a passing
        reason."""
        before = len(self.unreadable)
        self.unreadable -= {each for each in self.unreadable if self._reads(*each)}
        return len(self.unreadable) < before

    def _reads(self, text: str, timezone: str | None) -> bool:
        try:
            self.load(text, timezone)
        except InvalidSchedule:
            return False
        return True

    async def aside(self, fn: Callable[..., T], *args: object) -> T:
        """Runs a search or count of missed occurrences off the event loop, one at a time (docs/protocol.md, R7)."""
        async with self._one:
            return await self._threads.run(fn, *args)
