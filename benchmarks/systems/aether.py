"""aether_bg at its defaults, with the embedded timer: no-op coroutines as handlers, everything in one process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

from aether_bg import Aether
from systems.aether_backlog import backlog
from systems.aether_kernel import kernel
from systems.aether_more import FIGURES as MORE
from systems.aether_recovery import recovery
from systems.timing import PAUSE, TOGETHER, Countdown, Figures, Measurement, spread


def on_asyncio(measure: Callable[..., Awaitable[Figures]]) -> Measurement:
    return lambda *given: anyio.run(measure, *given)


async def _timed(count: int, work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return count / (time.perf_counter() - began)


async def _many(jobs: Any, count: int, **arguments: Any) -> None:
    """64 tasks that enqueue one after the other."""

    async def some() -> None:
        for _ in range(count // TOGETHER):
            await jobs.enqueue("Noop", **arguments)

    async with anyio.create_task_group() as group:
        for _ in range(TOGETHER):
            group.start_soon(some)


async def _speed(size: int, folder: Path, url: str | None = None) -> Figures:
    """`size` one by one and 4 × `size` by 64 tasks in a running app, then as many that are due at its start."""
    app, many = Aether(url or folder / "jobs.db"), size * 4 // TOGETHER * TOGETHER
    counted = Countdown(many)

    @app.handler("Noop")
    async def noop() -> None:
        counted.one()

    async def one() -> None:
        for _ in range(size):
            await app.enqueue("Noop", schedule=later)

    later = timedelta(days=1)
    async with app:
        found = {"enqueue": await _timed(size, one)}
        found["enqueue_many"] = await _timed(many, lambda: _many(app, many, schedule=later))
    async with app.client() as jobs:
        await _many(jobs, many)
    began = time.perf_counter()
    async with app:
        await app.drain()  # until the last outcome is committed
        found["drain"] = many / (time.perf_counter() - began)
    assert counted.left == 0
    return found


async def _latency(size: int, folder: Path, url: str | None = None) -> Figures:
    app = Aether(url or folder / "jobs.db")
    waits: list[float] = []

    @app.handler("Noop")
    async def noop(began: float) -> None:
        waits.append(time.perf_counter() - began)

    async with app:
        for number in range(1, size + 1):
            await app.enqueue("Noop", payload=time.perf_counter())
            while len(waits) < number:
                await anyio.sleep(0.001)
            await anyio.sleep(PAUSE)
    return spread(waits)


async def _lateness(size: int, folder: Path, url: str | None = None) -> Figures:
    """`size` jobs over ten seconds; from the due instant to the handler."""
    app = Aether(url or folder / "jobs.db")
    late: list[float] = []

    @app.handler("Noop")
    async def noop(due: float) -> None:
        late.append(time.time() - due)

    async with app:
        first = datetime.now(UTC) + timedelta(seconds=1)
        for number in range(size):
            due = first + timedelta(seconds=10 * number / size)
            await app.enqueue("Noop", payload=due.timestamp(), schedule=due)
        while len(late) < size:
            await anyio.sleep(0.1)
    return spread(late)


async def _idle(size: int, folder: Path, url: str | None = None) -> Figures:
    """`size` seconds with a thousand jobs waiting. `cpu`: per cent of one core; `growth`: bytes of RSS."""
    app = Aether(url or folder / "jobs.db")

    @app.handler("Noop")
    async def noop() -> None: ...

    async with app:
        await _many(app, 1000, schedule=timedelta(days=1))
        await anyio.sleep(2)
        cpu, wall, before = time.process_time(), time.perf_counter(), rss()
        await anyio.sleep(size)
        used = (time.process_time() - cpu) / (time.perf_counter() - wall)
        return {"cpu": used * 100, "growth": rss() - before}


def _import(size: int, folder: Path) -> Figures:
    """The medians of `size` fresh interpreters, their own start not counted. `others`: what it is made with, alone."""

    def took(what: str) -> float:
        code = f"import time; t = time.perf_counter(); import {what}; print(time.perf_counter() - t)"
        return float(subprocess.check_output([sys.executable, "-c", code], text=True)) * 1000

    both = [(took("aether_bg"), took("asyncio, attrs, anyio.from_thread, pluggy")) for _ in range(size)]
    ours, others = (sorted(column)[size // 2] for column in zip(*both, strict=True))
    return {"ms": ours, "others": others}


def rss() -> int:
    """Resident bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


FIGURES: dict[str, Measurement] = {
    "speed": on_asyncio(_speed), "latency": on_asyncio(_latency), "lateness": on_asyncio(_lateness),
    "idle": on_asyncio(_idle), "import": _import, "kernel": kernel, "backlog": backlog, "recovery": recovery, **MORE,
}  # fmt: skip
