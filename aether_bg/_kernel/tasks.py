"""Tasks that belong to no caller: their trouble never cancels the host, nor the host's theirs (PROTOCOL S6).

A task group would cancel its host, and costs seven times as much per task; whoever starts a task here sees to its end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from itertools import count

import anyio

Spawn = Callable[..., None]
"""`spawn(fn, *args, context=None)`: run the async function beside everything else, in this context, an empty one if
none is given. It must not raise."""


def spawner() -> Spawn:
    """For the loop this is called on."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return lambda fn, *args, context=None: _ignore(
                trio.lowlevel.spawn_system_task(fn, *args, context=context or Context())
            )
    loop = asyncio.get_running_loop()
    kept: dict[int, asyncio.Task[None]] = {}  # the loop itself keeps weak references only
    numbers = count()

    async def run(number: int, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        try:
            await fn(*args)
        finally:
            kept.pop(number, None)  # a callback of the task's would be one more turn of the loop for each

    def spawn(fn: Callable[..., Awaitable[object]], *args: object, context: Context | None = None) -> None:
        number = next(numbers)
        task = loop.create_task(run(number, fn, *args), context=context or Context())
        if not task.done():  # where the host has its tasks begun eagerly
            kept[number] = task

    return spawn


def longer(wait: float, bounds: tuple[float, float]) -> float:
    """The next wait of a backoff that doubles within its bounds; the first after 0."""
    return min(max(wait * 2, bounds[0]), bounds[1])


def _ignore(_: object) -> None: ...


class Signal:
    """Lets go, at each `set`, of those who wait at that moment; costs nothing while nobody does."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, within: float) -> None:
        """Until the next `set`, at most so many seconds."""
        if self._event is None:
            self._event = anyio.Event()
        with anyio.move_on_after(within):
            await self._event.wait()
