"""What every room of the running kernel shares: the plugs, the clock, waking and sleeping, supervised loops."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import anyio

from aether_bg._handlers.dependencies import Dependencies
from aether_bg._handlers.handlers import Handlers
from aether_bg._handlers.work import UnitOfWork
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.events import Events
from aether_bg._kernel.gather import Gather
from aether_bg._kernel.tasks import Signal, Spawn, longer
from aether_bg._rules.ids import uuid7
from aether_bg._rules.occurrences import Plan
from aether_bg._rules.options import Options
from aether_bg.bridge import Bridge, Threads
from aether_bg.errors import InvalidSchedule, NotStarted, Stale, brief, loggable
from aether_bg.explain import plain
from aether_bg.model import Alive, Change, JobInfo, Transaction, Update
from aether_bg.model.job import log_fields
from aether_bg.protocols import Clock, Reader
from aether_bg.schedule import Schedule

log = logging.getLogger("aether_bg")
T = TypeVar("T")

NAP: Final = 1.0
"""Longest sleep before the clock is read again (PROTOCOL R4)."""
RECENT: Final = 60.0
"""Seconds for which `health` and `explain` tell of a problem."""
BACKOFF: Final = (0.05, 5.0)
"""Seconds between tries when the store, or a loop, is in trouble (PROTOCOL W2)."""


class Core:
    """One start of one app: made at the start, dropped at the stop."""

    store: Reader
    enqueue_in: Callable[[Transaction, list[JobInfo]], Callable[..., UUID]]
    """`tx.enqueue` for a transaction, which lists what it makes; the verbs' part of a unit of work."""
    committed: Callable[[UnitOfWork], object]
    """A unit of work is durable: the verbs tell of what it enqueued."""

    def __init__(
        self, options: Options, calls: Calls, handlers: Handlers, dependencies: Dependencies, spawn: Spawn
    ) -> None:
        self.options, self.calls, self.handlers = options, calls, handlers
        self.dependencies = dependencies
        self.start_task = spawn
        """A task of the kernel's own, with a clean context (PROTOCOL W6)."""
        self.client = False
        """Only enqueues and queries: is no owner, runs no jobs, needs no scheduler."""
        self.owner: UUID = uuid7()
        self.store_id: UUID = UUID(int=0)
        self.stopping = False
        self.events = Events(calls)
        self.writes = Gather(calls.transact)
        self.schedule = lru_cache(maxsize=1024)(calls.load)
        self.arm: Callable[[UUID], object] = lambda job_id: None
        """Tell the outbox that a row has changed; set when a scheduler arms."""
        self.roused = Signal()
        """A plugin or another process says that something may have changed."""
        self.look = Signal()
        """Look at the other owners now, rather than at the next beat."""
        self.alive: Alive | None = None
        """The last answer to this owner's heartbeat; a client has none."""
        self.undone: datetime | None = None
        """What the wall clock showed before it was last set back by three hours or more (docs/protocol.md, R5)."""
        self.suspect_running = False
        """A job that has crashed before is running: no second one beside it (PROTOCOL R3)."""
        self.unreadable: set[tuple[str, str | None]] = set()
        """Schedules, as (text, zone), that this process cannot read: their jobs are left to others
        (docs/protocol.md, C8)."""
        self._problems: dict[str, tuple[float, str]] = {}
        self._failed: dict[str, float] = {}
        """When a supervised loop failed last."""
        self._told_at_stop: set[tuple[str, object]] = set()
        self._bridge = Bridge()
        self._thread = threading.get_ident()
        self._woken = anyio.Event()
        self._alarm: datetime | None = None
        """When the scheduler will look again, while it sleeps."""
        self._expected: datetime | None = None
        """The earliest that has been expected while it was awake."""
        self._loops: set[anyio.CancelScope] = set()
        self._lasting: list[anyio.CancelScope] = []
        self._endings: WeakValueDictionary[UUID, anyio.Event] = WeakValueDictionary()
        """By job; each is kept by those who wait for it alone."""
        self._aside, self._threads = anyio.CapacityLimiter(1), Threads("aether_bg kernel")

    # -- what plugins may ask --------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.options.clock

    def wake(self) -> None:
        self._on_loop(self._wake)

    def _wake(self) -> None:
        self._woken.set()
        self.roused.set()

    def expect(self, due: datetime | None) -> None:
        """A row waits for `due`: the scheduler must not sleep past that."""
        if due is None:
            return
        if self._alarm is not None:
            if due < self._alarm:
                self._woken.set()
        elif self._expected is None or due < self._expected:
            self._expected = due

    def expect_nothing(self) -> None:
        """The scheduler looks now: it will find what has been expected so far."""
        self._expected = None

    async def sleep_until(self, when: datetime | None) -> None:
        now = self.clock.now()
        latest = now + timedelta(seconds=NAP)
        self._alarm = min(due for due in (when, self._expected, latest) if due is not None)
        wait = (self._alarm - now).total_seconds()
        try:
            if wait > 0:
                with anyio.move_on_after(wait):
                    await self._woken.wait()
            else:
                await anyio.sleep(0)
        finally:
            self._alarm = None
            self._woken = anyio.Event()

    def report(self, part: str, problem: BaseException | str, job: JobInfo | None = None) -> None:
        error = problem if isinstance(problem, BaseException) else None
        if self.stopping:  # one line per stop and kind; none for what only came too late
            if isinstance(error, NotStarted):
                return
            kind = (part, type(error) if error else problem)
            if kind in self._told_at_stop:
                return
            self._told_at_stop.add(kind)
        text = _one_line(problem)
        exc_info = loggable(error) if log.isEnabledFor(logging.DEBUG) else None
        extra = log_fields(job) if job else None
        log.warning("%s: %s", part, text, exc_info=exc_info, extra=extra)
        self._problems[part] = (self.clock.monotonic(), text)
        self._on_loop(lambda: self.events.problem(part, problem))

    @property
    def problems(self) -> dict[str, str]:
        """What went wrong within the last minute, by part; the last of each."""
        since = self.clock.monotonic() - RECENT
        return {part: text for part, (when, text) in list(self._problems.items()) if when >= since}

    def failing(self, name: str) -> bool:
        """Whether a supervised loop does not get going; one that runs again no longer counts."""
        return self.clock.monotonic() - self._failed.get(name, -math.inf) <= 2 * BACKOFF[1]

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
        wait, said = BACKOFF[0], ("", 0.0)
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
            text, now = _one_line(problem), self.clock.monotonic()
            self._failed[name] = now
            if text != said[0] or now - said[1] >= RECENT:  # the same failure once a minute, however often it is tried
                said = (text, now)
                self.report(name, problem)
            wait = longer(0.0 if self.clock.monotonic() - began > 60 else wait, BACKOFF)
            await anyio.sleep(wait)

    # -- for the other rooms ---------------------------------------------------------------------

    def plan(self, job: JobInfo) -> Plan:
        """Raises `InvalidSchedule` when the schedule's plugin is gone."""
        schedule: Schedule = self.schedule(job.expression_value, job.timezone)
        return Plan.of(schedule, job, self.undone).grounded(self.clock.now())

    def plan_or_none(self, job: JobInfo) -> Plan | None:
        """None: this process cannot read its schedule, and will not claim such jobs (docs/protocol.md, C8)."""
        try:
            return self.plan(job)
        except InvalidSchedule:
            self.unreadable.add((job.expression_value, job.timezone))
            return None

    def cannot_read(self, job: JobInfo) -> bool:
        return (job.expression_value, job.timezone) in self.unreadable

    def reads(self, text: str, timezone: str | None) -> bool:
        """Try once more: its plugin may have failed for a passing reason."""
        try:
            self.schedule(text, timezone)
        except InvalidSchedule:
            return False
        self.unreadable.discard((text, timezone))
        return True

    async def save(self, change: Change) -> bool:
        """Write it and tell of it. False: the row has moved on meanwhile."""
        try:
            await self.writes.write(Update(change))
        except Stale:
            return False
        self.settled(change)
        self.arm(change.job_id)
        return True

    async def aside(self, fn: Callable[..., T], *args: object) -> T:
        """Off the event loop, one at a time: what searches and counts missed occurrences (docs/protocol.md, R7)."""
        async with self._aside:
            return await self._threads.run(fn, *args)

    def new_work(self) -> UnitOfWork:
        return UnitOfWork(lambda tx, made: self.enqueue_in(tx, made))

    def ending(self, job_id: UUID) -> anyio.Event:
        """Set when this process learns that the job has ended."""
        ending: anyio.Event = self._endings.setdefault(job_id, anyio.Event())
        return ending

    def settled(self, change: Change) -> None:
        """A change of a row has been committed here."""
        if change.status.terminal:
            if self._endings and (ended := self._endings.pop(change.job_id, None)) is not None:
                ended.set()
        else:
            self.expect(change.due_at)


def _one_line(problem: BaseException | str) -> str:
    """For logs: no line breaks or escape sequences of others, and bounded. Of a group, what is in it."""
    text = _told(problem) if isinstance(problem, BaseException) else problem
    return plain(text[:2000])


def _told(problem: BaseException) -> str:
    if isinstance(problem, BaseExceptionGroup):
        return "; ".join(map(_told, problem.exceptions))
    return brief(problem)
