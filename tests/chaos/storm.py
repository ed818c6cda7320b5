"""A process that does everything at once, at random, until it is killed: `python -m chaos.storm STORE FILE SEED`. The
ids of the jobs that are stored go into the file.

With `settle` as its seed it lets everything go on, waits until all jobs have ended, and says so by its exit code.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from aether_bg import Aether, AetherError, Backoff, GiveUp, InvalidTransition, JobContext, JobStatus, NewJob, Snooze

LIMITS = {"alone": 1, "pair": 2, "free": None, "plain": 3}
HANDLERS = list(LIMITS)
SOON = timedelta(milliseconds=30)
RECURRING = ("* * * * * *", "@every PT0.1S")


def build(store: str, chance: random.Random) -> Aether:
    app = Aether(store, scheduler="timer", concurrency=6)
    options: dict[str, Any] = {"retries": 1, "backoff": Backoff(first=0.02, jitter=0), "keep_result": True}

    def fate() -> None:
        number = chance.random()
        if number < 0.1:
            raise ValueError("by chance")
        if number < 0.13:
            raise GiveUp("by chance")
        if number < 0.18:
            raise Snooze(SOON)

    async def work(args: int, ctx: JobContext) -> int:
        parents = await ctx.parents()
        assert ctx.job.after_any or all(parent.status is not JobStatus.CANCELLED for parent in parents)
        await ctx.checkpoint(args)
        ctx.progress(1, 2)
        await asyncio.sleep(chance.random() * 0.03)
        fate()
        if chance.random() < 0.1:
            async with app.unit_of_work():
                await app.enqueue(chance.choice(HANDLERS), payload=args)
        return args

    def plain(args: int, ctx: JobContext) -> int:
        ctx.checkpoint(args)
        time.sleep(chance.random() * 0.02)
        fate()
        return args

    for name, limit in LIMITS.items():
        app.handler(name, concurrency=limit, priority=chance.choice([-5, 0, 5]), **options)(
            plain if name == "plain" else work
        )
    return app


class Storm:
    def __init__(self, app: Aether, acknowledged: Path, chance: random.Random) -> None:
        self.app, self.acknowledged, self.chance = app, acknowledged, chance
        self.ids: list[UUID] = []

    def note(self, ids: Iterable[UUID]) -> None:
        found = list(ids)
        self.ids += found
        with self.acknowledged.open("a") as file:
            file.write("".join(f"{job}\n" for job in found))

    async def enqueue(self) -> None:
        chance, name = self.chance, None
        options: dict[str, Any] = {"priority": chance.choice([None, -100, 0, 100])}
        if self.ids and chance.random() < 0.3:
            options |= {"after": chance.sample(self.ids, min(len(self.ids), 3)), "after_any": chance.random() < 0.5}
        elif chance.random() < 0.2:
            options |= {"schedule": chance.choice(RECURRING), "repeats": chance.choice([1, 3])}
        elif chance.random() < 0.2:
            options["schedule"] = SOON
        if chance.random() < 0.4:
            name = f"name-{chance.randrange(12)}"
            options |= {
                "if_exists": chance.choice(["raise", "keep", "replace"]),
                "unique_for": chance.choice([None, 0]),
            }
        self.note([await self.app.enqueue(chance.choice(HANDLERS), name, chance.randrange(3), **options)])

    async def enqueue_many(self) -> None:
        after = self.ids[-1:] or None
        self.note(await self.app.enqueue_many(NewJob(name, payload=1, after=after) for name in HANDLERS))

    async def act(self) -> None:
        """One verb, on one of its jobs."""
        app, job, handler = self.app, self.chance.choice(self.ids), self.chance.choice(HANDLERS)
        verbs = (
            app.delete, app.retry, app.trigger, app.pause, app.resume, app.resume, app.explain,
            lambda job: app.update(job, SOON), lambda job: app.wait(job, timeout=0.05),
            lambda _: app.pause(handler=handler), lambda _: app.resume(handler=handler),
        )  # fmt: skip
        await self.chance.choice(verbs)(job)

    async def blow(self) -> None:
        while True:
            try:
                if not self.ids or self.chance.random() < 0.4:
                    await self.enqueue()
                elif self.chance.random() < 0.1:
                    await self.enqueue_many()
                else:
                    await self.act()
            except AetherError:  # most combinations are refused
                pass
            await asyncio.sleep(self.chance.random() * 0.01)


async def storm(store: str, acknowledged: Path, seed: str) -> None:
    chance = random.Random(seed)
    app = build(store, chance)
    async with app, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(Storm(app, acknowledged, chance).blow())


async def settle(store: str) -> bool:
    app = build(store, random.Random(0))
    async with app:
        for handler in HANDLERS:
            await app.resume(handler=handler)
        for job in await app.store.get_active():
            if job.paused:
                with suppress(InvalidTransition):  # it was running, and has ended in the meantime
                    await app.resume(job.id)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            await app.drain()
            stats = await app.store.stats()
            if stats.scheduled + stats.running == 0:
                return True
            await asyncio.sleep(0.1)
        for job in (await app.store.get_active())[:5]:
            sys.stdout.write(await app.explain(job.id))
    return False


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    where, file, how = sys.argv[1:]
    if how == "settle":
        sys.exit(0 if asyncio.run(settle(where)) else 1)
    asyncio.run(storm(where, Path(file), how))
