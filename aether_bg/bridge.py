"""Between the event loop and threads: calls back to the loop that never wait for it, and threads of our own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.lowlevel

R = TypeVar("R")

_IDLE: Final = 10.0
"""Seconds an unused thread waits for work before it ends."""


class Bridge:
    """The loop on which this was made. `post(fn)` makes the loop call it soon; False when the loop is gone."""

    def __init__(self) -> None:
        native = self._native = _native_token()
        self._current: Callable[[], Any] = asyncio.get_running_loop
        self._is_running: Callable[[], bool] | None = getattr(native, "is_running", None)
        self._post: Callable[[Callable[[], object]], object]
        if self._is_running is not None:
            self._post = native.call_soon_threadsafe
        else:
            self._current, self._post = _native_token, native.run_sync_soon

    @property
    def is_here(self) -> bool:
        """Whether that is the loop that runs in this thread."""
        try:
            return self._current() is self._native
        except RuntimeError:  # no loop runs here; anyio's NoEventLoopError is a RuntimeError as well
            return False

    @property
    def is_running(self) -> bool:
        """Whether the loop runs at this moment, in whichever thread."""
        return self._is_running() if self._is_running is not None else self.post(_nothing)

    def post(self, fn: Callable[[], object]) -> bool:
        try:
            self._post(fn)
        except RuntimeError:  # asyncio: loop is closed; trio.RunFinishedError is a RuntimeError as well
            return False
        return True


class Waiter(Protocol):
    """One task waits here until another part reports that something is done."""

    done: bool

    def finish(self) -> None:
        """On the loop of that task."""
        ...

    def wait(self, within: float | None = None) -> Awaitable[None]:
        """Until it is done, or `within` seconds."""
        ...


def waiters() -> Callable[[], Waiter]:
    """Makes them for the loop on which this is called. An `anyio.Event` and a cancel scope would do the same, but on
    asyncio they cost more than all the rest of a write on its way to the store."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return _Event
    return partial(_Future, asyncio.get_running_loop())


class _Event:
    def __init__(self) -> None:
        self.done, self._event = False, anyio.Event()

    def finish(self) -> None:
        self.done = True
        self._event.set()

    async def wait(self, within: float | None = None) -> None:
        with anyio.move_on_after(within):
            await self._event.wait()


class _Future:
    __slots__ = ("_future", "_loop", "done")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done, self._loop = False, loop
        self._future: asyncio.Future[None] | None = None

    def finish(self) -> None:
        self.done = True
        self._release()

    def _release(self) -> None:
        if self._future is not None and not self._future.done():  # done: the waiting task was cancelled
            self._future.set_result(None)

    def wait(self, within: float | None = None) -> Awaitable[None]:
        self._future = future = self._loop.create_future()
        if self.done:
            future.set_result(None)
        return future if within is None or self.done else self._within(within, future)

    async def _within(self, seconds: float, future: asyncio.Future[None]) -> None:
        timer = self._loop.call_later(seconds, self._release)
        try:
            return await future
        finally:
            timer.cancel()


class Threads:
    """Threads for calls that block, separate from the host's: they neither take its slots nor wait for them.

    They are daemons: one that hangs must not keep the interpreter from ending. Each thread that begins a call has the
    next one called, if more work waits: calls that return at once all run in one thread, which costs no switches, and
    calls that block have as many threads as there are calls.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._work: deque[Callable[[], None]] = deque()
        self._asleep: list[threading.Lock] = []
        """The bells of the threads that have nothing to do: each sleeps until its own is released."""
        self._coming = False
        """A thread has been called, and has not looked for work yet."""

    async def run(self, fn: Callable[..., R], *args: Any) -> R:
        """Runs `fn(*args)` in a thread, in a copy of this context. A thread cannot be cancelled: this waits until it
        has returned, even when the caller is cancelled (docs/protocol.md, S4)."""
        way, context = _way_back(), context_to_carry()
        done = way.waiter()
        result: list[R] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                result.append(context.run(fn, *args))
            except BaseException as error:
                raised.append(error)
            way.post(done.finish)

        self._start(work)
        with way.scope(shield=True):
            await done.wait()
        if raised:
            try:
                raise raised[0]
            finally:
                raised.clear()  # else the error and this frame keep each other
        return result[0]

    def _start(self, work: Callable[[], None]) -> None:
        if os.getpid() != self._pid:
            self._begin()  # a forked child has none of the threads
        with self._lock:
            self._work.append(work)
            served = self._call()
        while not served and (left := self._next()) is not None:  # the interpreter ends: do it here
            left()

    def _call(self) -> bool:
        """With the lock held: calls a thread if work waits and none is on its way. False: no thread can be started."""
        if self._coming or not self._work:
            return True
        if self._asleep:
            self._asleep.pop().release()
        else:
            try:
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            except RuntimeError:
                return False
        self._coming = True
        return True

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            return self._work.popleft() if self._work else None

    def _serve(self) -> None:
        bell, called = threading.Lock(), True
        bell.acquire()
        while True:
            work = None
            with self._lock:
                self._coming = self._coming and not called
                if self._work:
                    work = self._work.popleft()
                    self._call()
                else:
                    self._asleep.append(bell)
            called = work is None
            if work is not None:
                work()
            elif not self._sleep(bell):
                return

    def _sleep(self, bell: threading.Lock) -> bool:
        """False: there was no call for long, and there will be none."""
        if bell.acquire(timeout=_IDLE):
            return True
        with self._lock:
            if bell in self._asleep:
                self._asleep.remove(bell)
                return False
        return bell.acquire()  # it was called at the last moment


class WayBack:
    """From threads to the loop on which this was made: several calls at the same moment cross together."""

    def __init__(self) -> None:
        self.bridge, self.waiter = Bridge(), waiters()
        self.scope = type(anyio.CancelScope())  # `anyio.CancelScope()` finds out each time which loop it is on
        self._said: deque[Callable[[], object]] = deque()
        self._posted = False

    def post(self, fn: Callable[[], object]) -> None:
        self._said.append(fn)
        if not self._posted:  # else what has been posted will find it
            self._posted = True
            self.bridge.post(self._tell)

    def _tell(self) -> None:
        self._posted = False
        while self._said:
            self._said.popleft()()


_ways = threading.local()


def _way_back() -> WayBack:
    """For the loop that runs in this thread."""
    way: WayBack | None = getattr(_ways, "way", None)
    if way is None or not way.bridge.is_here:
        way = _ways.way = WayBack()
    return way


def context_to_carry() -> contextvars.Context:
    """A copy of this context for another thread, without anyio's mark of which event loop runs here."""
    context = contextvars.copy_context()
    if (sniffio := sys.modules.get("sniffio")) is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


def _native_token() -> Any:
    token: Any = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)  # the loop, or trio's token; anyio before 4.11 gives it as it is


def _nothing() -> None: ...
