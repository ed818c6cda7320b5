"""From due jobs to running attempts: as many as there are free slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import anyio
import attrs

from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import longer
from aether_bg._kernel.turns import Turns
from aether_bg.errors import StoreError
from aether_bg.model import Claim, Claimed, JobInfo


@attrs.define(kw_only=True, eq=False)
class Claimer:
    """`start`: begins their attempts; it must not await."""

    _shared: Shared
    _alarm: Alarm
    start: Callable[[Sequence[JobInfo]], object]
    error: StoreError | None = attrs.field(default=None, init=False)
    """Why the last claim failed, if it did."""
    _turns: Turns = attrs.field(default=attrs.Factory(lambda self: Turns(self._shared), takes_self=True), init=False)
    _trouble: float = attrs.field(default=0.0, init=False)
    claims: anyio.Lock = attrs.field(factory=lambda: anyio.Lock(fast_acquire=True), init=False)
    """Who has it knows that all that is claimed here has begun."""

    @property
    def claiming(self) -> bool:
        """A claim is in progress: the jobs that it takes start at once."""
        return self._shared.slots.reserved > 0 or self.claims.locked()

    async def fire_due(self) -> datetime | None:
        """Claims and starts what is due; returns when to look again."""
        while self._shared.slots.free < 1 and not self._shared.identity.stopping:
            await self._shared.slots.freed.wait(self._shared.timings.nap)
        if self._shared.identity.stopping:
            return None
        try:
            claim, claimed = await self._claim_due()
        except StoreError as error:
            return await self._failed(error)
        self._trouble, self.error = 0.0, None
        again = [due for due in (self._turns.looked(claimed), claimed.next_due) if due is not None]
        return claim.now if len(claimed.jobs) >= claim.limit > 0 else min(again, default=None)

    async def _claim_due(self) -> tuple[Claim, Claimed]:
        async with self.claims:
            claim = self._claim(
                self._shared.clock.now(), limit=self._shared.slots.free, suspect=not self._shared.slots.suspect,
                unreadable=tuple(self._shared.schedules.unreadable), limits=self._turns.limits,
            )  # fmt: skip
            taken: Sequence[JobInfo] = ()
            sure = False
            self._alarm.looking()
            try:
                claimed = await self._take(claim)
                taken, sure = claimed.jobs, self._shared.identity.told and not claimed.short
            finally:
                self._alarm.looked([(job.id, job.seq - 1) for job in taken], sure=sure)
            self._shared.slots.short = claimed.short
            return claim, claimed

    def _claim(self, now: datetime, **fields: Any) -> Claim:
        slots, handlers = self._shared.slots, self._shared.handlers
        about: dict[str, Any] = {"limits": handlers.limits, "kept": slots.kept} | fields
        return Claim(
            owner=self._shared.identity.owner, now=now, handlers=tuple(handlers), busy=frozenset(slots.kinds), **about
        )  # fmt: skip

    def has_room(self, handler: str) -> bool:
        """Whether another job of this handler may start here; the store counts the handler's limit."""
        return self.with_room(handler, self._shared.clock.now()) is not None

    def with_room(self, handler: str, now: datetime) -> Claim | None:
        """A claim, if another job of this handler may start here."""
        claim = self._claim(now, limit=self._shared.slots.free)
        return claim if claim.most(handler, {}) > 0 else None

    async def take(self, job: JobInfo) -> bool:
        """Claims and starts exactly this row, as it was read. False: it has changed since, or this owner is unknown.
        `has_room` says whether there is a slot for it: the store would keep the only slot for others."""
        now = self._shared.clock.now()
        claim = self._claim(max(now, job.due_at or now), limit=1, kept=0, job_id=job.id, seq=job.seq)
        self._shared.slots.reserve(job)  # no other trigger may take the same slot before the claim returns
        taken = False
        try:
            taken = bool((await self._take(claim)).jobs)
        finally:
            self._shared.slots.unreserve(job, taken)
        return taken

    async def _take(self, claim: Claim) -> Claimed:
        with anyio.CancelScope(shield=True):  # no cancellation between the commit and the start (docs/protocol.md, C5)
            claimed = await self._shared.calls.claim(claim)
            self.start(claimed.jobs)
        return claimed

    async def _failed(self, error: StoreError) -> datetime:
        self._trouble = longer(self._trouble, self._shared.timings.backoff)
        self.error = error
        self._shared.problems.report("claiming", error)
        await anyio.sleep(self._trouble)
        return self._shared.clock.now()
