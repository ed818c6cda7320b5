"""When the scheduler looks for due jobs again: at its own time, at an earlier expected one, or when it is woken."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import anyio

from aether_bg._kernel.tasks import Run, Signal, to_tick
from aether_bg.protocols import Clock

_NAPS: Final = 10
"""After that many naps the scheduler looks, even at a store that is sure to wake it."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
Waiting = tuple[UUID, int]
"""A job at one seq."""


class Alarm:
    """Times one scheduler's sleep; whatever commits a waiting job reports its due time here.

    A due time that is reported while the scheduler sleeps wakes it. One that is reported while it looks counts only if
    that look does not take the job: a job that is inserted and claimed in one transaction causes one look only.
    """

    def __init__(self, *, clock: Clock, nap: float, on_loop: Run) -> None:
        self._clock, self._nap, self._on_loop = clock, nap, on_loop
        self._naps = 1
        """Left of this sleep, or of the next one."""
        self._was_sure = False
        """The last look was."""
        self.roused, self.stirred = Signal(), Signal()
        """Set by `wake`, for others who wait for changes; `stirred` also when an attempt begins where none ran."""
        self._woken = anyio.Event()
        self._until: datetime | None = None
        """When its nap ends, while the scheduler sleeps."""
        self._expected: datetime | None = None
        """The earliest due time reported since the last look."""
        self._during: dict[Waiting, datetime] | None = None
        """Due times reported during the current look."""
        self._taken: Collection[Waiting] = ()
        """The jobs that the last look took."""

    def wake(self) -> None:
        """Something may have changed. From any thread."""
        self._on_loop(self._wake)

    def _wake(self) -> None:
        self._woken.set()
        self.roused.set()
        self.stirred.set()

    def expect(self, job_id: UUID, seq: int, due: datetime | None) -> None:
        """This job waits for `due`: do not sleep longer than that."""
        if due is None or self._took((job_id, seq)):
            return
        if self._during is not None:
            self._during[job_id, seq] = due
            return
        if self._expected is None or due < self._expected:
            self._expected = due
        if self._until is not None and due < self._until:
            self._woken.set()

    def sleeps_past(self, now: datetime) -> bool:
        """The scheduler sleeps, and knows of nothing that is due by then."""
        return self._until is not None and self._until > now and not self._woken.is_set()

    @property
    def sure(self) -> bool:
        """The scheduler sleeps, and the last look was sure."""
        return self._until is not None and self._was_sure

    def looking(self) -> None:
        """Now the jobs that were reported so far are found: by the scheduler, or by a drain while that sleeps on, for
        what it expects."""
        if self._until is None:
            self._expected = None
        self._during, self._taken = {}, ()

    def looked(self, taken: Collection[Waiting], *, sure: bool = False) -> None:
        """The look took these jobs. `sure`: a job that becomes due is reported here, or wakes the scheduler."""
        self._was_sure, self._naps = sure, _NAPS if sure else 1
        during, self._during, self._taken = self._during or {}, None, taken
        for waiting, due in during.items():
            self.expect(*waiting, due)

    def _took(self, waiting: Waiting) -> bool:
        if not self._taken:
            return False
        if not isinstance(self._taken, frozenset):  # it is made once somebody asks: a drain never does
            self._taken = frozenset(self._taken)
        return waiting in self._taken

    async def sleep_until(self, when: datetime | None) -> None:
        """Sleeps until then, until an earlier due time, or until `wake`. After each nap it reads the clock again, which
        may have been set (docs/protocol.md, R4). Where the last look was not sure, it ends after one nap (P12)."""
        if when is not None and (self._expected is None or when < self._expected):
            self._expected = when
        try:
            while self._naps > 0:
                now = self._clock.now()
                self._until = min(self._expected or _NEVER, now + timedelta(seconds=to_tick(self._nap)))
                if (wait := (self._until - now).total_seconds()) <= 0:
                    return await anyio.sleep(0)
                with anyio.move_on_after(wait):
                    return await self._woken.wait()
                self._naps -= 1
        finally:
            self._until, self._expected, self._naps, self._was_sure = None, None, 1, False
            self._woken = anyio.Event()
