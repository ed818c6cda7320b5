"""Counts what runs at a time."""

from __future__ import annotations

import anyio


class Gauge:
    """How many are inside, and the most there have been."""

    def __init__(self) -> None:
        self.now = self.most = self.done = 0

    async def __call__(self, seconds: float = 0.01) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await anyio.sleep(seconds)
        self.now -= 1
        self.done += 1
