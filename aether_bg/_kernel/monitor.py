"""Warns about jobs that do not get on: attempts that hang, due jobs that no process takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import attrs

from aether_bg._kernel.shared import Shared
from aether_bg._kernel.unserved import Unserved
from aether_bg.model import Alive, JobInfo, JobStatus, Query


@attrs.define(kw_only=True, eq=False)
class Monitor:
    """`arm`: as in the journal. `wake`: makes the scheduler look again."""

    _shared: Shared
    _unserved: Unserved
    _arm: Callable[[UUID], object]
    _wake: Callable[[], object]
    _next_sweep: float = attrs.field(default=0.0, init=False)
    _late: set[tuple[UUID, int]] = attrs.field(factory=set, init=False)
    """Jobs that were overdue at the last sweep."""
    _warned: bool = attrs.field(default=False, init=False)

    async def look(self, alive: Alive) -> None:
        """Runs after each beat."""
        self._hung()
        await self._unserved.look(alive)
        if self._shared.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self._shared.clock.monotonic() + self._shared.timings.sweep
            if self._shared.schedules.read_again():
                self._wake()
            await self._overdue(alive)

    def _hung(self) -> None:
        """Reports each attempt that has not stopped although it was cancelled, once."""
        now = self._shared.clock.monotonic()
        for attempt in self._shared.slots.running.values():
            if not attempt.scope.cancel_called or attempt.hangs:
                continue
            if attempt.overdue_since is None:
                attempt.overdue_since = now
            elif now - attempt.overdue_since > 1.0:
                attempt.hangs = True
                kind = "its thread cannot be stopped" if attempt.in_thread else "it does not end when cancelled"
                text = f"{attempt} is past its time, and {kind}; it keeps its slot"
                self._shared.problems.report("attempts", text, attempt.job)

    async def _full(self, handler: str) -> bool:
        """As many of its jobs run as may: the others wait for a good reason."""
        if (limit := self._shared.handlers.limits.get(handler)) is None:
            return False
        running = Query(handler_name=handler, status=(JobStatus.RUNNING,), limit=limit)
        return len(await self._shared.calls.find(running)) >= limit

    async def _overdue(self, alive: Alive) -> None:
        """With any scheduler: a job that is long overdue is armed again. It is reported at the second sweep (at the
        first one, the clock may just have been moved), and once until nothing is overdue any more."""
        mine: list[JobInfo] = []
        before = self._shared.clock.now() - timedelta(seconds=self._shared.timings.overdue)
        for name in sorted(alive.due.intersection(self._shared.handlers)):
            if not await self._full(name):
                mine += await self._shared.calls.find(
                    Query(handler_name=name, due_before=before, order="due", limit=100)
                )
        for job in mine:
            self._arm(job.id)
        mine = [job for job in mine if not self._shared.schedules.cannot_read(job)]
        again = [job for job in mine if (job.id, job.seq) in self._late]
        self._late = {(job.id, job.seq) for job in mine}
        self._warned = self._warned and bool(mine)
        if again and self._shared.slots.free > self._shared.slots.kept and not self._warned:
            self._warned = True
            self._shared.problems.report(
                "scheduler",
                f"{len(again)} jobs are overdue by more than a minute, first {again[0].job_name!r}: check that the "
                "scheduler runs (app.health()), and that no other process holds the database",
            )
