"""The outbox: what is stored gets armed, after the commit and by whoever sees it first (PROTOCOL C3, D4)."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel.core import Core
from aether_bg._kernel.tasks import longer
from aether_bg._rules import states
from aether_bg.errors import Stale, StoreError
from aether_bg.model import JobInfo, Query, Update

_MOST: Final = 500
_AT_ONCE: Final = 32
_LOOK: Final = 1.0
_BACKOFF: Final = (0.5, 30.0)


class Outbox:
    """Pumps rows into `schedule_arm`: those named by `changed`, and whatever the store says is not armed."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._named: set[UUID] = set()
        self._forget: dict[UUID, int] = {}
        """Rows that moved on while their arm was under way, and the seq that the engine may hold of them."""
        self._wait = 0.0
        core.arm = self.changed

    def changed(self, job_id: UUID) -> None:
        self._named.add(job_id)
        if not self._wait:
            self._core.roused.set()

    async def run(self) -> None:
        while True:
            await self._pump()
            if self._wait:  # a plugin that is well again says so with `wake`
                await anyio.sleep(_BACKOFF[0])
                await self._core.roused.wait(self._wait - _BACKOFF[0])
            elif not self._named:
                await self._core.roused.wait(_LOOK)

    async def flush(self, within: float) -> None:
        """At the stop: what is not armed by then is the next start's (PROTOCOL S1)."""
        with anyio.move_on_after(within):
            await self._pump()

    async def _pump(self) -> None:
        named, self._named = self._named, set()
        try:
            rows = {job.id: job for job in await self._unarmed()}
            for start in range(0, len(named), _MOST):
                some = tuple(named)[start : start + _MOST]
                rows |= {job.id: job for job in await self._core.calls.find(Query(ids=some))}
        except StoreError as error:
            self._core.report("outbox", error)
            self._named |= named
            self._back_off()
            return
        refused = 0
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def one(job: JobInfo) -> None:
            nonlocal refused
            async with limiter:
                if not await self._arm(job):
                    refused += 1

        async with anyio.create_task_group() as group:
            for job in sorted(rows.values(), key=lambda job: job.due_at or job.modified_at):
                if (seq := self._forget.pop(job.id, None)) is not None and job.armed_seq < seq:
                    job = attrs.evolve(job, armed_seq=seq)  # noqa: PLW2901 - what the engine holds, not the row
                if job.waiting or job.armed_seq >= 0:
                    group.start_soon(one, job)
        if refused:
            self._back_off()
        else:
            self._wait = 0.0

    async def _unarmed(self) -> list[JobInfo]:
        return await self._core.calls.find(Query(unarmed=True, order="due", limit=_MOST))

    async def _arm(self, job: JobInfo) -> bool:
        try:
            held = await self._core.calls.arm(job)
        except Exception as error:
            self._core.report("schedule_arm", error)
            held = False
        if held and job.waiting and job.armed_seq != job.seq:
            try:
                await self._core.writes.write(Update(states.armed(job)))
            except Stale:
                self._forget[job.id] = job.seq  # it moved on meanwhile: look again
                self.changed(job.id)
            except StoreError as error:
                self._core.report("outbox", error)
        return held

    def _back_off(self) -> None:
        self._wait = longer(self._wait, _BACKOFF)
