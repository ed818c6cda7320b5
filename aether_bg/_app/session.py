"""Start and stop, in order (docs/protocol.md, P1 and S1 to S4)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

import anyio

from aether_bg._app.commands import Commands
from aether_bg._app.crossing import Crossing
from aether_bg._app.declarations import Declarations
from aether_bg._app.enqueue import Enqueuer, InTransaction
from aether_bg._app.many import Many
from aether_bg._app.on_connection import OnConnection
from aether_bg._app.registration import Registration
from aether_bg._app.store_view import StoreView
from aether_bg._kernel.kernel import Kernel
from aether_bg._kernel.tasks import spawner
from aether_bg._kernel.timekeeper import Timekeeper
from aether_bg._rules import transitions
from aether_bg._rules.results import Released
from aether_bg._upkeep.blocked import LoopWatch
from aether_bg._upkeep.upkeep import Upkeep
from aether_bg.model import AppStarted, AppStopped, CancelReason

_outliving: list[AsyncExitStack] = []
"""Stores kept open because a thread still runs one of their jobs (docs/protocol.md, S4)."""


class Session:
    """One start of the app, or of a client of it, in a task of its own. `name`: what is starting, for errors."""

    def __init__(self, registration: Registration, name: str, *, client: bool) -> None:
        self._registration, spawn = registration, spawner()
        self.crossing = Crossing(name, spawn)
        self._started, self._stop, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self.hurry = anyio.Event()
        """Set by a second signal: skips the grace (docs/protocol.md, S3)."""
        self._failed: BaseException | None = None
        self._keeps_thread = False
        options, admission = registration.options, registration.admission(client=client)
        clock = Timekeeper(options.clock, options.by)
        self.kernel = kernel = Kernel(
            options=options, timings=registration.timings, calls=registration.calls, handlers=registration.handlers,
            runners={} if client else registration.runners(), dependencies=registration.dependencies, clock=clock,
            spawn=spawn, client=client, enqueue_in=InTransaction(admission, registration.calls, clock),
            across=self.crossing.across,
        )  # fmt: skip
        declares = [arguments["job_name"] for arguments in registration.declared]
        self.upkeep = Upkeep(kernel, dependencies=registration.dependencies, declares=declares)
        self.enqueuer = Enqueuer(kernel, admission)
        self.on_connection = OnConnection(self.enqueuer)
        self.many = Many(self.enqueuer)
        self.commands = Commands(kernel, self.upkeep)
        self.store = StoreView(kernel, self.commands, self.crossing.check_loop)
        self.declarations = Declarations(kernel, self.upkeep.heartbeats, self.enqueuer, registration.declared)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Raises the error that kept the app from starting; everything opened has been closed again by then."""
        self.kernel.shared.spawn(self._root)
        try:
            await self._started.wait()
        except BaseException:
            await self.stop()
            raise
        if self._failed is not None:
            await self._ended.wait()
            raise self._failed

    async def stop(self) -> None:
        """Graceful, and bounded even if something hangs."""
        self.kernel.shared.identity.stop_asked = True
        self._stop.set()
        timings = self._registration.timings
        bound = self._registration.options.grace + timings.after_cancel + timings.last + 5.0
        with anyio.CancelScope(shield=True), anyio.move_on_after(bound):
            await self._ended.wait()
        if not self._ended.is_set():
            self.kernel.report("stop", "it did not end in time; left behind: " + self._names())

    async def _root(self) -> None:
        try:
            await self._live()
        except BaseException as error:  # no caller awaits this task: `start` raises it
            if not self._started.is_set():
                self._failed = error
            elif isinstance(error, Exception):
                self.kernel.report("kernel", error)
        finally:
            self._started.set()
            self._ended.set()

    async def _live(self) -> None:
        kernel, stack = self.kernel, AsyncExitStack()
        try:
            await self._registration.calls.start(kernel, stack)
            kernel.open()
            if kernel.client:
                self._started.set()
                await self._stop.wait()
            else:
                await self._own(stack)
        finally:
            kernel.shared.identity.stopping = True
            if self._keeps_thread:
                kernel.shared.spawn(self._outlive, stack)
            else:
                kernel.close()
                with anyio.CancelScope(shield=True):
                    await stack.aclose()

    async def _own(self, stack: AsyncExitStack) -> None:
        """Runs as an owner: recover, declare, schedule, until the stop."""
        kernel, supervise, shared = self.kernel, self.kernel.supervisor.supervise, self.kernel.shared
        await self._registration.dependencies.open(stack)
        alive = await self.upkeep.heartbeats.join()
        watch = LoopWatch(shared)
        try:
            await self.declarations.apply()
            await self.declarations.drop_gone()
            self.upkeep.supervise()
            if kernel.arming is not None:
                supervise(kernel.arming.run, "outbox")
            supervise(lambda: self._registration.calls.run_scheduler(kernel), "scheduler")
            self.upkeep.retention.warn_of_size(alive.size)
            shared.observers.emit(AppStarted(kernel.owner, kernel.store_id))
            self._started.set()
            await self._stop.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._wind_down(stack)
            watch.stop()

    # -- the stop --------------------------------------------------------------------------------

    async def _wind_down(self, stack: AsyncExitStack) -> None:
        """No more claims, announce, grace, cancel, release, arm, withdraw (docs/protocol.md, S1 and S7)."""
        kernel, shared = self.kernel, self.kernel.shared
        running, timings = shared.slots.running, shared.timings
        shared.identity.stopping = True
        kernel.shared.spawn(self.upkeep.heartbeats.announce_stop)
        kernel.wake()
        await self._until(lambda: not running and not kernel.claimer.claiming, kernel.options.grace, hurried=True)
        for attempt in list(running.values()):
            attempt.releasing = True
            attempt.context.cancel(CancelReason.STOP)
            attempt.scope.cancel()
        await self._until(lambda: not running and not kernel.claimer.claiming, timings.after_cancel)
        threads = [attempt for attempt in running.values() if attempt.in_thread]
        if running:
            kernel.report("stop", "these did not end when cancelled: " + self._names())
        for attempt in [attempt for attempt in running.values() if not attempt.in_thread]:
            attempt.revoke()
            released = transitions.finish(attempt.job, Released(begun=True), None, shared.clock.moment())
            kernel.journal.release(released)
        await self._until(lambda: not shared.slots.recording and kernel.batcher.idle, timings.last)
        kernel.supervisor.cancel()
        if kernel.arming is not None:
            await kernel.arming.flush(timings.last)
        shared.observers.emit(AppStopped(kernel.owner))
        await self._until(lambda: shared.observers.idle, timings.last)
        with shared.problems.reported("stop"):
            if threads:
                self._keeps_thread = True
                _outliving.append(stack)
                await self.upkeep.heartbeats.keep_for_ever()
            else:
                await self.upkeep.heartbeats.leave()

    async def _outlive(self, stack: AsyncExitStack) -> None:
        """If this loop still runs when the last thread returns, its outcome is recorded, and the owner is removed."""
        kernel, slots = self.kernel, self.kernel.shared.slots
        while slots.busy:
            await slots.freed.wait(1.0)
        with kernel.shared.problems.reported("stop"):
            await self.upkeep.heartbeats.leave()
        kernel.close()
        _outliving.remove(stack)
        await stack.aclose()

    async def _until(self, done: Callable[[], bool], within: float, *, hurried: bool = False) -> None:
        deadline = anyio.current_time() + within
        while not done() and anyio.current_time() < deadline and not (hurried and self.hurry.is_set()):
            await anyio.sleep(0.002)

    def _names(self) -> str:
        return ", ".join(map(str, self.kernel.shared.slots.running.values())) or "no attempt"
