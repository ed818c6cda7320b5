"""Warns about jobs that do not get on: attempts that hang, due jobs that no process takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from uuid import UUID

import attrs

from aether_bg._kernel.shared import Shared
from aether_bg._upkeep.waiting import Waiting, sentences
from aether_bg.model import Alive


@attrs.define(kw_only=True, eq=False)
class Monitor:
    """`arm`: as in the journal. `wake`: makes the scheduler look again."""

    _shared: Shared
    _waiting: Waiting
    _arm: Callable[[UUID], object]
    _wake: Callable[[], object]
    _seen: dict[str, float] = attrs.field(factory=dict, init=False)
    """Missing handlers and schedules, and when this process first noticed each, by its own clock."""
    _told: dict[str, float] = attrs.field(factory=dict, init=False)
    """Those of the last hour's warnings, and when each was given."""
    _next_sweep: float = attrs.field(default=0.0, init=False)
    _late: set[tuple[UUID, int]] = attrs.field(factory=set, init=False)
    """Jobs that were overdue at the last sweep."""
    _warned: bool = attrs.field(default=False, init=False)
    """Of overdue jobs, since none was overdue."""

    async def look(self, alive: Alive) -> None:
        """Runs after each beat. Raises a `StoreError`."""
        self._hung()
        await self._missing(alive)
        if self._shared.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self._shared.clock.monotonic() + self._shared.timings.sweep
            if self._shared.schedules.read_again():
                self._wake()
            await self._overdue(alive)

    def _hung(self) -> None:
        """Reports each attempt that has not stopped although it was cancelled, once."""
        now = self._shared.clock.monotonic()
        for attempt in self._shared.slots.running.values():
            if not attempt.scope.cancel_called:
                continue
            if attempt.overdue_since is None:
                attempt.overdue_since = now
            elif now - attempt.overdue_since > 1.0:
                attempt.overdue_since = math.inf
                kind = "its thread cannot be stopped" if attempt.in_thread else "it does not end when cancelled"
                text = f"{attempt} is past its time, and {kind}; it keeps its slot"
                self._shared.problems.report("attempts", text, attempt.job)

    async def _missing(self, alive: Alive) -> None:
        """Warns about what has been missing for a moment, at most once an hour (docs/protocol.md, C7 and C8)."""
        shared, now = self._shared, self._shared.clock.monotonic()
        if shared.identity.stopping or not (alive.due - alive.advertised or shared.schedules.unreadable):
            self._seen.clear()
            return
        missing = await self._waiting.missing(alive)
        self._told = {name: when for name, when in self._told.items() if now - when < shared.timings.remind}
        self._seen = {name: self._seen.get(name, now) for names in missing.values() for name in names}
        lasting = {name for name, since in self._seen.items() if now - since >= shared.timings.settling}
        fresh = lasting - self._told.keys()
        new = {part: {name: names[name] for name in names if name in fresh} for part, names in missing.items()}
        for part, sentence in sentences(new).items():
            shared.problems.report(part, sentence)
        self._told |= dict.fromkeys(fresh, now)

    async def _overdue(self, alive: Alive) -> None:
        """With any scheduler: a job that is long overdue is armed again. It is reported at the second sweep (at the
        first one, the clock may just have been moved), and once until nothing is overdue any more."""
        late = await self._waiting.overdue(alive, self._shared.timings.overdue)
        for job in late:
            self._arm(job.id)
        again = [job for job in late if (job.id, job.seq) in self._late]
        self._late = {(job.id, job.seq) for job in late}
        self._warned = self._warned and bool(late)
        if again and self._shared.slots.free > self._shared.slots.kept and not self._warned:
            self._warned = True
            self._shared.problems.report(
                "scheduler",
                f"{len(again)} jobs are overdue by more than a minute, first {again[0].job_name!r}: check that the "
                "scheduler runs (app.health()), and that no other process holds the database",
            )
