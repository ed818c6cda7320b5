"""Rows 27 and 29: triggers that come again, handlers longer than their period."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import pytest

from aether_bg import Aether, Backoff, JobContext
from aether_bg.model import Fired
from chaos.harness import World
from chaos.history import History
from chaos.plugins import Grip, Hook, Observer, text
from chaos.worker import asleep


def fails_once(app: Aether, history: History, starts: dict[UUID, list[int]], wait: float) -> None:
    """The handler "fails-once": the first attempt fails, the second comes `wait` seconds later. `starts`: tokens."""

    @app.handler("fails-once", retries=1, backoff=Backoff(first=wait, jitter=0))
    async def handler(args: dict[str, Any], ctx: JobContext) -> None:
        about = {"job": str(ctx.job.id), "token": ctx.token, "occurrence": text(ctx.occurrence)}
        history.write("start", due=text(ctx.job.due_at), **about)
        starts.setdefault(ctx.job.id, []).append(ctx.token)
        if ctx.attempt == 1:
            history.write("end", how="RuntimeError", **about)
            raise RuntimeError("once")
        history.write("end", how="returned", **about)


@pytest.mark.row(29, small=40, full=200)
def test_old_triggers_delivered_again(world: World, count: int) -> None:
    """During a retry's backoff, and after an update there and back: no early and no extra run (C1)."""
    history = History(world.history)
    grip = Grip()
    app = Aether(str(world.db), scheduler=Hook(schedule_run=asleep), plugins=[grip, Observer(history)], concurrency=200)
    starts: dict[UUID, list[int]] = {}
    chance = random.Random(29)

    fails_once(app, history, starts, wait=0.15)

    async def again(job: UUID, seqs: range, seconds: float) -> None:
        """Redeliver old triggers, with old and new occurrences, for so long."""
        until = anyio.current_time() + seconds
        while anyio.current_time() < until:
            for seq in seqs:
                occurrence = datetime.now(UTC) - timedelta(seconds=chance.random())
                assert await grip.kernel.fire(grip.kernel.store_id, job, seq, occurrence) is Fired.CONSUMED
            await anyio.sleep(0.01)

    async def fire(job: UUID) -> Fired:
        row = await app.store.get(job)
        assert row is not None
        assert row.due_at is not None
        return await grip.kernel.fire(grip.kernel.store_id, job, row.seq, row.due_at)

    async def retried(number: int) -> None:
        job = await app.enqueue("fails-once", f"retried-{number}", {})
        history.write("ack", job=str(job), name=f"retried-{number}", handler="fails-once", not_before=0)
        assert await fire(job) is Fired.CLAIMED
        while (row := await app.store.get(job)) is None or row.seq < 2:
            await anyio.sleep(0.002)
        async with anyio.create_task_group() as group:
            group.start_soon(again, job, range(row.seq), 0.2)
            assert await fire(job) is Fired.CLAIMED  # the current one, a little early: it waits
        await app.wait(job, 5)
        await again(job, range(row.seq + 3), 0.02)
        assert starts[job] == [1, 3]

    async def there_and_back(number: int) -> None:
        job = await app.enqueue("fails-once", f"moved-{number}", {}, timedelta(seconds=0.05))
        history.write("ack", job=str(job), name=f"moved-{number}", handler="fails-once", not_before=0)
        await app.update(job, timedelta(hours=1))
        await app.update(job, timedelta(seconds=0.3))
        await again(job, range(2), 0.1)
        assert job not in starts
        assert await fire(job) is Fired.CLAIMED
        while len(starts[job]) < 1:
            await anyio.sleep(0.002)
        while (row := await app.store.get(job)) is None or row.seq < 4:
            await anyio.sleep(0.002)
        await again(job, range(4), 0.05)
        assert await fire(job) is Fired.CLAIMED
        await app.wait(job, 5)
        assert starts[job] == [3, 5]

    async def main() -> None:
        async with app:
            for start in range(0, count, 20):
                async with anyio.create_task_group() as group:
                    for number in range(start, min(start + 20, count)):
                        group.start_soon(retried if number % 2 else there_and_back, number)

    anyio.run(main)
    found = world.check(overlaps=False)
    assert found["completed"] == count


@pytest.mark.parametrize("scheduler", ["timer", "push"])
@pytest.mark.row(27, small=8, full=50)
def test_a_handler_longer_than_its_period(world: World, count: int, scheduler: str) -> None:
    longer_than_the_period(world, count, scheduler)


def longer_than_the_period(
    world: World, count: int, scheduler: str, mutant: str | None = None, *, within: float = 10, **spec: Any
) -> None:
    """With kills in between, the chain never breaks and no two runs overlap (C3)."""
    chance = random.Random(27)
    jobs: list[dict[str, Any]] = [
        {"handler": "tick", "name": f"tick-{n}", "schedule": "@every 100ms", "payload": {"ms": 150 + 50 * n}, **how}
        for n, how in enumerate([{}, {"misfire": "skip"}, {"misfire": "all"}])
    ]
    for job in jobs:
        job["if_exists"] = "keep"

    def runs() -> dict[str, int]:
        return dict(world.sql("SELECT job_id, count(*) FROM aether_runs WHERE outcome = 'completed' GROUP BY job_id"))

    process = world.ready(scheduler=scheduler, mutant=mutant, enqueue=jobs, **spec)
    world.until(lambda: len(world.find("ack")) >= 3)
    for _ in range(count):
        before = runs()
        if chance.random() < 0.7:
            world.until(lambda before=before: len(runs()) == 3 and min(
                done - before.get(job, 0) for job, done in runs().items()
            ) > 0, within, "a run of each job")  # fmt: skip
        time.sleep(chance.random() * 0.2)
        process.end()
        process = world.ready(scheduler=scheduler, mutant=mutant, **spec)
    before = runs()
    enough = 2 * within
    world.until(lambda: min(done - before.get(job, 0) for job, done in runs().items()) >= 3, enough, "three more runs")
    process.end()
    world.settle()
    world.check(overlaps=False, late=300)  # misfire="all" lags behind for good: its runs are longer than the period


@pytest.mark.row(21, small=300, full=5000)
def test_many_triggers_at_once_keep_to_the_slots(world: World, count: int) -> None:
    grip, running, most = Grip(), 0, 0
    app = Aether(str(world.db), scheduler=Hook(schedule_run=asleep), plugins=[grip], concurrency=7)

    @app.handler("counted")
    async def counted() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.002)
        running -= 1

    async def main() -> None:
        async with app:
            async with app.unit_of_work():
                jobs = [await app.enqueue("counted") for _ in range(count)]

            async def deliver(job: UUID) -> None:
                row = await app.store.get(job)
                assert row is not None
                while await grip.kernel.fire(grip.kernel.store_id, job, 0, row.created_at) is Fired.RETRY:
                    await anyio.sleep(0.05)

            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(deliver, job)
            for job in jobs:
                await app.wait(job, 10)

    anyio.run(main)
    assert most == 7
    assert world.sql("SELECT count(*) FROM aether_runs WHERE outcome = 'completed'") == [(count,)]
