"""Rates and percentiles, for every system alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

Figures = dict[str, float]
Measurement = Callable[..., Figures]
"""Called with a size, an empty folder, and the URL of an empty database where the system needs a server."""

PAUSE = 0.05
"""Seconds between jobs where latency is measured: long enough for those that poll to have slowed down."""
TOGETHER = 64
"""How many enqueue at a time, where many do."""


def rate(count: int, work: Callable[[], object]) -> float:
    """Per second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def rate_of_threads(count: int, one: Callable[[], object], threads: int = TOGETHER) -> float:
    """Per second, `one` called `count` times by each of the threads."""

    def some(_: int) -> None:
        for _ in range(count // threads):
            one()

    with ThreadPoolExecutor(threads) as pool:
        return rate(count // threads * threads, lambda: list(pool.map(some, range(threads))))


async def rate_of_tasks(count: int, one: Callable[[], Awaitable[object]], tasks: int = TOGETHER) -> float:
    """The same for tasks of one loop of asyncio."""

    async def some() -> None:
        for _ in range(count // tasks):
            await one()

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(tasks)))
    return count // tasks * tasks / (time.perf_counter() - began)


def spread(seconds: Sequence[float]) -> Figures:
    """The median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2] * 1000, "p99": ordered[int(len(ordered) * 0.99)] * 1000}


class Countdown:
    """Counts what has run; `wait` until it is all, and says when that was."""

    def __init__(self, count: int) -> None:
        self.left, self.at = count, 0.0
        self._lock = threading.Lock()

    def one(self) -> None:
        with self._lock:
            self.left -= 1
            if self.left <= 0:
                self.at = time.perf_counter()

    def wait(self, within: float = 120.0) -> None:
        """Raises `TimeoutError`."""
        deadline = time.perf_counter() + within
        while self.left > 0:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{self.left} jobs have not run within {within:.0f} s")
            time.sleep(0.002)
