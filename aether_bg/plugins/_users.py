"""The apps that one store object serves: the first opens it, and it is closed after the last."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Generic, Protocol, TypeVar

import anyio

from aether_bg.bridge import Bridge
from aether_bg.errors import ForkedProcess, NotStarted, UsageError
from aether_bg.protocols import Kernel


class Opened(Protocol):
    """The parts of a store while it is open: for one event loop of one process."""

    @property
    def bridge(self) -> Bridge: ...
    @property
    def pid(self) -> int: ...
    async def end(self) -> None: ...


O = TypeVar("O", bound=Opened)  # noqa: E741


class Users(Generic[O]):
    """`it`: what was opened, and `another`: how another event loop gets a store of its own, for messages. Each call
    gets the store, for its name in messages: a reference here would free it late."""

    def __init__(self, it: str, another: str) -> None:
        self._it, self._another = it, another
        self._kernels: list[Kernel] = []
        self._now: O | None = None
        self._opening: anyio.Event | None = None

    @property
    def open(self) -> bool:
        return self._now is not None

    @property
    def several(self) -> bool:
        return len(self._kernels) > 1

    def opened(self, store: object) -> O:
        """Raises `NotStarted`, or `ForkedProcess`."""
        if self._now is None:
            raise NotStarted(repr(store), "it is not open", "Use it inside `async with app` or `app.client()`.")
        if self._now.pid != os.getpid():
            raise ForkedProcess(
                repr(store), f"this process was forked after {self._it} was opened", "Start after forking."
            )
        return self._now

    async def join(
        self, store: object, kernel: Kernel, stack: AsyncExitStack, begin: Callable[[], Awaitable[O]]
    ) -> None:
        """The first app opens it with `begin`. Raises `UsageError` on any other event loop than the first one's."""
        while self._opening is not None:  # an app and its client may start at the same moment
            await self._opening.wait()
        if self._now is not None and not self._now.bridge.is_here:
            remedy = f"Give the other loop a store of its own: another Aether(…) {self._another}."
            raise UsageError(repr(store), "it is open on another event loop", remedy)
        if self._now is None:
            self._opening = opening = anyio.Event()
            try:
                self._now = await begin()
            finally:
                self._opening = None
                opening.set()
        self._kernels.append(kernel)
        stack.push_async_callback(self._leave, kernel)

    async def _leave(self, kernel: Kernel) -> None:
        self._kernels.remove(kernel)
        if not self._kernels and self._now is not None:
            now, self._now = self._now, None
            with anyio.CancelScope(shield=True):
                await now.end()

    def wake(self) -> None:
        """Something outside, or another of these apps, has written."""
        for kernel in self._kernels:
            kernel.wake()

    def report(self, part: str, problem: str | BaseException) -> None:
        """Reported by one of them."""
        for kernel in self._kernels[:1]:
            kernel.report(part, problem)
