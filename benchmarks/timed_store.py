"""A SQLite store that notes how long the kernel waits for it, hook by hook."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from uuid import UUID

from aether_bg import JobInfo, JobRun, SQLiteStore, hookimpl
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
)
from aether_bg.protocols import Kernel


class TimedStore:
    """Passes everything on. `spent`: per hook, (rows, seconds) of each call."""

    def __init__(self, inner: SQLiteStore) -> None:
        self._inner = inner
        self.spent: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)

    @contextmanager
    def _timed(self, hook: str) -> Iterator[list[int]]:
        rows = [0]
        began = time.perf_counter()
        yield rows
        self.spent[hook].append((rows[0], time.perf_counter() - began))

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self._inner.lifecycle_start(kernel, stack)

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        with self._timed("store_transact") as rows:
            rows[0] = len(writes)
            return await self._inner.store_transact(writes)

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        with self._timed("store_claim") as rows:
            claimed = await self._inner.store_claim(claim)
            rows[0] = len(claimed.jobs)
            return claimed

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self._inner.store_heartbeat(beat)

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self._inner.store_find(query)

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self._inner.store_history(job_id, limit)

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self._inner.store_runs(query)

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self._inner.store_failures(query)

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self._inner.store_stats()

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self._inner.store_purge(purge)
