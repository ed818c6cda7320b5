"""When the scheduler looks for due jobs again: at its own time, at an earlier one that is expected, or at a wake."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

import anyio

from aether_bg._kernel.tasks import Run, Signal
from aether_bg.protocols import Clock

Waiting = tuple[UUID, int]
"""A job at one seq."""


class Alarm:
    """One scheduler sleeps by it; whatever commits a waiting job tells it the due time.

    What is expected while the scheduler sleeps wakes it. What is expected while it looks counts only if that look does
    not take the job: a job that is inserted and claimed in one transaction is looked for once.
    """

    def __init__(self, *, clock: Clock, nap: float, on_loop: Run) -> None:
        self._clock, self._nap, self._on_loop = clock, timedelta(seconds=nap), on_loop
        self.roused = Signal()
        """Set by `wake`, for others who wait for news."""
        self._woken = anyio.Event()
        self._until: datetime | None = None
        """When the scheduler will look again, while it sleeps."""
        self._expected: datetime | None = None
        """The earliest due time that became known while it was awake."""
        self._during: dict[Waiting, datetime] | None = None
        """Due times that became known during the look that goes on."""
        self._taken: frozenset[Waiting] = frozenset()
        """What the last look took."""

    def wake(self) -> None:
        """Something may have changed. From any thread."""
        self._on_loop(self._wake)

    def _wake(self) -> None:
        self._woken.set()
        self.roused.set()

    def expect(self, job_id: UUID, seq: int, due: datetime | None) -> None:
        """This job waits for `due`: do not sleep past that."""
        if due is None or (job_id, seq) in self._taken:
            return
        if self._during is not None:
            self._during[job_id, seq] = due
        elif self._until is not None:
            if due < self._until:
                self._woken.set()
        elif self._expected is None or due < self._expected:
            self._expected = due

    def looking(self) -> None:
        """The scheduler looks now, and will find what has been expected so far."""
        self._expected, self._during, self._taken = None, {}, frozenset()

    def looked(self, taken: Iterable[Waiting]) -> None:
        """It has taken these."""
        during, self._during, self._taken = self._during or {}, None, frozenset(taken)
        for waiting, due in during.items():
            self.expect(*waiting, due)

    async def sleep_until(self, when: datetime | None) -> None:
        now = self._clock.now()
        expected, self._expected = self._expected, None
        self._until = min(due for due in (when, expected, now + self._nap) if due is not None)
        wait = (self._until - now).total_seconds()
        try:
            if wait > 0:
                with anyio.move_on_after(wait):
                    await self._woken.wait()
            else:
                await anyio.sleep(0)
        finally:
            self._until = None
            self._woken = anyio.Event()
