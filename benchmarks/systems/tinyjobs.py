"""tinyjobs on SQLite, at `synchronous=NORMAL`: it has no stricter setting, so the last commits can go with the power.

Enqueued and run by coroutines in one loop; the drain takes the better of its default concurrency of 8 and 64. Idle, it
polls every 5 ms at first and every 500 ms in the end; the default is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tinyjobs import TinyJobs  # type: ignore[import-not-found, import-untyped, unused-ignore]

from systems.timing import PAUSE, TOGETHER, Countdown, Figures, Measurement, spread


async def _rate(count: int, work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return count / (time.perf_counter() - began)


async def _one_workers_speed(size: int, path: Path, concurrency: int) -> Figures:
    app = TinyJobs(f"sqlite:///{path}")
    counted = Countdown(2 * size // TOGETHER * TOGETHER)

    async def count_one() -> None:
        counted.one()

    noop = app.task(count_one)

    async def some(count: int) -> None:
        for _ in range(count):
            await noop.aenqueue()

    async def together() -> None:
        await asyncio.gather(*(some(size // TOGETHER) for _ in range(TOGETHER)))

    async with app:
        one = await _rate(size, lambda: some(size))
        many = await _rate(size // TOGETHER * TOGETHER, together)
        count = counted.left = size + size // TOGETHER * TOGETHER
        began = time.perf_counter()
        async with app.serve(worker=True, concurrency=concurrency, scheduler=False):
            while counted.left > 0:
                await asyncio.sleep(0.002)
    return {"enqueue": one, "enqueue_many": max(one, many), "drain": count / (counted.at - began)}


def _speed(size: int, folder: Path) -> Figures:
    tries = [asyncio.run(_one_workers_speed(size, folder / f"{n}.db", n)) for n in (8, 64)]
    return {name: max(found[name] for found in tries) for name in tries[0]}


async def _waits(size: int, path: Path) -> list[float]:
    app = TinyJobs(f"sqlite:///{path}")
    waits: list[float] = []
    ran = asyncio.Event()

    async def note(began: float) -> None:
        waits.append(time.perf_counter() - began)
        ran.set()

    noop = app.task(note)
    async with app.serve(worker=True):
        for _ in range(size):
            ran.clear()
            await noop.aenqueue(time.perf_counter())
            await asyncio.wait_for(ran.wait(), 10)
            await asyncio.sleep(PAUSE)
    return waits


def _latency(size: int, folder: Path) -> Figures:
    return spread(asyncio.run(_waits(size, folder / "jobs.db")))


logging.getLogger("tinyjobs").setLevel(logging.ERROR)
FIGURES: dict[str, Measurement] = {"speed": _speed, "latency": _latency}
