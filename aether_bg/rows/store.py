"""The hooks of a store, each one transaction over `Rows`."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Generic, TypeVar
from uuid import UUID

from aether_bg.bridge import Threads
from aether_bg.errors import ForkedProcess, NotStarted
from aether_bg.hookspecs import hookimpl
from aether_bg.model import Claim, Claimed, FailureGroup, Failures, JobInfo, JobRun, Purge, Query, Ran, Runs, Write
from aether_bg.protocols import Kernel
from aether_bg.rows.rules import Rows

R = TypeVar("R", bound=Rows)
T = TypeVar("T")


class RowStore(ABC, Generic[R]):
    """Subclass it with the three methods below, and with the hooks `store_heartbeat` and `store_stats`.

    One object may serve several apps, on any threads: the first opens it, and it is closed after the last.
    """

    def __init__(self) -> None:
        self._wakes: list[Callable[[], None]] = []
        self._opening = threading.Lock()
        self._closing = ExitStack()
        self._pid = 0
        self._threads = Threads(type(self).__name__)

    @abstractmethod
    def open(self, stack: ExitStack) -> None:
        """Before the first app, in a thread. Push on `stack` what closes it again after the last app."""

    @abstractmethod
    async def read(self, work: Callable[[R], T]) -> T:
        """What `work` returns, called with rows that do not change meanwhile."""

    @abstractmethod
    async def write(self, work: Callable[[R], T]) -> T:
        """The same in a transaction: once this returns, the changes are on the disk; if it raises, there are none. It
        goes on, or has not begun, if the caller is cancelled. Raises a `StoreTrouble` where the engine is in trouble,
        and whatever `work` raises."""

    def check_open(self) -> None:
        """Call it first in `read` and `write`. Raises `NotStarted`, or `ForkedProcess`: what is open belongs to the
        process that opened it."""
        if not self._wakes:
            raise NotStarted(repr(self), "it is not open", "Use it inside `async with app` or `app.client()`.")
        if self._pid != os.getpid():
            raise ForkedProcess(repr(self), "this process was forked after it was opened", "Start after forking.")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Calls what blocks. It ends even if the caller is cancelled."""
        return await self._threads.run(work)

    def wake(self) -> None:
        """Something has been written, here or by another process."""
        for wake in list(self._wakes):
            wake()

    # -- the hooks ---------------------------------------------------------------------------------

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self.in_thread(lambda: self._enter(kernel.wake))
        stack.push_async_callback(self.in_thread, lambda: self._leave(kernel.wake))

    def _enter(self, wake: Callable[[], None]) -> None:
        with self._opening:
            if not self._wakes:
                with ExitStack() as stack:
                    self.open(stack)
                    self._closing = stack.pop_all()
                self._pid = os.getpid()
            self._wakes.append(wake)

    def _leave(self, wake: Callable[[], None]) -> None:
        with self._opening:
            self._wakes.remove(wake)
            if not self._wakes:
                self._closing.close()

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        results = await self.write(lambda rows: [rows.write(write) for write in writes])
        if any(result is not None for result in results) or any(write.wakes for write in writes):
            self.wake()
        return results

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        return await self.write(lambda rows: rows.claim(claim))

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self.write(lambda rows: rows.purge(purge))

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self.read(lambda rows: rows.find(query))

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self.read(lambda rows: rows.history(job_id, limit))

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self.read(lambda rows: rows.ran(query))

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self.read(lambda rows: rows.failures(query))
