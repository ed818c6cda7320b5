"""Procrastinate over psycopg's asynchronous pool, with a concurrency of a hundred. It fetches one job at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found, unused-ignore]

from systems.timing import PAUSE, Figures, Measurement, rate_of_tasks, spread

AT_ONCE = 100


@asynccontextmanager
async def _app(url: str) -> AsyncIterator[Any]:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=10, max_size=10))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield app


async def _speed(size: int, url: str) -> Figures:
    async with _app(url) as app:
        ran = 0

        @app.task(name="noop")  # type: ignore[untyped-decorator, unused-ignore]
        async def noop() -> None:
            nonlocal ran
            ran += 1

        one, many = await rate_of_tasks(size, noop.defer_async, tasks=1), await rate_of_tasks(size, noop.defer_async)
        began = time.perf_counter()
        await app.run_worker_async(concurrency=AT_ONCE, wait=False, install_signal_handlers=False)
        return {"enqueue": one, "enqueue_many": max(one, many), "drain": ran / (time.perf_counter() - began)}


async def _latency(size: int, url: str) -> Figures:
    async with _app(url) as app:
        waits: list[float] = []
        began, ran = 0.0, asyncio.Event()

        @app.task(name="noop")  # type: ignore[untyped-decorator, unused-ignore]
        async def note() -> None:
            waits.append(time.perf_counter() - began)
            ran.set()

        worker = asyncio.create_task(app.run_worker_async(concurrency=AT_ONCE, install_signal_handlers=False))
        await asyncio.sleep(1)
        for _ in range(size):
            ran.clear()
            began = time.perf_counter()
            await note.defer_async()
            await asyncio.wait_for(ran.wait(), 10)
            await asyncio.sleep(PAUSE)
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        return spread(waits)


def _on_asyncio(measure: Callable[[int, str], Awaitable[Figures]]) -> Measurement:
    return lambda size, folder, url: asyncio.run(measure(size, url))  # type: ignore[arg-type, unused-ignore]


logging.getLogger("procrastinate").setLevel(logging.ERROR)
FIGURES: dict[str, Measurement] = {"speed": _on_asyncio(_speed), "latency": _on_asyncio(_latency)}
