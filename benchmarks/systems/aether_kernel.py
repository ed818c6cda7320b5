"""The kernel's own time per job: a drain on a store that costs nothing."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
from no_store import NoStore, claimed

from aether_bg import Aether
from systems.timing import Figures


async def _drain(size: int) -> float:
    app, finished, left = Aether(NoStore(claimed(size)), scheduler="timer"), anyio.Event(), size

    @app.handler("Noop")
    async def noop() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            finished.set()

    async with app:
        began = time.perf_counter()
        await finished.wait()
        return time.perf_counter() - began


def kernel(size: int, folder: Path) -> Figures:
    """µs per job, the best of three."""
    return {"us": min(anyio.run(_drain, size) for _ in range(3)) / size * 1e6}
