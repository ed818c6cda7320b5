"""Triggers of schedulers that call back: each is checked against the row, and claimed or answered (docs/protocol.md,
C2)."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.journal import Journal
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import Signal
from aether_bg._rules import commands
from aether_bg.model import Fired, JobInfo, JobStatus


@attrs.define(kw_only=True, eq=False)
class Triggers:
    """`look`: set when the owner of a running job should be checked now."""

    _shared: Shared
    _claimer: Claimer
    _journal: Journal
    _look: Signal
    _quiet_until: float = attrs.field(default=-math.inf, init=False)
    """No other trigger of a foreign store is reported before this instant."""

    async def fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        """Runs in a task of the kernel's: the caller may be cancelled at any moment (docs/protocol.md, C5)."""
        done = anyio.Event()
        answer = [Fired.RETRY]

        async def answering() -> None:
            try:
                with self._shared.problems.reported("trigger"):
                    answer[0] = await self._fire(store_id, job_id, seq, occurrence)
            finally:
                done.set()

        if self._shared.identity.stopping:
            return Fired.RETRY
        self._shared.spawn(answering)
        await done.wait()
        return answer[0]

    async def _fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        if store_id != self._shared.identity.store_id:
            return self._foreign(store_id, occurrence)
        job = await self._shared.calls.get(job_id)
        if job is None or job.status.terminal:
            return Fired.CONSUMED
        if job.status is JobStatus.RUNNING or job.seq != seq:
            return self._old(job)
        if job.held:  # of a paused handler: armed again at its resume (docs/protocol.md, L3)
            return Fired.CONSUMED if await self._journal.try_update(commands.disarmed(job)) else Fired.RETRY
        if not self._can_run(job) or not await self._is_due(job) or not await self._has_slot(job):
            return Fired.RETRY
        if await self._claimer.take(job):
            return Fired.CLAIMED
        row = await self._shared.calls.get(job_id)  # another process took it, or this owner is unknown
        waits = row is not None and row.seq == seq and row.status is JobStatus.SCHEDULED
        return Fired.RETRY if waits else Fired.CONSUMED

    def _foreign(self, store_id: UUID, occurrence: datetime) -> Fired:
        """A trigger of another store: delivered again for a while, since that store may be back (docs/protocol.md,
        D5)."""
        if self._shared.clock.now() - occurrence < timedelta(seconds=self._shared.timings.foreign):
            return Fired.RETRY
        if self._shared.clock.monotonic() >= self._quiet_until:  # they may come by the thousand
            self._quiet_until = self._shared.clock.monotonic() + self._shared.timings.recent
            self._shared.problems.report(
                "trigger", f"a trigger of another store ({store_id}) was dropped after ten minutes"
            )
        return Fired.CONSUMED

    def _old(self, job: JobInfo) -> Fired:
        """A trigger of a seq that has passed."""
        if job.status is JobStatus.RUNNING and job.owner != self._shared.identity.owner:
            self._look.set()  # if that owner is dead, its job is taken back and armed again
        if job.status is JobStatus.SCHEDULED and job.armed_seq != job.seq:
            self._journal.arm(job.id)
        return Fired.CONSUMED

    def _can_run(self, job: JobInfo) -> bool:
        """Otherwise another process can run it (docs/protocol.md, C7 and C8)."""
        return job.handler_name in self._shared.handlers and self._shared.schedules.plan_or_none(job) is not None

    async def _is_due(self, job: JobInfo) -> bool:
        """A trigger that is a little early waits here."""
        early = (job.due_at - self._shared.clock.now()).total_seconds() if job.due_at else 0.0
        if early > self._shared.timings.early:
            return False
        if early > 0:
            await anyio.sleep(early)
        return True

    async def _has_slot(self, job: JobInfo) -> bool:
        """Waits a moment for a slot."""
        deadline = self._shared.clock.monotonic() + self._shared.timings.room
        while not self._claimer.has_room(job.handler_name) or (job.suspect and self._shared.slots.suspect):
            if self._shared.identity.stopping or self._shared.clock.monotonic() > deadline:
                return False
            await self._shared.slots.freed.wait(0.5)
        return not self._shared.identity.stopping
