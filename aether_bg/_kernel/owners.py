"""Who is alive: the heartbeat, recovery of the dead, strays (PROTOCOL P, C5)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

import anyio

from aether_bg._kernel.core import BACKOFF
from aether_bg._kernel.engine import Engine
from aether_bg._kernel.standstill import Standstill
from aether_bg._kernel.tasks import longer
from aether_bg._rules import states
from aether_bg._rules.ids import uuid7
from aether_bg.errors import StoreError
from aether_bg.explain import first_line
from aether_bg.model import Alive, Change, Heartbeat, JobInfo, JobStatus, Query, Recovered
from aether_bg.model.job import log_fields

log = logging.getLogger("aether_bg")

LOOK: Final = 0.3
"""Seconds between looks at the other owners' locks (PROTOCOL P3); three times that while alone and idle."""
OVERDUE: Final = timedelta(minutes=1)
_SWEEP: Final = 10.0


class Owners:
    def __init__(self, engine: Engine, stop_asked: Callable[[], bool]) -> None:
        self._engine, self._stop_asked = engine, stop_asked
        self._standstill = Standstill(engine.options.lease)
        self._announcing = anyio.CancelScope()
        self._strays: set[tuple[UUID, int]] = set()
        self._company = True
        """There are other owners, whose locks are to be looked at."""
        self._next_sweep = 0.0
        self._late: set[tuple[UUID, int]] = set()
        self._warned = False
        self._problems: tuple[str, ...] = ()

    async def join(self) -> Alive:
        """Register, then take back what dead owners held, before the first claim (PROTOCOL P1)."""
        alive = await self._beat(join=True)
        self._engine.store_id = alive.store_id
        await self._look(alive)
        return alive

    async def tell(self, problems: tuple[str, ...]) -> None:
        """Make known to those who look at the store what is wrong with this start."""
        self._problems = problems
        await self._beat()

    async def announce_stop(self) -> None:
        """Mark this owner as stopping, so that what its end interrupts is no crash (docs/protocol.md, S7)."""
        wait = 0.0
        with self._announcing:
            while not self._announcing.cancel_called:  # the store may be closed by then
                with suppress(StoreError):  # if it never succeeds, `leave` reports why
                    await self._beat(stopping=True)
                    return
                wait = longer(wait, BACKOFF)
                await anyio.sleep(wait)

    async def leave(self) -> None:
        """Put back what is still held, for want of a recorded outcome, then withdraw (docs/protocol.md, P1 and S7)."""
        self._announcing.cancel()
        await self._beat(stopping=True)
        await self._recover(self._engine.owner, stopped=True)
        await self._beat(leave=True)

    async def keep_for_ever(self) -> None:
        """A thread outlives the stop: its claim stays alive until the process ends (PROTOCOL S4)."""
        self._announcing.cancel()
        await self._beat(keep_for=10 * 365 * 86400.0, stopping=True)

    async def run(self) -> None:
        clock, third = self._engine.clock, self._engine.options.lease / 3
        looked = clock.monotonic()
        while True:
            within = LOOK if self._company or self._engine.attempts.running else 3 * LOOK
            await self._engine.look.wait(within)
            known = dict(self._engine.attempts.running)
            try:
                alive = await self._beat()
            except StoreError as error:
                self._engine.report("heartbeat", error)
                self._standstill.forget()
                continue
            looked, late = clock.monotonic(), clock.monotonic() - looked > within + third
            if late:  # what happened meanwhile is unknown
                self._standstill.forget()
            self._company = len(alive.beats) > 1
            if not alive.known:
                await self._start_over()
                continue
            await self._look(alive)
            await self._compare(alive, {(job_id, attempt.job.seq) for job_id, attempt in known.items()})
            self._hung()
            await self._engine.unserved.look()
            if clock.monotonic() >= self._next_sweep:
                self._next_sweep = clock.monotonic() + _SWEEP
                self._engine.unserved.read_again()
                await self._overdue(alive)

    async def _beat(
        self, *, join: bool = False, leave: bool = False, stopping: bool = False, recovered: tuple[UUID, ...] = (),
        keep_for: float | None = None,
    ) -> Alive:  # fmt: skip
        engine, lease = self._engine, self._engine.options.lease
        beat = Heartbeat(
            owner=engine.owner, handlers=tuple(engine.handlers), now=engine.clock.now(), interval=lease / 3,
            keep_for=10 * lease if keep_for is None else keep_for, join=join, leave=leave, recovered=recovered,
            stopping=stopping or (join and engine.stopping), stop_asked=self._stop_asked, problems=self._problems,
        )  # fmt: skip
        engine.alive = alive = await engine.calls.heartbeat(beat)
        return alive

    async def _start_over(self) -> None:
        """Somebody took this process for dead (it was stopped, say): nothing it runs may count (PROTOCOL P4)."""
        engine = self._engine
        engine.report("heartbeat", "this process was taken for dead; its attempts are cancelled and it joins anew")
        for attempt in list(engine.attempts.running.values()):
            attempt.revoke()
        engine.owner = uuid7()
        self._standstill.forget()
        await self._beat(join=True)

    # -- the dead --------------------------------------------------------------------------------

    async def _look(self, alive: Alive) -> None:
        me, now = self._engine.owner, self._engine.clock.monotonic()
        dead = {*alive.dead, *self._standstill.expired(alive.beats, me, now)} - {me}
        if not dead:
            return
        for owner in dead:
            await self._recover(owner, stopped=owner in alive.stopping)
        await self._beat(recovered=tuple(dead))

    async def _recover(self, owner: UUID, *, stopped: bool) -> None:
        engine = self._engine
        taken: list[JobInfo] = []
        failed = 0
        while rows := await engine.calls.find(Query(owner=owner, limit=500)):
            for row in rows:
                if (change := await self._take_back(row, owner, stopped)) is not None:
                    taken.append(row)
                    failed += change.status is JobStatus.FAILED
        if taken:
            log.log(
                logging.INFO if stopped else logging.WARNING,
                "owner %s %s: %d of its jobs taken back, of which %d failed for good; first %s (%s)",
                owner, "was stopped" if stopped else "has died", len(taken), failed, taken[0].handler_name,
                taken[0].job_name, extra={"owner": str(owner), "jobs": len(taken)},
            )  # fmt: skip

    async def _take_back(self, row: JobInfo, owner: UUID, stopped: bool) -> Change | None:
        """What a stop interrupted is not counted; crashes are, apart from retries (docs/protocol.md, S7 and R3)."""
        engine, now, by = self._engine, self._engine.clock.now(), self._engine.options.by()
        retries = engine.handlers.compiled(row.handler_name).info.retries if row.handler_name in engine.handlers else 0
        lost = states.Lost(
            error=f"Crashed: the process that ran it (owner {owner}) died", retry_at=now,
            cap=max(retries, states.LEAST_CRASHES),
        )  # fmt: skip
        ending = states.Released(begun=True) if stopped else lost
        change = await engine.aside(states.finish, row, ending, engine.plan_or_none(row), now, by)
        if not await self._engine.save(change):
            return None
        if change.status is JobStatus.FAILED:
            why = first_line(change.last_error)
            log.error("%s (%s): failed for good: %s", row.handler_name, row.job_name, why, extra=log_fields(row))
        engine.events.emit(Recovered(row, change.runs[0]))
        return change

    # -- this owner's own rows -------------------------------------------------------------------

    async def _compare(self, alive: Alive, known: set[tuple[UUID, int]]) -> None:
        engine = self._engine
        held = set(alive.running)
        for job_id, seq in known - held:  # running here, but no longer ours in the store: the token is lost
            attempt = engine.attempts.running.get(job_id)
            if attempt is not None and attempt.job.seq == seq and job_id not in engine.attempts.recording:
                attempt.revoke()
        running = {(job_id, attempt.job.seq) for job_id, attempt in engine.attempts.running.items()}
        strays = {stray for stray in held - running - known if stray[0] not in engine.attempts.recording}
        for job_id, seq in strays & self._strays:  # seen twice: no claim of this moment, but one that got lost (C5)
            found = await engine.calls.find(Query(ids=(job_id,)))
            if found and found[0].seq == seq and found[0].status is JobStatus.RUNNING:
                engine.report("heartbeat", f"released {found[0].job_name!r}: claimed here, but not running", found[0])
                released = states.Released(begun=False)
                now = engine.clock.now()
                change = states.finish(found[0], released, None, now, engine.options.by())
                await self._engine.save(change)
        self._strays = strays

    def _hung(self) -> None:
        """Attempts that did not stop when they were told to are named, once."""
        now = self._engine.clock.monotonic()
        for attempt in self._engine.attempts.running.values():
            if not attempt.scope.cancel_called or attempt.overdue_since == 0.0:
                continue
            if attempt.overdue_since is None:
                attempt.overdue_since = now
            elif now - attempt.overdue_since > 1.0:
                attempt.overdue_since = 0.0
                kind = "its thread cannot be stopped" if attempt.in_thread else "it does not end when cancelled"
                self._engine.report(
                    "attempts", f"{attempt} is past its time, and {kind}; it keeps its slot", attempt.job
                )

    # -- rows that no process takes ----------------------------------------------------------------

    async def _overdue(self, alive: Alive) -> None:
        """Whatever the scheduler: overdue by more than a minute is armed again. It is reported at the second look (at
        the first it may be the clock that was moved), and once until nothing is overdue any more."""
        engine = self._engine
        mine: list[JobInfo] = []
        for name in sorted(alive.due.intersection(engine.handlers)):
            due_before = engine.clock.now() - OVERDUE
            mine += await engine.calls.find(Query(handler_name=name, due_before=due_before, order="due", limit=100))
        for job in mine:
            engine.arm(job.id)
        mine = [job for job in mine if not engine.cannot_read(job)]
        again = [job for job in mine if (job.id, job.seq) in self._late]
        self._late = {(job.id, job.seq) for job in mine}
        self._warned = self._warned and bool(mine)
        if again and engine.free > 0 and not self._warned:
            self._warned = True
            engine.report(
                "scheduler",
                f"{len(again)} jobs are overdue by more than a minute, first {again[0].job_name!r}: check that the "
                "scheduler runs (app.health()), and that no other process holds the database",
            )
