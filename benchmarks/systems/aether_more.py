"""Loads other than no-op coroutines: plain handlers, bulk, payloads, failures, recurring jobs, several processes."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

from aether_bg import Aether, Backoff, JobStatus
from aether_bg.model import Runs
from systems.timing import Figures, Measurement, spread

TOGETHER = 1000
"""Jobs of one unit of work, and of one `enqueue_many`."""
PROCESSES = 4


def _app(folder: Path) -> Aether:
    return Aether(folder / "jobs.db", scheduler="timer")


async def _rate(count: int, work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return count / (time.perf_counter() - began)


async def _fill(jobs: Any, count: int, **arguments: Any) -> None:
    for start in range(0, count, TOGETHER):
        some = min(TOGETHER, count - start)
        await jobs.enqueue_many([{"handler": "Noop", **arguments} for _ in range(some)])


async def _drained(app: Aether, count: int, **arguments: Any) -> float:
    async with app.client() as jobs:
        await _fill(jobs, count, **arguments)
    began = time.perf_counter()
    async with app:
        await app.drain()
    return count / (time.perf_counter() - began)


async def plain(size: int, folder: Path) -> Figures:
    """Handlers that are no coroutines run in threads."""
    app = _app(folder)

    @app.handler("Noop")
    def noop() -> None: ...

    return {"drain": await _drained(app, size)}


async def bulk(size: int, folder: Path) -> Figures:
    app, later = _app(folder), timedelta(days=1)

    @app.handler("Noop")
    async def noop() -> None: ...

    async def units() -> None:
        for _ in range(size // TOGETHER):
            async with app.unit_of_work():
                for _ in range(TOGETHER):
                    await app.enqueue("Noop", schedule=later)

    async with app:
        unit = await _rate(size // TOGETHER * TOGETHER, units)
        return {"unit": unit, "enqueue_many": await _rate(size, lambda: _fill(app, size, schedule=later))}


async def payloads(size: int, folder: Path) -> Figures:
    """Jobs a second: enqueued by the thousand, and drained."""
    found: Figures = {}
    for name, length, count in (("1k", 1024, size), ("100k", 100 * 1024, size // 20)):
        app = Aether(folder / f"{name}.db", scheduler="timer")

        @app.handler("Noop")
        async def noop(text: str) -> None: ...

        async with app.client() as jobs:
            began = time.perf_counter()
            await _fill(jobs, count, payload="x" * length)
            found[f"enqueue_{name}"] = count / (time.perf_counter() - began)
        began = time.perf_counter()
        async with app:
            await app.drain()
        found[f"drain_{name}"] = count / (time.perf_counter() - began)
    return found


async def retries(size: int, folder: Path) -> Figures:
    """Jobs a second of which each fails once, and is tried again at once."""
    logging.getLogger("aether_bg").setLevel(logging.CRITICAL)
    app = _app(folder)
    failed: set[object] = set()

    @app.handler("Noop", retries=1, backoff=Backoff(first=0.001, jitter=0))
    async def noop(number: int) -> None:
        if number not in failed:
            failed.add(number)
            raise ValueError("once")

    async with app.client() as jobs:
        await jobs.enqueue_many([{"handler": "Noop", "payload": number} for number in range(size)])
    began = time.perf_counter()
    async with app:
        while (await app.store.stats()).completed < size:
            await app.drain()
            await anyio.sleep(0.01)
    return {"jobs": size / (time.perf_counter() - began)}


async def recurring(size: int, folder: Path) -> Figures:
    """`size` jobs of each second, for five seconds: occurrences a second, and how late they were."""
    app, late = _app(folder), list[float]()

    @app.handler("Noop")
    async def noop() -> None:
        late.append(time.time() % 1)

    async with app:
        await _fill(app, size, schedule="* * * * * *")
        await anyio.sleep(2)
        late.clear()
        began = time.perf_counter()
        await anyio.sleep(5)
        took = time.perf_counter() - began
    return {"runs": len(late) / took, **spread(late)}


WORKER = """
import sys, anyio
from aether_bg import Aether
app = Aether(sys.argv[1], scheduler="timer")
limit, seconds = int(sys.argv[2]) or None, float(sys.argv[3])
@app.handler("Noop", concurrency=limit)
async def work() -> None:
    if seconds:
        await anyio.sleep(seconds)
async def main() -> None:
    async with app:
        print("up", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main)
"""


async def processes(size: int, folder: Path) -> Figures:
    """Jobs a second of one process, and of four on one file."""
    return {f"drain_{count}": await _by_processes(folder, size, count) for count in (1, PROCESSES)}


async def limits(size: int, folder: Path) -> Figures:
    """Jobs of 5 ms a second, of which one or two may run at a time over four processes."""
    found: Figures = {}
    for limit in (1, 2):
        found[f"limit_{limit}"] = await _by_processes(folder, size, PROCESSES, limit=limit, seconds=0.005)
    return found


async def _by_processes(folder: Path, size: int, count: int, limit: int = 0, seconds: float = 0.0) -> float:
    """Jobs a second, from the instant at which all of them are due, to the last end."""
    path = folder / f"{count}-{limit}.db"
    app = Aether(path, scheduler="timer")
    app.handler("Noop")(lambda: None)
    async with app.client() as jobs:
        command = [sys.executable, "-c", WORKER, str(path), str(limit), str(seconds)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        workers = [subprocess.Popen(command, **pipes) for _ in range(count)]
        for worker in workers:
            await anyio.to_thread.run_sync(worker.stdout.readline)
        due = datetime.now(UTC) + timedelta(seconds=1 + size / 5000)
        await _fill(jobs, size, schedule=due)
        if datetime.now(UTC) > due:
            raise RuntimeError("the jobs were due before all of them were there")
        while await jobs.store.find(status=[JobStatus.SCHEDULED, JobStatus.RUNNING], limit=1):
            await anyio.sleep(0.1)
        for worker in workers:
            worker.communicate(timeout=60)
        (last,) = await jobs.store.runs(Runs(limit=1))
    return size / (last.finished_at - due).total_seconds()


def _on_asyncio(measure: Callable[[int, Path], Awaitable[Figures]]) -> Measurement:
    return lambda size, folder: anyio.run(measure, size, folder)


FIGURES: dict[str, Measurement] = {
    each.__name__: _on_asyncio(each) for each in (plain, bulk, payloads, retries, recurring, processes, limits)
}
