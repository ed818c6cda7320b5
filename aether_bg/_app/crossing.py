"""Calls from other threads to an app's loop: an answer or an error, never a hang (docs/protocol.md, W12)."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import anyio

from aether_bg._kernel.tasks import Spawn
from aether_bg.bridge import Bridge, context_to_carry
from aether_bg.errors import ForkedProcess, NotStarted, WrongLoop

R = TypeVar("R")

_LOOK: Final = 0.5
"""Seconds between two checks that the loop still runs, while a call waits."""


class Crossing:
    """Created on the loop of one start. `name`: the app, for errors."""

    def __init__(self, name: str, spawn: Spawn) -> None:
        self._name, self._spawn = name, spawn
        self._bridge, self._thread, self._pid = Bridge(), threading.get_ident(), os.getpid()

    def check_process(self) -> None:
        """In a forked child nothing of the app exists: neither its loop nor its threads (docs/protocol.md, P2)."""
        if os.getpid() != self._pid:
            raise ForkedProcess(self._name, "this process was forked after the start", "Start after forking.")

    def check_loop(self) -> None:
        """An async verb must be awaited on the loop of its app."""
        self.check_process()
        if not self._bridge.is_here:
            raise WrongLoop(
                self._name, "its verbs must be awaited on the event loop it was started on, and this is another loop "
                "or thread",
                "From other threads call app.sync, for example app.sync.enqueue(…). Where another process runs the "
                "jobs: `with app.blocking(client=True) as jobs:`.",
            )  # fmt: skip

    def across(self, fn: Callable[[], Awaitable[R]], done: Awaitable[R]) -> Awaitable[R]:
        """As `Across`."""
        if self._bridge.is_here:
            return fn()
        self.call(fn)
        return done

    def call(self, fn: Callable[[], Awaitable[R]]) -> R:
        """Runs `fn` on the loop, in a copy of this thread's context; returns its result, or raises its error."""
        self.check_process()
        if not self._bridge.is_running:
            raise self._gone()
        if threading.get_ident() == self._thread:
            raise WrongLoop(
                self._name, "app.sync is for other threads, and this is the thread of the app's event loop, which the "
                "call would block for ever",
                "Here await the verb itself, for example `await app.enqueue(…)`.",
            )  # fmt: skip
        call = _Call(fn)
        context = context_to_carry()
        if not self._bridge.post(lambda: self._spawn(call.run, context=context)):
            raise self._gone()
        try:
            while not call.done.wait(_LOOK):
                if not self._bridge.is_running:
                    raise self._gone()
        except BaseException:  # usually from a signal handler: KeyboardInterrupt
            self._bridge.post(call.cancel)
            raise
        return call.result(self._gone)

    def _gone(self) -> NotStarted:
        return NotStarted(
            self._name, "its event loop does not run, or stopped before it had answered",
            "Call it while the app runs: inside `async with app:` or `with app.blocking():`.",
        )  # fmt: skip


class _Call(Generic[R]):
    def __init__(self, fn: Callable[[], Awaitable[R]]) -> None:
        self._fn = fn
        self._results: list[R] = []
        self._error: BaseException | None = None
        self._scope: anyio.CancelScope | None = None
        self._given_up = False
        self.done = threading.Event()

    async def run(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                if not self._given_up:
                    self._results.append(await self._fn())
        except Exception as error:
            self._error = error
        finally:  # also when the loop ends and cancels it
            self.done.set()

    def cancel(self) -> None:
        """On the loop: the caller no longer waits."""
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()

    def result(self, cancelled: Callable[[], Exception]) -> R:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # else the error and this call keep each other alive
        if not self._results:
            raise cancelled()
        return self._results[0]
