"""The running kernel: slots, the two doors, waking and sleeping, supervised loops. What plugins know as `Kernel`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

import anyio

from aether_bg._kernel.attempts import SUSPICIOUS, Attempts
from aether_bg._kernel.calls import Calls
from aether_bg._kernel.dependencies import Dependencies
from aether_bg._kernel.events import Events
from aether_bg._kernel.gather import Gather
from aether_bg._kernel.handlers import Handlers
from aether_bg._kernel.ids import uuid7
from aether_bg._kernel.occurrences import Plan
from aether_bg._kernel.options import Options
from aether_bg._kernel.tasks import Signal, Spawn
from aether_bg._kernel.view import StoreView
from aether_bg._kernel.work import UnitOfWork
from aether_bg.bridge import Bridge
from aether_bg.errors import StoreError
from aether_bg.model import Change, Claim, Claimed, Fired, JobInfo, JobStatus, Query, Transaction
from aether_bg.protocols import Clock
from aether_bg.schedule import Schedule

log = logging.getLogger("aether_bg")

EARLY: Final = 1.0
"""Seconds by which a trigger may be early and is waited for (PROTOCOL C2)."""
ROOM: Final = 5.0
"""Seconds a trigger waits for free capacity before it is told to come again."""
NAP: Final = 1.0
"""Longest sleep before the clock is read again (PROTOCOL R4)."""
_BACKOFF: Final = (0.05, 5.0)
FOREIGN: Final = timedelta(minutes=10)
"""How long a trigger of another store is told to come again (PROTOCOL D5)."""


class Engine:
    """One start of one app: made at the start, dropped at the stop. Implements `Kernel`."""

    def __init__(
        self, options: Options, calls: Calls, handlers: Handlers, dependencies: Dependencies, spawn: Spawn
    ) -> None:
        self.options, self.calls, self.handlers = options, calls, handlers
        self.dependencies = dependencies
        self.start_task = spawn
        """A task of the kernel's own, with a clean context (PROTOCOL W6)."""
        self.owner: UUID = uuid7()
        self.store_id: UUID = UUID(int=0)
        self.stopping = False
        self.events = Events(self)
        self.writes = Gather(calls.transact)
        self.attempts = Attempts(self)
        self.view = StoreView(self)
        self.schedule = lru_cache(maxsize=1024)(calls.load)
        self.problems: dict[str, str] = {}
        """What is wrong now, by part; for `health`."""
        self.arm: Callable[[UUID], object] = lambda job_id: None
        """Tell the outbox that a row has changed; set when a scheduler arms."""
        self.suspect_running = False
        self._bridge = Bridge()
        self._thread = threading.get_ident()
        self._woken = anyio.Event()
        self._alarm: datetime | None = None
        """When the scheduler will look again, while it sleeps."""
        self._changed = Signal()
        self._claiming = anyio.Lock()
        self._knocking = 0
        """Slots kept for triggers whose claim is on its way."""
        self._trouble = 0.0
        self._loops: set[anyio.CancelScope] = set()
        self._lasting: list[anyio.CancelScope] = []
        self._endings: dict[UUID, anyio.Event] = {}
        self.enqueue_in: Callable[[Transaction], Callable[..., UUID]]

    # -- what plugins may ask --------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.options.clock

    @property
    def store(self) -> StoreView:
        return self.view

    def wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._wake()
        else:
            self._bridge.post(self._wake)

    def _wake(self) -> None:
        self._woken.set()
        self.nudge()

    def expect(self, due: datetime | None) -> None:
        """A row waits for `due`: wake the scheduler if it sleeps past that."""
        if due is not None and (self._alarm is None or due < self._alarm):
            self._woken.set()

    def nudge(self) -> None:
        """Let go of those who wait in `changed`."""
        self._changed.set()

    async def changed(self, within: float) -> None:
        """Wait for a sign that some row may have changed, at most so many seconds."""
        await self._changed.wait(within)

    async def sleep_until(self, when: datetime | None) -> None:
        now = self.clock.now()
        latest = now + timedelta(seconds=NAP)
        self._alarm = latest if when is None else min(when, latest)
        wait = (self._alarm - now).total_seconds()
        if wait > 0:
            with anyio.move_on_after(wait):
                await self._woken.wait()
        else:
            await anyio.sleep(0)
        self._alarm = None
        self._woken = anyio.Event()

    def report(self, part: str, problem: BaseException | str) -> None:
        error = problem if isinstance(problem, BaseException) else None
        log.warning("%s: %s", part, _one_line(problem), exc_info=error if log.isEnabledFor(logging.DEBUG) else None)
        self.problems[part] = _one_line(problem)
        self._on_loop(lambda: self.events.problem(part, problem))

    def spawn(self, fn: Callable[[], Awaitable[object]], name: str) -> None:
        self._on_loop(lambda: self.start_task(self._supervise, fn, name, False))

    def _on_loop(self, fn: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread:
            fn()
        else:
            self._bridge.post(fn)

    def supervise(self, fn: Callable[[], Awaitable[object]], name: str) -> None:
        """A loop that is not meant to return."""
        self.start_task(self._supervise, fn, name, True)

    async def until_end(self, loop: Callable[[], Awaitable[object]]) -> None:
        """A loop of the kernel's that must outlast all others, since their last work goes through it."""
        scope = anyio.CancelScope()
        self._lasting.append(scope)
        with scope:
            await loop()

    def end(self) -> None:
        self.end_loops()
        for scope in self._lasting:
            scope.cancel()
        self.writes.close()

    def end_loops(self) -> None:
        """Cancel what was spawned or supervised; the kernel's own tasks go on until their work is done."""
        for scope in self._loops:
            scope.cancel()

    async def _supervise(self, fn: Callable[[], Awaitable[object]], name: str, forever: bool) -> None:
        """A loop that fails is reported and started again; the host program never hears of it (PROTOCOL S6)."""
        scope = anyio.CancelScope()
        self._loops.add(scope)
        try:
            with scope:
                await self._restart(fn, name, forever)
        finally:
            self._loops.discard(scope)

    async def _restart(self, fn: Callable[[], Awaitable[object]], name: str, forever: bool) -> None:
        wait = _BACKOFF[0]
        while not self.stopping:
            began = self.clock.monotonic()
            try:
                await fn()
                if not forever:
                    return
                problem: BaseException | str = "it returned, though it should run until the stop"
            except Exception as error:
                problem = error
            if self.stopping:
                return
            self.report(name, problem)
            wait = _BACKOFF[0] if self.clock.monotonic() - began > 60 else min(wait * 2, _BACKOFF[1])
            await anyio.sleep(wait)

    # -- the doors -------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Slots for attempts. Outcomes not yet committed hold some back, so that trouble there slows the claiming."""
        running, unrecorded = len(self.attempts.running) + self._knocking, len(self.attempts.recording)
        return min(self.options.concurrency - running, 2 * self.options.concurrency - running - unrecorded)

    async def fire_due(self) -> datetime | None:
        while self.free < 1 and not self.stopping:
            await self.attempts.room(NAP)
        if self.stopping:
            return None
        async with self._claiming:
            claim = Claim(
                owner=self.owner, now=self.clock.now(), limit=self.free, handlers=tuple(self.handlers),
                suspect=not self.suspect_running,
            )  # fmt: skip
            with anyio.CancelScope(shield=True):  # between commit and start no cancellation may come (PROTOCOL C5)
                try:
                    claimed = await self.calls.claim(claim)
                except StoreError as error:
                    return self._claim_failed(error)
                self._trouble = 0.0
                for job in claimed.jobs:
                    self.attempts.start(job)
        if len(claimed.jobs) >= claim.limit > 0:
            return claim.now
        return claimed.next_due

    def _claim_failed(self, error: StoreError) -> datetime:
        """Back off 50 ms to 5 s (PROTOCOL W2)."""
        self._trouble = min(max(self._trouble * 2, _BACKOFF[0]), _BACKOFF[1])
        self.report("claiming", error)
        return self.clock.now() + timedelta(seconds=self._trouble)

    async def fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        """In a task of the kernel's: the caller may be cancelled at any moment (PROTOCOL C5)."""
        done = anyio.Event()
        answer = [Fired.RETRY]

        async def answering() -> None:
            try:
                answer[0] = await self._fire(store_id, job_id, seq, occurrence)
            except StoreError as error:
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
            self.report("trigger", f"a trigger of another store ({store_id}) was dropped after ten minutes")
            return Fired.CONSUMED
        found = await self.calls.find(Query(ids=(job_id,)))
        job = found[0] if found else None
        if job is None or job.status.terminal:
            return Fired.CONSUMED
        if job.status is JobStatus.RUNNING or job.seq != seq:
            if job.status is JobStatus.SCHEDULED and job.armed_seq != job.seq:
                self.arm(job.id)
            return Fired.CONSUMED
        if job.paused and not job.manual:
            return Fired.CONSUMED
        if job.handler_name not in self.handlers:
            return Fired.RETRY
        early = (job.due_at - self.clock.now()).total_seconds() if job.due_at else 0.0
        if early > EARLY:
            return Fired.RETRY
        if early > 0:
            await anyio.sleep(early)
        suspect = job.crash_count >= SUSPICIOUS
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
        return Fired.CLAIMED if claimed.jobs else Fired.CONSUMED

    # -- for the other rooms ---------------------------------------------------------------------

    def plan(self, job: JobInfo) -> Plan:
        """Raises `InvalidSchedule` when the schedule's plugin is gone."""
        schedule: Schedule = self.schedule(job.expression_value, job.timezone)
        return Plan.of(schedule, job)

    def new_work(self) -> UnitOfWork:
        return UnitOfWork(lambda tx: self.enqueue_in(tx))

    def revoke(self, job_id: UUID) -> None:
        """The row was moved by a verb: its attempt here, if any, has lost its token (PROTOCOL U2)."""
        if attempt := self.attempts.running.get(job_id):
            attempt.revoke()

    def ending(self, job_id: UUID) -> anyio.Event:
        """Set when this process learns that the job has ended."""
        return self._endings.setdefault(job_id, anyio.Event())

    def settled(self, change: Change) -> None:
        """A change of a row has been committed here."""
        if change.status.terminal:
            if (ended := self._endings.pop(change.job_id, None)) is not None:
                ended.set()
        else:
            self.expect(change.due_at)


def _one_line(problem: BaseException | str) -> str:
    """For logs: no line breaks or escape sequences of others, and bounded."""
    text = f"{type(problem).__name__}: {problem}" if isinstance(problem, BaseException) else problem
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:2000])
