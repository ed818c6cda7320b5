"""Start and stop, in order (PROTOCOL P1, S1 to S4). One `Run` is one start of the app, or of a client of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final, Self

import anyio
import attrs

from aether_bg._app.crossing import Crossing
from aether_bg._app.declarations import Declarations
from aether_bg._app.enqueue import Enqueues
from aether_bg._app.jobs import Jobs
from aether_bg._app.rows import Rows
from aether_bg._app.view import StoreView
from aether_bg._handlers.dependencies import Dependencies
from aether_bg._handlers.handlers import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.blocked import Watch
from aether_bg._kernel.clocks import Clocks
from aether_bg._kernel.engine import Engine
from aether_bg._kernel.outbox import Outbox
from aether_bg._kernel.owners import Owners
from aether_bg._kernel.tasks import spawner
from aether_bg._rules import states
from aether_bg._rules.options import Options
from aether_bg.errors import StoreError
from aether_bg.model import AppStarted, AppStopped, Change, Purge, Update

AFTER_CANCEL: Final = 0.5
"""Seconds between cancelling what runs and taking its rows back."""
LAST: Final = 1.0
"""Seconds after the grace for recording, arming and closing."""
RETENTION: Final = 60.0
LARGE: Final = 1024**3
_outliving: list[AsyncExitStack] = []
"""Stores kept open because a thread still runs a job of theirs (PROTOCOL S4)."""


@attrs.frozen
class Parts:
    """What an app is made of, before any start."""

    options: Options
    calls: Calls
    handlers: Handlers
    dependencies: Dependencies
    declared: Sequence[Mapping[str, Any]]
    """Arguments of `enqueue`."""


class Run:
    """Made in `async with`; lives in a detached task of its own. `name`: what is starting, for errors."""

    def __init__(self, parts: Parts, name: str, *, client: bool) -> None:
        self._app, self._client = parts, client
        self._spawn = spawner()
        self.crossing = Crossing(name, self._spawn)
        self._started = anyio.Event()
        self._stop = anyio.Event()
        self._ended = anyio.Event()
        self.hurry = anyio.Event()
        """Set by a second signal: skips the grace (PROTOCOL S3)."""
        self.stop_asked = False
        """Set in any thread or signal handler, ahead of the stop: what runs now may block the loop until the process
        ends, and that is not a crash (docs/protocol.md, S7)."""
        self._failed: BaseException | None = None
        self.engine: Engine
        self.enqueues: Enqueues
        self.declarations: Declarations
        self.jobs: Jobs
        self.view: StoreView

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Raises what kept the app from starting; everything opened has been closed again then."""
        self._spawn(self._root)
        try:
            await self._started.wait()
        except BaseException:
            await self.stop()
            raise
        if self._failed is not None:
            await self._ended.wait()
            raise self._failed

    async def stop(self) -> None:
        """Graceful, and bounded whatever hangs."""
        self.stop_asked = True
        self._stop.set()
        bound = self._app.options.grace + AFTER_CANCEL + LAST + 5.0
        with anyio.CancelScope(shield=True), anyio.move_on_after(bound):
            await self._ended.wait()
        if not self._ended.is_set():
            self.engine.report("stop", "it did not end in time; left behind: " + self._names())

    async def _root(self) -> None:
        try:
            await self._live()
        except BaseException as error:  # nobody awaits this task: whoever starts the app hears of it
            if not self._started.is_set():
                self._failed = error
            elif isinstance(error, Exception):
                self.engine.report("kernel", error)
        finally:
            self._started.set()
            self._ended.set()

    async def _live(self) -> None:
        app = self._app
        engine = self.engine = Engine(app.options, app.calls, app.handlers, app.dependencies, self._spawn)
        engine.client = self._client
        rows = Rows(engine)
        self.enqueues = Enqueues(engine, rows, client=self._client)
        self.jobs = Jobs(engine, rows)
        self.view = engine.store = StoreView(engine, self.jobs, self.crossing.check_loop)
        stack = AsyncExitStack()
        self._outliving: Owners | None = None
        try:
            await app.calls.start(engine, stack)
            for loop in (engine.writes.run, engine.writes.run, engine.events.run):
                engine.start_task(engine.until_end, loop)
            if self._client:
                self._started.set()
                await self._stop.wait()
            else:
                await self._own(stack)
        finally:
            engine.stopping = True
            if self._outliving is not None:
                engine.start_task(self._outlive, self._outliving, stack)
            else:
                engine.end()
                with anyio.CancelScope(shield=True):
                    await stack.aclose()

    async def _own(self, stack: AsyncExitStack) -> None:
        """Be an owner: recover, declare, schedule, until the stop."""
        app, engine = self._app, self.engine
        owners = Owners(engine, lambda: self.stop_asked)
        outbox = Outbox(engine) if app.calls.arms else None
        alive = await owners.join()
        watch = Watch(engine, lambda: list(engine.attempts.running.values()))
        try:
            self.declarations = Declarations(engine, self.enqueues, app.declared, owners.tell)
            await self.declarations.apply()
            engine.supervise(owners.run, "heartbeat")
            engine.supervise(Clocks(engine).run, "clocks")
            if outbox is not None:
                engine.supervise(outbox.run, "outbox")
            engine.supervise(lambda: app.calls.run_scheduler(engine), "scheduler")
            if app.options.retention:
                engine.supervise(self._retain, "retention")
            self._warn_of_size(alive.size)
            engine.events.emit(AppStarted(engine.owner, engine.store_id))
            self._started.set()
            await self._stop.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._wind_down(owners, outbox, stack)
            watch.stop()

    # -- the stop --------------------------------------------------------------------------------

    async def _wind_down(self, owners: Owners, outbox: Outbox | None, stack: AsyncExitStack) -> None:
        """Door closed, announced, grace, cancel, release, arm, withdraw (docs/protocol.md, S1 and S7)."""
        engine = self.engine
        running = engine.attempts.running
        engine.stopping = True
        engine.start_task(owners.announce_stop)
        engine.wake()
        await self._until(lambda: not running and not engine.claiming, engine.options.grace, hurried=True)
        for attempt in list(running.values()):
            attempt.releasing = True
            attempt.scope.cancel()
        await self._until(lambda: not running and not engine.claiming, AFTER_CANCEL)
        threads = [attempt for attempt in running.values() if attempt.in_thread]
        if running:
            engine.report("stop", "these did not end when cancelled: " + self._names())
        for attempt in [attempt for attempt in running.values() if not attempt.in_thread]:
            attempt.revoke()
            now = engine.clock.now()
            change = states.finish(attempt.job, states.Released(begun=True), None, now, engine.options.by())
            engine.writes.put(Update(change), partial(_settled, engine, change))
        await self._until(lambda: not engine.attempts.recording and engine.writes.idle, LAST)
        engine.end_loops()
        if outbox is not None:
            await outbox.flush(LAST)
        engine.events.emit(AppStopped(engine.owner))
        await self._until(lambda: engine.events.idle, LAST)
        try:
            if threads:
                self._outliving = owners
                _outliving.append(stack)
                await owners.keep_for_ever()
            else:
                await owners.leave()
        except StoreError as error:
            engine.report("stop", error)

    async def _outlive(self, owners: Owners, stack: AsyncExitStack) -> None:
        """If this loop still runs when the last thread returns, its outcome is recorded, and the owner withdraws."""
        engine = self.engine
        while engine.attempts.busy:
            await engine.attempts.room(1.0)
        try:
            await owners.leave()
        except StoreError as error:
            engine.report("stop", error)
        engine.end()
        _outliving.remove(stack)
        await stack.aclose()

    async def _until(self, done: Callable[[], bool], within: float, *, hurried: bool = False) -> None:
        deadline = anyio.current_time() + within
        while not done() and anyio.current_time() < deadline and not (hurried and self.hurry.is_set()):
            await anyio.sleep(0.002)

    def _names(self) -> str:
        return ", ".join(str(attempt) for attempt in self.engine.attempts.running.values()) or "no attempt"

    # -- retention -------------------------------------------------------------------------------

    async def _retain(self) -> None:
        engine = self.engine
        while True:
            for status, keep in engine.options.retention.items():
                before = engine.clock.now() - keep if isinstance(keep, timedelta) else None
                purge = Purge(status=status, before=before, keep=None if isinstance(keep, timedelta) else keep)
                while await engine.calls.purge(purge):
                    await anyio.sleep(0.01)  # in bites, so that live work comes in between
            await anyio.sleep(RETENTION)

    def _warn_of_size(self, size: int) -> None:
        if size > LARGE and not self.engine.options.retention:
            self.engine.report(
                "retention", f"the store holds {size / LARGE:.1f} GiB and no retention is set: "
                "pass retention=timedelta(days=…), or purge",
            )  # fmt: skip


def _settled(engine: Engine, change: Change, error: BaseException | None) -> None:
    if error is None:
        engine.settled(change)
        engine.arm(change.job_id)
