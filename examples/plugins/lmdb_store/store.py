"""The store: its hooks, each a function over the rows of one transaction."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import anyio
import attrs
import lmdb

from aether_bg import JobInfo, JobRun, hookimpl
from aether_bg.errors import ForkedProcess, NotStarted
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Purge,
    Query,
    Ran,
    Runs,
    Stats,
    Write,
)  # fmt: skip
from aether_bg.protocols import Kernel

from . import reading, writing
from .opening import Shared, enter, leave
from .owners import Locks, Pulse
from .rows import Rows, Tables
from .writer import outcome, trouble

T = TypeVar("T")


class LMDBStore:
    """Jobs in an LMDB environment: a folder on a local disk, created if it does not exist."""

    def __init__(self, path: str | os.PathLike[str], *, map_size: int = 16 << 30, busy: float = 30) -> None:
        """`map_size`: the most bytes it can grow to; the file has holes, so it takes only what it needs.

        `busy`: seconds to wait for another process that holds the one lock of writers, then `StoreBusy`.
        """
        self._path, self._map_size, self._busy = Path(path), map_size, busy
        self._locks = Locks(self._path / "owners")
        self._wakes: list[Callable[[], None]] = []
        self._guard = threading.Lock()  # apps may start on loops of several threads
        self._opened: _Opened | None = None

    def __repr__(self) -> str:
        return f"LMDBStore({str(self._path)!r})"

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await anyio.to_thread.run_sync(self._enter, kernel.wake)
        stack.push_async_callback(self._leave, kernel.wake)

    # -- one transaction each --

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        return await self._write(lambda rows: writing.transact(rows, writes))

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        return await self._write(lambda rows: writing.claim(rows, claim))

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self._write(lambda rows: writing.purge(rows, purge))

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self._read(lambda rows: reading.find(rows, query))

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self._read(lambda rows: reading.history(rows, job_id, limit))

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self._read(lambda rows: reading.runs(rows, query))

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self._read(lambda rows: reading.failures(rows, query))

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self._read(reading.stats)

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        opened = self._in_use()
        if beat.join:
            self._locks.hold(beat.owner)  # before anybody can see the row
        if beat.join or beat.leave or beat.stopping or beat.recovered:
            await self._write(partial(writing.register, beat=beat))
            self._locks.drop(beat.recovered)
        opened.pulse.keep(beat)
        alive = await self._read(lambda rows: reading.alive(rows, beat, self._locks.released(rows.owners())))
        if not alive.known:
            opened.pulse.cease(beat.owner)
            self._locks.drop([beat.owner])
        return alive

    # -- the environment, open while somebody uses it --

    async def _write(self, work: Callable[[Rows], T]) -> T:
        return await outcome(self._in_use().shared.writer.submit(work), self._busy)

    async def _read(self, work: Callable[[Rows], T]) -> T:
        opened = self._in_use()
        return await outcome(opened.readers.submit(_over_snapshot, work, opened.shared.tables), self._busy)

    def _in_use(self) -> _Opened:
        if self._opened is None:
            raise NotStarted(repr(self), "it is not open", "Use it inside `async with app` or `app.client()`.")
        if self._opened.shared.pid != os.getpid():
            raise ForkedProcess(repr(self), "this process was forked after it was opened", "Start after forking.")
        return self._opened

    def _enter(self, wake: Callable[[], None]) -> None:
        with self._guard:
            if self._opened is None:
                shared = enter(self._path, self._map_size)
                pulse = Pulse(shared.tables, shared.writer, self._wake)
                self._opened = _Opened(shared, pulse, ThreadPoolExecutor(4, "lmdb-reader"))
            self._wakes.append(wake)

    async def _leave(self, wake: Callable[[], None]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._left, wake)

    def _left(self, wake: Callable[[], None]) -> None:
        with self._guard:
            self._wakes.remove(wake)
            if not self._wakes and self._opened is not None:
                opened, self._opened = self._opened, None
                opened.pulse.close()
                opened.readers.shutdown()
                leave(opened.shared, self._busy)
                self._locks.close()

    def _wake(self) -> None:
        for wake in list(self._wakes):
            wake()


@attrs.frozen(eq=False)
class _Opened:
    shared: Shared
    pulse: Pulse
    readers: ThreadPoolExecutor


def _over_snapshot(work: Callable[[Rows], T], tables: Tables) -> T:
    try:
        with tables.env.begin() as txn:
            return work(Rows(txn, tables))
    except lmdb.Error as error:
        raise trouble(error, tables.env.path()) from error
