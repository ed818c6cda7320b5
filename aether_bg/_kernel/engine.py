"""The two doors to an attempt, for schedulers that pull and those that push; what plugins know as `Kernel`."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import anyio

from aether_bg._handlers.dependencies import Dependencies
from aether_bg._handlers.handlers import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.attempts import Attempts
from aether_bg._kernel.core import BACKOFF, NAP, RECENT, Core
from aether_bg._kernel.tasks import Spawn, longer
from aether_bg._kernel.unserved import Unserved
from aether_bg._rules.options import Options
from aether_bg.errors import NotStarted, StoreError
from aether_bg.model import Claim, Claimed, Fired, JobStatus, Query

EARLY: Final = 1.0
"""Seconds by which a trigger may be early and is waited for (PROTOCOL C2)."""
ROOM: Final = 5.0
"""Seconds a trigger waits for free capacity before it is told to come again."""
FOREIGN: Final = timedelta(minutes=10)
"""How long a trigger of another store is told to come again (PROTOCOL D5)."""


class Engine(Core):
    """The core with its doors, and the attempts behind them. Implements `Kernel`."""

    def __init__(
        self, options: Options, calls: Calls, handlers: Handlers, dependencies: Dependencies, spawn: Spawn
    ) -> None:
        super().__init__(options, calls, handlers, dependencies, spawn)
        self.attempts = Attempts(self)
        self.unserved = Unserved(self)
        self._claiming = anyio.Lock(fast_acquire=True)
        self._knocking = 0
        """Slots kept for triggers whose claim is on its way."""
        self._trouble = 0.0
        self._foreign_quiet = -math.inf
        """Until then no further trigger of another store is reported."""
        self.claim_error: StoreError | None = None
        """Why the last claim failed, if it did."""

    @property
    def free(self) -> int:
        """Slots for attempts. Outcomes not yet committed hold some back, so that trouble there slows the claiming."""
        running, unrecorded = len(self.attempts.running) + self._knocking, len(self.attempts.recording)
        return min(self.options.concurrency - running, 2 * self.options.concurrency - running - unrecorded)

    @property
    def claiming(self) -> bool:
        """A claim is on its way: what it takes starts at once."""
        return self._knocking > 0 or self._claiming.locked()

    async def fire_due(self) -> datetime | None:
        while self.free < 1 and not self.stopping:
            await self.attempts.room(NAP)
        self.expect_nothing()
        if self.stopping:
            return None
        try:
            claim, claimed = await self._claim_due()
        except StoreError as error:
            return await self._claim_failed(error)
        self._trouble, self.claim_error = 0.0, None
        if len(claimed.jobs) >= claim.limit > 0:
            return claim.now
        return claimed.next_due

    async def _claim_due(self) -> tuple[Claim, Claimed]:
        async with self._claiming:
            claim = Claim(
                owner=self.owner, now=self.clock.now(), limit=self.free, handlers=tuple(self.handlers),
                suspect=not self.suspect_running, unreadable=tuple(self.unreadable),
            )  # fmt: skip
            with anyio.CancelScope(shield=True):  # between commit and start no cancellation may come (PROTOCOL C5)
                claimed = await self.calls.claim(claim)
                for job in claimed.jobs:
                    self.attempts.start(job)
            return claim, claimed

    async def _claim_failed(self, error: StoreError) -> datetime:
        self._trouble = longer(self._trouble, BACKOFF)
        self.claim_error = error
        self.report("claiming", error)
        await anyio.sleep(self._trouble)
        return self.clock.now()

    async def fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        """In a task of the kernel's: the caller may be cancelled at any moment (PROTOCOL C5)."""
        done = anyio.Event()
        answer = [Fired.RETRY]

        async def answering() -> None:
            try:
                answer[0] = await self._fire(store_id, job_id, seq, occurrence)
            except (StoreError, NotStarted) as error:
                self.report("trigger", error)
            finally:
                done.set()

        if self.stopping:
            return Fired.RETRY
        self.start_task(answering)
        await done.wait()
        return answer[0]

    async def _fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        if store_id != self.store_id:
            if self.clock.now() - occurrence < FOREIGN:
                return Fired.RETRY
            if self.clock.monotonic() >= self._foreign_quiet:  # they may come by the thousand
                self._foreign_quiet = self.clock.monotonic() + RECENT
                self.report("trigger", f"a trigger of another store ({store_id}) was dropped after ten minutes")
            return Fired.CONSUMED
        found = await self.calls.find(Query(ids=(job_id,)))
        job = found[0] if found else None
        if job is None or job.status.terminal:
            return Fired.CONSUMED
        if job.status is JobStatus.RUNNING and job.owner != self.owner:
            self.look.set()  # if that owner is dead, its job is taken back and armed
        if job.status is JobStatus.RUNNING or job.seq != seq:
            if job.status is JobStatus.SCHEDULED and job.armed_seq != job.seq:
                self.arm(job.id)
            return Fired.CONSUMED
        if job.held:
            return Fired.CONSUMED
        if job.handler_name not in self.handlers or self.plan_or_none(job) is None:
            return Fired.RETRY  # another process can run it (docs/protocol.md, C7 and C8)
        early = (job.due_at - self.clock.now()).total_seconds() if job.due_at else 0.0
        if early > EARLY:
            return Fired.RETRY
        if early > 0:
            await anyio.sleep(early)
        suspect = job.suspect
        deadline = self.clock.monotonic() + ROOM
        while self.free < 1 or (suspect and self.suspect_running):
            if self.stopping or self.clock.monotonic() > deadline:
                return Fired.RETRY
            await self.attempts.room(0.5)
        if self.stopping:
            return Fired.RETRY
        now = max(self.clock.now(), job.due_at or self.clock.now())
        claim = Claim(owner=self.owner, now=now, limit=1, handlers=tuple(self.handlers), job_id=job_id, seq=seq)
        claimed = Claimed()
        self._knocking += 1  # between the look and the claim no other trigger may take the same room
        self.suspect_running |= suspect
        try:
            with anyio.CancelScope(shield=True):
                claimed = await self.calls.claim(claim)
                for taken in claimed.jobs:
                    self.attempts.start(taken)
        finally:
            self._knocking -= 1
            if suspect and not claimed.jobs:
                self.suspect_running = False
        if claimed.jobs:
            return Fired.CLAIMED
        found = await self.calls.find(Query(ids=(job_id,)))  # taken elsewhere, or refused: this owner is unknown
        waits = any(row.seq == seq and row.status is JobStatus.SCHEDULED for row in found)
        return Fired.RETRY if waits else Fired.CONSUMED

    def revoke(self, job_id: UUID) -> None:
        """The row was moved by a verb: its attempt here, if any, has lost its token (PROTOCOL U2)."""
        if attempt := self.attempts.running.get(job_id):
            attempt.revoke()
