"""Row 22: what can happen between a real Dapr and an app. One run each, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio import to_thread

from aether_bg.plugins.dapr import door
from aether_bg.testing.sidecar import DaprRuntime, dapr_fixture, require_dapr
from chaos.harness import World
from chaos.sidecar import REDELIVER, all_armed, beside, door_of, trigger, until
from chaos.worker import Spec, Worker, work

pytestmark = [pytest.mark.dapr, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def dapr() -> Iterator[DaprRuntime]:
    yield from dapr_fixture()


def member(world: World, **spec: Any) -> Worker:
    """An app of this process on the world's file."""
    return Worker({"db": str(world.db), "history": str(world.history), **spec})


async def each_ran_once(world: World, count: int, timeout: float = 30.0) -> None:
    """That many jobs of the world have run, and Dapr has had the time to deliver them again."""
    await until(lambda: len(world.find("end")) >= count, timeout)
    await anyio.sleep(REDELIVER + 0.2)
    runs = Counter(start["job"] for start in world.find("start"))
    assert set(runs.values()) == {1}
    assert len(runs) == count
    world.check(overlaps=False)


@pytest.mark.row(22, small=1, full=20)
async def test_the_same_trigger_to_two_replicas(
    dapr: DaprRuntime, world: World, count: int, fallback: float | None
) -> None:
    replica = await to_thread.run_sync(dapr.replica)
    one, two = member(world, dapr=beside(dapr.sidecar, fallback)), member(world, dapr=beside(replica, fallback))
    async with one.app, two.app, door_of(dapr.sidecar) as first, door_of(replica) as second:
        store_id = (await one.app.store.stats()).store_id
        for turn in range(count):
            async with anyio.create_task_group() as group:
                for n in range(20):
                    job = await one.app.store.get(UUID(await one.put("quick", f"{turn}-{n}", delay=0.5)))
                    assert job is not None
                    told = trigger(store_id, job, job.seq)
                    for deliver in (first, second, first):  # they wait out the last of the time, then all try
                        group.start_soon(deliver, told)
            await each_ran_once(world, 20 * (turn + 1))


def dies_before_it_answers(spec: Spec) -> None:
    """Its first trigger is claimed and committed; Dapr never gets the answer."""
    consumes = door.Door.consumes

    async def claimed_and_gone(here: door.Door, name: str, body: bytes) -> bool:
        await consumes(here, name, body)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    setattr(door.Door, "consumes", claimed_and_gone)  # noqa: B010
    work(spec)


@pytest.mark.row(22, small=1, full=20)
def test_a_crash_after_the_commit_and_before_the_answer(
    dapr: DaprRuntime, world: World, count: int, fallback: float | None
) -> None:
    for turn in range(count):
        jobs = [{"handler": "hold", "name": f"{turn}"}]
        dying = world.start("chaos.test_dapr:dies_before_it_answers", dapr=beside(dapr.sidecar, fallback), enqueue=jobs)
        assert dying.wait() == -signal.SIGKILL, dying.tail()
        assert world.sql("SELECT status FROM aether_jobs WHERE job_name = ?", f"{turn}") == [(1,)]
        again = world.ready(dapr=beside(dapr.sidecar, fallback))
        world.until(lambda: not world.sql("SELECT 1 FROM aether_jobs WHERE status < 2"), 30, "the end of the job")
        again.end()
        runs = "SELECT outcome FROM aether_runs JOIN aether_jobs j ON j.id = job_id WHERE job_name = ? ORDER BY token"
        assert world.sql(runs, f"{turn}") == [("crashed",), ("completed",)]
    world.check(overlaps=False)


@pytest.mark.row(22, small=1, full=20)
async def test_the_app_is_away(dapr: DaprRuntime, world: World, count: int, full: bool, fallback: float | None) -> None:
    for turn in range(count):
        worker = member(world, dapr=beside(dapr.sidecar, fallback))
        async with worker.app:
            for n in range(10):
                await worker.put("quick", f"{turn}-{n}", delay=1.0)
            await all_armed(worker.app)
        await anyio.sleep(10 if full else 1.5)
        async with member(world, dapr=beside(dapr.sidecar, fallback)).app:
            await each_ran_once(world, 10 * (turn + 1))


@pytest.mark.row(22, small=1, full=20)
async def test_no_sidecar_at_the_start(worlds: Callable[[str], World], count: int, fallback: float | None) -> None:
    require_dapr()
    for turn in range(count):
        world = await to_thread.run_sync(worlds(f"turn-{turn}").create)
        async with DaprRuntime(start_sidecar=False) as dapr:
            worker = member(world, dapr={**beside(dapr.sidecar, fallback), "wait": 0.2})
            async with worker.app as app:
                for n in range(10):
                    await worker.put("quick", f"{n}")
                assert not (await app.health())["ok"]
                await anyio.sleep(1)
                assert fallback or not world.find("start")
                await to_thread.run_sync(dapr.sidecar.start)
                await each_ran_once(world, 10, 60)
                with anyio.fail_after(30):
                    while not (await app.health())["ok"]:
                        await anyio.sleep(0.1)


@pytest.mark.row(22, small=1, full=20)
async def test_the_scheduler_is_killed_and_restarted(
    dapr: DaprRuntime, world: World, count: int, full: bool, fallback: float | None
) -> None:
    worker = member(world, dapr={**beside(dapr.sidecar, fallback), "deadline": 1.5})
    async with worker.app as app:
        for turn in range(count):
            for n in range(10):
                await worker.put("quick", f"{turn}-{n}", delay=1.5)
            await all_armed(app)
            end = dapr.scheduler.kill if full else dapr.scheduler.stop  # after a kill it waits out a lease of 20 s
            await to_thread.run_sync(end)
            for n in range(10, 20):
                await worker.put("quick", f"{turn}-{n}")
            await anyio.sleep(1)
            await to_thread.run_sync(dapr.scheduler.start)
            await each_ran_once(world, 20 * (turn + 1), 90)


@pytest.mark.row(22, small=1, full=20)
async def test_the_data_of_the_scheduler_are_wiped(
    dapr: DaprRuntime, world: World, count: int, fallback: float | None
) -> None:
    worker = member(world, dapr={**beside(dapr.sidecar, fallback), "reconcile": 1, "deadline": 1.5})
    async with worker.app as app:
        for turn in range(count):
            for n in range(10):
                await worker.put("quick", f"{turn}-{n}", delay=4.0)
            await all_armed(app)
            await to_thread.run_sync(dapr.scheduler.wipe)
            await to_thread.run_sync(dapr.scheduler.start)
            await each_ran_once(world, 10 * (turn + 1), 60)


class HourAgo:
    """So that the start comes half a minute after a tick."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1, seconds=30)

    def monotonic(self) -> float:
        return anyio.current_time()


def backlog_ran(world: World) -> bool:
    runs = Counter(start["name"] for start in world.find("start"))
    return len(runs) >= 62 and runs["all"] >= 60


@pytest.mark.row(22, small=1, full=20)
async def test_an_hour_of_backlog(
    dapr: DaprRuntime, worlds: Callable[[str], World], count: int, fallback: float | None
) -> None:
    for turn in range(count):
        world = await to_thread.run_sync(worlds(f"turn-{turn}").create)
        then = member(world, options={"clock": HourAgo()})
        async with then.app.client() as client:
            for n in range(60):
                await then.put("quick", f"{n}", via=client, schedule=timedelta(minutes=n + 0.5))
            for misfire in ("once", "skip", "all"):
                await then.put("tick", misfire, via=client, schedule="@every 1m", misfire=misfire)

        async with member(world, dapr=beside(dapr.sidecar, fallback)).app as app:
            await until(partial(backlog_ran, world))
            await anyio.sleep(REDELIVER + 0.2)
            runs = Counter(start["name"] for start in world.find("start"))
            assert all(runs[f"{n}"] == 1 for n in range(60))
            assert [runs[misfire] for misfire in ("once", "skip", "all")] == [1, 0, 60]
            assert (await app.store.stats()).completed == 60
        world.check(overlaps=False)
