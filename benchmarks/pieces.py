"""What the pieces of a job's way cost alone, in seconds: fsync, a thread hop, a task, a hook call."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pluggy

from aether_bg.bridge import Bridge
from aether_bg.hookspecs import hookimpl, hookspec
from aether_bg.model import Write

BATCH = 100


def fsync(folder: Path) -> float:
    """Seconds of one fdatasync after 4 KiB, the median of 200."""
    spent = []
    with open(folder / "sync", "wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            spent.append(time.perf_counter() - began)
    return sorted(spent)[100]


async def hop() -> float:
    """Seconds from the loop to an idle thread and back, as a write does it."""
    bridge, waiting = Bridge(), queue.SimpleQueue[Callable[[], object] | None]()

    def serve() -> None:
        while (answer := waiting.get()) is not None:
            bridge.post(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    began = time.perf_counter()
    for _ in range(1000):
        event = anyio.Event()
        waiting.put(event.set)
        await event.wait()
    took = time.perf_counter() - began
    waiting.put(None)
    return took / 1000


async def task() -> float:
    """Seconds per task that does nothing."""

    async def nothing() -> None: ...

    loop, count = asyncio.get_running_loop(), 20_000
    began = time.perf_counter()
    for _ in range(count // BATCH):
        tasks = [loop.create_task(nothing()) for _ in range(BATCH)]
        while not tasks[-1].done():
            await asyncio.sleep(0)
    return (time.perf_counter() - began) / count


def hook() -> float:
    """Seconds per hook call."""

    class Spec:
        @hookspec(firstresult=True)
        def store_transact(self, writes: Sequence[Write]) -> object:
            raise NotImplementedError

    class Plugin:
        @hookimpl
        def store_transact(self, writes: Sequence[Write]) -> object:
            return 1

    manager = pluggy.PluginManager("aether_bg")
    manager.add_hookspecs(Spec)
    manager.register(Plugin())
    call, count = manager.hook.store_transact, 50_000
    began = time.perf_counter()
    for _ in range(count):
        call(writes=())
    return (time.perf_counter() - began) / count
