"""Jobs through a real Dapr sidecar and scheduler: lateness, enqueue to handler, drain, recovery.

    python benchmarks/through_dapr.py [lateness] [immediate] [drain] [recovery]

Starts its own pair on free loopback ports (`dapr init --slim` puts the binaries in place).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles

from aether_bg import Aether, DaprScheduler
from aether_bg.testing.sidecar import DaprRuntime


class Bench:
    """One app on one pair. `seen`: which job ran when, by the monotonic clock and by the wall clock."""

    def __init__(self, dapr: DaprRuntime, path: Path, concurrency: int = 100) -> None:
        self.dapr = dapr
        self.seen: dict[int, tuple[float, datetime]] = {}
        self.ran = asyncio.Event()
        endpoint, port = f"127.0.0.1:{dapr.sidecar.grpc_port}", dapr.sidecar.app_port
        scheduler = DaprScheduler(endpoint=endpoint, app_port=port)
        self.app = Aether(path, scheduler=scheduler, concurrency=concurrency)

        @self.app.handler("Work")
        async def work(number: int) -> None:
            self.seen.setdefault(number, (time.perf_counter(), datetime.now(UTC)))
            self.ran.set()

    async def until(self, count: int, timeout: float = 120) -> None:
        async with asyncio.timeout(timeout):
            while len(self.seen) < count:
                await asyncio.sleep(0.005)


def told(name: str, seconds: list[float]) -> None:
    cuts = quantiles(seconds, n=100)
    print(f"{name}: p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, max {max(seconds) * 1000:.1f} ms")


async def lateness(bench: Bench) -> None:
    """500 one-shots, 100 a second; how long after its instant does each handler begin?"""
    begin = datetime.now(UTC) + timedelta(seconds=5)
    due = {n: begin + timedelta(milliseconds=10 * n) for n in range(500)}
    await asyncio.gather(*(bench.app.enqueue("Work", payload=n, schedule=when) for n, when in due.items()))
    await bench.until(500)
    told("lateness of 500 one-shots", [(bench.seen[n][1] - due[n]).total_seconds() for n in due])


async def immediate(bench: Bench) -> None:
    """One after the other: from the call of enqueue, and from its return, to the handler."""
    called, returned = [], []
    for n in range(200):
        before = time.perf_counter()
        await bench.app.enqueue("Work", payload=n)
        after = time.perf_counter()
        async with asyncio.timeout(30):
            await bench.ran.wait()
        bench.ran.clear()
        called.append(bench.seen[n][0] - before)
        returned.append(bench.seen[n][0] - after)
        await asyncio.sleep(0.01)
    told("enqueue called -> handler", called)
    told("enqueue returned -> handler", returned)


async def drain(bench: Bench) -> None:
    """2,000 jobs at once, through the sidecar."""
    before = time.perf_counter()
    await asyncio.gather(*(bench.app.enqueue("Work", payload=n) for n in range(2000)))
    stored = time.perf_counter()
    await bench.until(2000)
    took = time.perf_counter() - before
    print(f"2,000 jobs: enqueued in {stored - before:.2f} s, all run after {took:.2f} s ({2000 / took:.0f}/s)")


async def recovery(bench: Bench) -> None:
    """The scheduler is killed for a second, with ten jobs due meanwhile and ten more enqueued."""
    for n in range(10):
        await bench.app.enqueue("Work", payload=n, schedule=timedelta(seconds=2))
    await asyncio.sleep(1)
    bench.dapr.scheduler.kill()
    for n in range(10, 20):
        await bench.app.enqueue("Work", payload=n)
    await asyncio.sleep(1)
    await asyncio.to_thread(bench.dapr.scheduler.start)
    back = time.perf_counter()
    await bench.until(20)
    print(f"scheduler killed, back after 1 s: all 20 jobs run {max(bench.seen.values())[0] - back:.1f} s later")


ALL: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "lateness": lateness, "immediate": immediate, "drain": drain, "recovery": recovery,
}  # fmt: skip


async def main(names: list[str]) -> None:
    for name in names or list(ALL):
        with tempfile.TemporaryDirectory() as folder:
            async with DaprRuntime() as dapr:
                bench = Bench(dapr, Path(folder) / "jobs.db")
                async with bench.app:
                    await asyncio.to_thread(dapr.sidecar.wait_healthy)
                    await ALL[name](bench)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
