"""Tasks without a caller: their failure never cancels the host, nor the host's failure them (docs/protocol.md, S6).

A task group would cancel its host, and costs seven times as much per task. The caller must make sure that a task ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Final
from weakref import getweakrefcount

import anyio

from aether_bg.bridge import Bridge

Spawn = Callable[..., object]
"""`spawn(fn, *args, context=None)`: runs the async function beside everything else, in this context or in an empty one.
It must not raise."""
Run = Callable[[Callable[[], object]], None]
"""Runs a function on the event loop: at once when called on it, soon when called from another thread."""

_BEGAN: Final = time.monotonic()


def spawner() -> Spawn:
    """For the loop on which this is called."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return lambda fn, *args, context=None: trio.lowlevel.spawn_system_task(
                fn, *args, context=context or Context()
            )
    loop = asyncio.get_running_loop()
    kept: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only
    begin = _beginner(loop)

    def spawn(fn: Callable[..., Awaitable[object]], *args: object, context: Context | None = None) -> None:
        task = begin(fn(*args), context or Context())
        if not task.done():
            kept.add(task)
            task.add_done_callback(kept.discard)

    return spawn


def traces() -> tuple[object, ...]:
    """Of the asyncio task that runs: another value once something refers to it, a context variable of it is set, it has
    another name or a callback, or it is to be cancelled."""
    task = asyncio.current_task()
    assert task is not None
    theirs = task.get_name(), len(task._callbacks or ()), task.cancelling()
    return sys.getrefcount(task), getweakrefcount(task), len(copy_context()), theirs


def _beginner(loop: asyncio.AbstractEventLoop) -> Callable[[Any, Context], asyncio.Task[None]]:
    """How a task is made: begun at once if Python can do that, unless the host has a task factory of its own."""
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return lambda coro, context: asyncio.Task(coro, loop=loop, context=context, eager_start=True)
    return lambda coro, context: loop.create_task(coro, context=context)


def runner() -> Run:
    """For the loop on which this is called."""
    bridge, thread = Bridge(), threading.get_ident()

    def on_loop(fn: Callable[[], object]) -> None:
        if threading.get_ident() == thread:
            fn()
        else:
            bridge.post(fn)

    return on_loop


def longer(wait: float, bounds: tuple[float, float]) -> float:
    """The next wait of a backoff that doubles within its bounds; after 0, the first."""
    return min(max(wait * 2, bounds[0]), bounds[1])


def to_tick(length: float) -> float:
    """Seconds to the next tick of that length. Parts that sleep by the same ticks wake an idle process only once; each
    process has its own, so that many do not wake at the same moment."""
    return length - (time.monotonic() - _BEGAN) % length


class Signal:
    """Each `set` releases those who wait at that moment; it costs nothing while nothing waits."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    def next(self) -> anyio.Event:
        """The event that the next `set` sets."""
        if self._event is None:
            self._event = anyio.Event()
        return self._event

    async def wait(self, within: float) -> None:
        """Waits until the next `set`, or for `within` seconds."""
        event = self.next()
        with anyio.move_on_after(within):
            await event.wait()
