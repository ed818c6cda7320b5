"""The app without async: a portal thread for scripts, and `run()` with its signals and watchdog."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from aether_bg._app.verbs import OwnerVerbs
from aether_bg._app.view import StoreView
from aether_bg._handlers.work import UnitOfWork, current
from aether_bg.bridge import Bridge
from aether_bg.errors import ForkedProcess, UsageError
from aether_bg.model import JobInfo

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class plain(Generic[P, R]):  # noqa: N801 - reads as a decorator
    """A verb as a plain function: calls the async one of the same object in the portal's loop. Keeps its types."""

    def __init__(self, verb: Callable[Concatenate[Any, P], Awaitable[R]]) -> None:
        self._name = getattr(verb, "__name__", "")
        self.__doc__ = verb.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> plain[P, R]: ...
    @overload
    def __get__(self, instance: _Plain[Any], owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: _Plain[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        verb = getattr(instance._target, self._name)

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._live_portal.call(lambda: verb(*args, **kwargs))

        call.__name__, call.__doc__ = self._name, self.__doc__
        return call


class _Plain(Generic[S]):
    def __init__(self, target: S, portal: BlockingPortal) -> None:
        self._target, self._portal = target, portal
        self._pid = os.getpid()

    @property
    def _live_portal(self) -> BlockingPortal:
        """A forked child has no thread of the portal: a call would wait for ever (PROTOCOL P2)."""
        if os.getpid() != self._pid:
            raise ForkedProcess(repr(self), "this process was forked after the start", "Start after forking.")
        return self._portal

    def __repr__(self) -> str:
        return f"<blocking {self._target!r}>"


class PlainStore(_Plain[StoreView]):
    """`app.store` for scripts."""

    get = plain(StoreView.get)
    get_by_job_name = plain(StoreView.get_by_job_name)
    get_by_handler_name = plain(StoreView.get_by_handler_name)
    get_active = plain(StoreView.get_active)
    find = plain[..., list[JobInfo]](StoreView.find)
    history = plain(StoreView.history)
    stats = plain(StoreView.stats)
    update_status = plain(StoreView.update_status)
    purge = plain(StoreView.purge)


class Blocking(_Plain[OwnerVerbs]):
    """Every verb of an app, and its `store`, as plain functions; from any thread."""

    enqueue = plain(OwnerVerbs.enqueue)
    wait = plain(OwnerVerbs.wait)
    explain = plain(OwnerVerbs.explain)
    update = plain(OwnerVerbs.update)
    delete = plain(OwnerVerbs.delete)
    retry = plain(OwnerVerbs.retry)
    trigger = plain(OwnerVerbs.trigger)
    pause = plain(OwnerVerbs.pause)
    resume = plain(OwnerVerbs.resume)
    drain = plain(OwnerVerbs.drain)
    health = plain(OwnerVerbs.health)

    @property
    def store(self) -> PlainStore:
        return PlainStore(self._target.store, self._portal)

    @contextmanager
    def unit_of_work(self) -> Iterator[UnitOfWork]:
        """As `Aether.unit_of_work`: all of it, or nothing."""
        with _unless_forked() as stack:
            unit = stack.enter_context(self._live_portal.wrap_async_context_manager(self._target.unit_of_work()))
            if current.get() is not None:
                yield unit
                return
            token = current.set(unit)  # the portal's calls copy this thread's context, so that enqueue joins
            try:
                yield unit
            finally:
                current.reset(token)


_left: list[ExitStack] = []
"""What a forked child has left, kept from being ended by the garbage collector."""


@contextmanager
def _unless_forked() -> Iterator[ExitStack]:
    """Left in a forked child, what has been entered is not ended: the thread that would do it is the parent's (P2)."""
    pid = os.getpid()
    with ExitStack() as stack:
        try:
            yield stack
        finally:
            if os.getpid() != pid:
                _left.append(stack.pop_all())


@contextmanager
def blocking(app: AbstractAsyncContextManager[OwnerVerbs], backend: str) -> Iterator[Blocking]:
    with _unless_forked() as stack:
        portal = stack.enter_context(start_blocking_portal(backend))
        yield Blocking(stack.enter_context(portal.wrap_async_context_manager(app)), portal)


def run_until_signal(
    app: AbstractAsyncContextManager[object], grace: float, hurry: Callable[[], object], backend: str
) -> None:
    """`hurry`: no more grace, please."""
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("app.run()", "only the main thread receives signals", "Use `async with app:` elsewhere.")
    watchdog = _Watchdog(grace + 1.0)
    try:
        anyio.run(_until_signal, app, watchdog, hurry, backend=backend)
    finally:  # the loop's own end may hang as well, on a task that swallows its cancellation
        watchdog.over()


async def _until_signal(
    app: AbstractAsyncContextManager[object], watchdog: _Watchdog, hurry: Callable[[], object]
) -> None:
    """The first signal stops gracefully, a second one skips the grace (PROTOCOL S3)."""
    bridge = Bridge()
    stop = anyio.Event()

    def received() -> None:
        if not stop.is_set():
            stop.set()
        else:
            hurry()

    def on_signal(*_: object) -> None:
        watchdog.begin()  # here and not on the loop, which may be what hangs
        bridge.post(received)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        async with app:
            await stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watchdog:
    """A thread that ends the process when the stop takes longer than so many seconds (PROTOCOL S3)."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun = False
        self._begin = threading.Lock()  # releasing a plain lock is all that a signal handler may safely do
        self._begin.acquire()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="aether_bg watchdog", daemon=True).start()

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._begin.release()

    def over(self) -> None:
        self._over.set()
        self.begin()

    def _watch(self) -> None:
        self._begin.acquire()
        if not self._over.wait(self._seconds):
            _end_hanging()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _end_hanging() -> None:
    """A watchdog thread's last word: where it hangs, then the end."""
    print("aether_bg: the stop hangs; ending the process. Where it is:", file=sys.stderr)  # noqa: T201
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.flush()
    os._exit(1)
