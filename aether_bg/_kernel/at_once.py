"""A new job that is due begins with its insert, where the scheduler has nothing else to do (docs/protocol.md, C9)."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from uuid import UUID

import attrs

from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.journal import UNKNOWN, Journal
from aether_bg._kernel.shared import Shared
from aether_bg._rules import transitions
from aether_bg.bridge import Bridge
from aether_bg.errors import NameHeld
from aether_bg.model import Claim, JobInfo


@attrs.define(kw_only=True, eq=False)
class AtOnce:
    _shared: Shared
    _alarm: Alarm
    _claimer: Claimer
    _journal: Journal
    _bridge: Bridge = attrs.field(factory=Bridge, init=False)

    def insert(self, job: JobInfo, after: tuple[UUID, ...] = ()) -> Awaitable[object]:
        """As `Journal.insert`."""
        if after or (claim := self._claim(job)) is None:
            return self._journal.insert(job, after)
        return self._insert(job, claim)

    async def _insert(self, job: JobInfo, claim: Claim) -> None:
        self._shared.slots.reserve(job)  # no claim may take the same slot before this one returns
        row: object = UNKNOWN
        try:
            row = await self._journal.insert(job, claim=claim)
        except NameHeld:
            row = None
            raise
        finally:
            if isinstance(row, JobInfo):
                self._bridge.post(partial(self._begin, job, row))  # the caller goes on first
            else:
                self._shared.slots.unreserve(job, False)
                if row is UNKNOWN:
                    self._shared.spawn(self._give_back, job, claim)

    def _claim(self, job: JobInfo) -> Claim | None:
        """None: others may come first, or the store has to count."""
        identity, handlers = self._shared.identity, self._shared.handlers
        if not identity.begins_at_once or not self._journal.alone or identity.stopping or job.due_at is None:
            return None
        if job.handler_name not in handlers or job.handler_name in handlers.limits:
            return None
        now = self._shared.clock.now()
        if job.due_at > now or not self._alarm.sleeps_past(now):
            return None
        return None if self._claimer.claiming else self._claimer.with_room(job.handler_name, now)

    def _begin(self, job: JobInfo, row: JobInfo) -> None:
        self._shared.slots.unreserve(job, True)
        self._claimer.start([row])

    async def _give_back(self, job: JobInfo, claim: Claim) -> None:
        """The caller was cancelled, or the answer was lost: a row that this claim holds all the same is released."""
        slots = self._shared.slots
        with self._shared.problems.reported("enqueueing", job):  # the heartbeat will find it (docs/protocol.md, C5)
            async with self._claimer.claims:
                row = await self._shared.calls.get(job.id)
                if row is None or row.id in slots.running or row.id in slots.recording:
                    return
                if row.seq == job.seq + 1 and claim.holds(row):
                    await self._journal.try_update(transitions.put_back(row, self._shared.clock.moment()))
