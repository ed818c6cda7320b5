"""Rules of a store that several processes share: each notices the others' commits at once."""

from __future__ import annotations

import time

import anyio

from aether_bg import Aether, hookimpl
from aether_bg.protocols import Kernel
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect
from aether_bg.testing.contracts.values import a_job, now


class _Sleeper:
    """A scheduler that only sleeps, and counts how often it was woken before its second was over."""

    def __init__(self) -> None:
        self.sleeps = self.woken = 0

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        while True:
            before = time.monotonic()
            await kernel.sleep_until(None)
            self.sleeps += 1
            self.woken += time.monotonic() - before < 0.8


@STORE.rule(
    "store_transact", "a commit of another process wakes the scheduler",
    because="its job would start up to a second late", needs="shared",
)  # fmt: skip
async def others_are_woken(world: StoreWorld) -> None:
    async with world.open() as other, world.plugin() as store:
        sleeper = _Sleeper()
        async with Aether(store, scheduler=sleeper):
            with anyio.move_on_after(5):
                while sleeper.sleeps - sleeper.woken < 2:  # the start is over
                    await anyio.sleep(0.1)
            before = sleeper.woken
            with anyio.move_on_after(world.patience):
                while sleeper.woken == before:
                    await other.add(a_job(handler_name="Work", due_at=now()))
                    await anyio.sleep(0.3)
            expect(sleeper.woken > before, f"in {world.patience:g} s of commits it slept its whole second each time")


@STORE.rule(
    "P12", "an idle scheduler starts what another process adds",
    because="on a store that is sure to wake it looks by itself only every ten seconds", needs="shared",
)  # fmt: skip
async def the_idle_are_woken(world: StoreWorld) -> None:
    async with world.open() as other, world.plugin() as store:
        app, started = Aether(store, scheduler="timer"), list[float]()

        @app.handler("Work")
        async def work() -> None:
            started.append(time.monotonic())

        async with app:
            for number in (1, 2):
                await anyio.sleep(1.5)  # its first looks are over, and it rests
                await other.add(a_job(handler_name="Work", due_at=now()))
                added = time.monotonic()
                with anyio.move_on_after(world.patience):
                    while len(started) < number:
                        await anyio.sleep(0.05)
                late = time.monotonic() - added
                expect(late < world.patience / 2, f"a job that was due at once started {late:.1f} s after its commit")
