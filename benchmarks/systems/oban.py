"""oban-py over psycopg, with a queue of a hundred, on uvloop as its own runner has it.

Its stager looks once a second for what is due; what is due at once is notified.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop  # type: ignore[import-not-found, import-untyped, unused-ignore]
from oban import Oban, worker  # type: ignore[import-not-found, import-untyped, unused-ignore]
from oban.schema import install  # type: ignore[import-not-found, import-untyped, unused-ignore]
from psycopg_pool import AsyncConnectionPool  # type: ignore[import-not-found, unused-ignore]

from systems.timing import PAUSE, Figures, Measurement, rate_of_tasks, spread

QUEUE = {"default": 100}
ENDED = "SELECT count(*) FROM oban_jobs WHERE state = 'completed'"
ran, began, waits = asyncio.Event(), list[float](), list[float]()


@worker()  # type: ignore[untyped-decorator, unused-ignore]
class Noop:
    async def process(self, job: Any) -> None:
        waits.append(time.perf_counter() - began[-1])
        ran.set()


enqueue: Callable[[], Awaitable[object]] = Noop.enqueue  # type: ignore[attr-defined, unused-ignore]


@asynccontextmanager
async def _pool(url: str) -> AsyncIterator[Any]:
    async with AsyncConnectionPool(url, min_size=10, max_size=10, open=False) as pool:
        await install(pool)
        yield pool


async def _speed(size: int, url: str) -> Figures:
    began.append(0.0)
    async with _pool(url) as pool:
        async with Oban(pool=pool):
            one, many = await rate_of_tasks(size, enqueue, tasks=1), await rate_of_tasks(2 * size, enqueue)
        count = size + 2 * size // 64 * 64
        started = time.perf_counter()
        async with Oban(pool=pool, queues=QUEUE):
            while len(waits) < count or await _completed(pool) < count:
                await asyncio.sleep(0.005)
            return {"enqueue": one, "enqueue_many": max(one, many), "drain": count / (time.perf_counter() - started)}


async def _completed(pool: Any) -> int:
    async with pool.connection() as connection:
        row = await (await connection.execute(ENDED)).fetchone()
    return int(row[0])


async def _latency(size: int, url: str) -> Figures:
    async with _pool(url) as pool, Oban(pool=pool, queues=QUEUE):
        await asyncio.sleep(2)
        for _ in range(size):
            ran.clear()
            began.append(time.perf_counter())
            await enqueue()
            await asyncio.wait_for(ran.wait(), 10)
            await asyncio.sleep(PAUSE)
    return spread(waits)


def _on_uvloop(measure: Callable[[int, str], Awaitable[Figures]]) -> Measurement:
    return lambda size, folder, url: uvloop.run(measure(size, url))  # type: ignore[no-any-return, unused-ignore]


logging.getLogger("oban").setLevel(logging.ERROR)
FIGURES: dict[str, Measurement] = {"speed": _on_uvloop(_speed), "latency": _on_uvloop(_latency)}
