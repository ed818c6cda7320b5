"""The embedded timer: scheduling with nothing else installed. Nothing is armed; due rows are read when they are due."""

from __future__ import annotations

from aether_bg.hookspecs import hookimpl
from aether_bg.protocols import Kernel


class Timer:
    """Never loads the schedule into memory: a million waiting jobs cost what a hundred do."""

    def __repr__(self) -> str:
        return "<Timer>"

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        while True:
            await kernel.sleep_until(await kernel.fire_due())
