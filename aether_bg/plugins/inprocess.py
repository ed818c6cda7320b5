"""In-process dispatch: async handlers on the event loop, plain ones in threads of their own."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

import anyio

from aether_bg.bridge import Bridge
from aether_bg.hookspecs import hookimpl
from aether_bg.model import HandlerInfo, Invocation, JobContext
from aether_bg.protocols import Runner

_IDLE = 10.0
"""Seconds an unused thread waits for work before it ends."""


class InProcess:
    """The default runner. Threads are daemons: one that hangs must not keep the interpreter from ending."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<InProcess>"

    @hookimpl(trylast=True)
    def dispatch_runner(self, handler: HandlerInfo) -> Runner | None:
        return self._on_loop if handler.is_async else self._in_thread

    async def _on_loop(self, ctx: JobContext, call: Invocation) -> Any:
        return await call()

    async def _in_thread(self, ctx: JobContext, call: Invocation) -> Any:
        """A thread cannot be cancelled: wait for it, whatever happens (PROTOCOL S4)."""
        done = anyio.Event()
        bridge = Bridge()
        outcome: list[Any] = [None, None]

        def work() -> None:
            try:
                outcome[0] = context.run(call)
            except BaseException as error:
                outcome[1] = error
            bridge.post(done.set)

        context = contextvars.copy_context()
        self._start(work)
        with anyio.CancelScope(shield=True):
            await done.wait()
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _start(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._idle == 0:
                threading.Thread(target=self._serve, name="aether_bg handler", daemon=True).start()
            else:
                self._idle -= 1
        self._work.put(work)

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:
                        self._idle -= 1
                        return
                continue  # somebody counts on this thread
            work()
            del work
            with self._lock:
                self._idle += 1
