"""Jobs that an external scheduler must hold are armed after the commit, by whichever process sees them first
(docs/protocol.md, C3 and D4)."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel.batcher import Batcher
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import Signal, longer
from aether_bg._rules import commands
from aether_bg.errors import Stale, StoreError
from aether_bg.model import JobInfo, JobStatus, Query, Update

MOST: Final = 500
AT_ONCE: Final = 32


@attrs.define(kw_only=True, eq=False)
class Arming:
    """Passes rows to `schedule_arm`: those named by `changed`, and those that the store reports as not armed.

    `roused`: set when there is something to arm.
    """

    _shared: Shared
    _batcher: Batcher
    _roused: Signal
    _named: set[UUID] = attrs.field(factory=set, init=False)
    _held: dict[UUID, int] = attrs.field(factory=dict, init=False)
    """Rows that changed while they were being armed, and the seq that the scheduler may hold of each."""
    _wait: float = attrs.field(default=0.0, init=False)

    def changed(self, job_id: UUID) -> None:
        self._named.add(job_id)
        if not self._wait:
            self._roused.set()

    async def run(self) -> None:
        first = self._shared.timings.arming_backoff[0]
        while True:
            await self._pump()
            if self._wait:  # a plugin that has recovered calls `wake`
                await anyio.sleep(first)
                await self._roused.wait(self._wait - first)
            elif not self._named:
                await self._roused.wait(self._shared.timings.arming)

    async def flush(self, within: float) -> None:
        """At the stop. What is not armed by then is left to the next start (docs/protocol.md, S1)."""
        with anyio.move_on_after(within):
            await self._pump()

    async def _pump(self) -> None:
        named, self._named = self._named, set()
        try:
            rows = {job.id: job for job in await self._shared.calls.find(Query(unarmed=True, order="due", limit=MOST))}
            for start in range(0, len(named), MOST):
                some = tuple(named)[start : start + MOST]
                rows |= {job.id: job for job in await self._shared.calls.find(Query(ids=some))}
        except StoreError as error:
            self._shared.problems.report("outbox", error)
            self._named |= named
            self._wait = longer(self._wait, self._shared.timings.arming_backoff)
            return
        refused = 0
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def one(job: JobInfo) -> None:
            nonlocal refused
            async with limiter:
                refused += not await self._arm(job)

        async with anyio.create_task_group() as group:
            for job in sorted(rows.values(), key=lambda job: job.due_at or job.modified_at):
                if (seq := self._held.pop(job.id, None)) is not None and job.armed_seq < seq:
                    job = attrs.evolve(job, armed_seq=seq)  # noqa: PLW2901 - what the scheduler holds, not the row
                if job.waiting or job.armed_seq >= 0:
                    group.start_soon(one, job)
        self._wait = longer(self._wait, self._shared.timings.arming_backoff) if refused else 0.0

    async def _arm(self, job: JobInfo) -> bool:
        try:
            held = await self._shared.calls.arm(job)
        except Exception as error:
            self._shared.problems.report("schedule_arm", error)
            held = False
        if held and job.status is JobStatus.SCHEDULED and job.waiting is (job.armed_seq != job.seq):
            try:  # a mark that no waiter, scheduler or observer needs to know: not through the journal
                await self._batcher.write(Update((commands.armed if job.waiting else commands.disarmed)(job)))
            except Stale:
                self._held[job.id] = job.seq  # it has changed in the meantime: look again
                self.changed(job.id)
            except StoreError as error:
                self._shared.problems.report("outbox", error)
        return held
