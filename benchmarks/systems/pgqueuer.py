"""PgQueuer over asyncpg, with a pool of its own and batches of a hundred, on uvloop as its own runner has it.

Its worker deletes the row of a job that has ended; a log row stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg  # type: ignore[import-not-found, import-untyped, unused-ignore]
import uvloop  # type: ignore[import-not-found, import-untyped, unused-ignore]
from pgqueuer import AsyncpgPoolDriver, Job, Queries, QueueManager  # type: ignore[import-not-found, unused-ignore]
from pgqueuer.types import QueueExecutionMode  # type: ignore[import-not-found, unused-ignore]

from systems.timing import PAUSE, Figures, Measurement, rate_of_tasks, spread

BATCH = 100


async def _speed(size: int, url: str) -> Figures:
    async with asyncpg.create_pool(url) as pool:
        queries: Any = Queries(AsyncpgPoolDriver(pool))
        queue = QueueManager(queries)
        await queries.install()
        ran = 0

        @queue.entrypoint("noop")
        async def noop(job: Job) -> None:
            nonlocal ran
            ran += 1

        async def put() -> None:
            await queries.enqueue("noop", None)

        one, many = await rate_of_tasks(size, put, tasks=1), await rate_of_tasks(4 * size, put)
        began = time.perf_counter()
        await queue.run(batch_size=BATCH, mode=QueueExecutionMode.drain)
        return {"enqueue": one, "enqueue_many": max(one, many), "drain": ran / (time.perf_counter() - began)}


async def _latency(size: int, url: str) -> Figures:
    async with asyncpg.create_pool(url) as pool:
        queries: Any = Queries(AsyncpgPoolDriver(pool))
        queue = QueueManager(queries)
        await queries.install()
        waits: list[float] = []
        began, ran = 0.0, asyncio.Event()

        @queue.entrypoint("noop")
        async def note(job: Job) -> None:
            waits.append(time.perf_counter() - began)
            ran.set()

        worker = asyncio.create_task(queue.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=30)))
        await asyncio.sleep(1)
        for _ in range(size):
            ran.clear()
            began = time.perf_counter()
            await queries.enqueue("noop", None)
            await asyncio.wait_for(ran.wait(), 40)
            await asyncio.sleep(PAUSE)
        queue.shutdown.set()
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        return spread(waits)


def _on_uvloop(measure: Callable[[int, str], Awaitable[Figures]]) -> Measurement:
    return lambda size, folder, url: uvloop.run(measure(size, url))  # type: ignore[no-any-return, unused-ignore]


logging.getLogger("pgqueuer").setLevel(logging.ERROR)
FIGURES: dict[str, Measurement] = {"speed": _on_uvloop(_speed), "latency": _on_uvloop(_latency)}
