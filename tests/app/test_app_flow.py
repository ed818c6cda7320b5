"""How much of a kind runs at a time, which job goes first, and kinds that are paused (docs/protocol.md, L)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from gauge import Gauge

from aether_bg import Aether, AetherError, InvalidOption, JobConflict, JobStatus, JobType, hookimpl
from aether_bg.model import Fired
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def test_no_more_run_than_the_limit(make_app: Callable[..., Aether]) -> None:
    app, renders, others = make_app(), Gauge(), Gauge()

    @app.handler("Render", concurrency=2)
    async def render() -> None:
        await renders()

    @app.handler("Other")
    async def other() -> None:
        await others()

    async with app:
        async with app.unit_of_work():  # all of them are due at once
            for _ in range(12):
                await app.enqueue(render)
                await app.enqueue(other)
        await app.drain()
        assert (renders.done, others.done) == (12, 12)
        assert renders.most == 2


async def test_processes_on_one_file_share_a_limit(path: Path) -> None:
    """As apps of one process, each with a store of its own; with real processes in the crash programme."""
    gauge, counts = Gauge(), [0, 0, 0]
    apps = [Aether(path, scheduler="timer", grace=2) for _ in counts]
    for number, app in enumerate(apps):

        @app.handler("Render", concurrency=2)
        async def render(number: int = number) -> None:
            counts[number] += 1
            await gauge(0.02)

    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app)
        ids = [await apps[0].enqueue("Render") for _ in range(40)]
        for job in ids:
            await apps[0].wait(job, 30)
    assert gauge.most == 2
    assert sum(counts) == 40


async def test_a_freed_slot_is_used_at_once(make_app: Callable[..., Aether]) -> None:
    app, started = make_app(), list[float]()

    @app.handler("Render", concurrency=1)
    async def render() -> None:
        started.append(time.monotonic())

    async with app:
        begun = time.monotonic()
        ids = [await app.enqueue(render) for _ in range(8)]
        for job in ids:
            await app.wait(job, 20)
        assert time.monotonic() - begun < 4, "each waited for the next look"


async def test_a_quick_kind_does_not_wait_for_a_slow_one(make_app: Callable[..., Aether]) -> None:
    app, end, quick_at = make_app(concurrency=4), anyio.Event(), list[float]()

    @app.handler("Slow")
    async def slow() -> None:
        await end.wait()

    @app.handler("Quick")
    async def quick() -> None:
        quick_at.append(time.monotonic())

    async with app:
        for _ in range(24):
            await app.enqueue(slow)
        while (await app.store.stats()).running < 3:
            await anyio.sleep(0.01)
        for _ in range(3):
            job = await app.enqueue(quick)
            assert (await app.wait(job, 5)).status is JobStatus.COMPLETED
        assert (await app.store.stats()).running == 3, "one slot of four is kept for the other kind"
        end.set()


async def test_higher_priority_goes_first(make_app: Callable[..., Aether], clock: FakeClock) -> None:
    app, order = make_app(clock=clock, concurrency=1), list[str]()

    @app.handler("Work")
    async def work(args: str) -> None:
        order.append(args)

    @app.handler("Late", priority=-10)
    async def late(args: str) -> None:
        order.append(args)

    async with app:
        for args, options in (
            ("low", {"priority": -50}), ("plain", {}), ("high", {"priority": 50}), ("highest", {"priority": 100})
        ):  # fmt: skip
            await app.enqueue(work, payload=args, schedule=timedelta(minutes=5), **options)
        await app.enqueue(late, payload="of the handler", schedule=timedelta(minutes=5))
        await app.enqueue(late, payload="its own", schedule=timedelta(minutes=5), priority=60)
        clock.advance(minutes=5)
        await app.drain()
    assert order == ["highest", "its own", "high", "plain", "of the handler", "low"]


async def test_old_work_gains_a_point_each_minute(make_app: Callable[..., Aether], clock: FakeClock) -> None:
    app, order = make_app(clock=clock, concurrency=1), list[str]()

    @app.handler("Work")
    async def work(args: str) -> None:
        order.append(args)

    async with app.client() as jobs:
        await jobs.enqueue("Work", payload="old", priority=-2)
        clock.advance(seconds=125)
        await jobs.enqueue("Work", payload="new", priority=0)
        await jobs.enqueue("Work", payload="urgent", priority=1)
    async with app:
        await app.drain()
    assert order == ["urgent", "old", "new"]


async def test_where_a_priority_comes_from(make_app: Callable[..., Aether], clock: FakeClock) -> None:
    app = make_app(clock=clock)

    @app.handler("Work", priority=7)
    async def work() -> None: ...

    app.declare("Work", "declared", schedule="@daily", priority=3)

    async def priority(name: str) -> int:
        found = await app.store.get_by_job_name(name)
        assert found is not None
        return found.priority

    soon = timedelta(hours=1)
    async with app:
        await app.enqueue(work, "handler's", schedule=soon)
        await app.enqueue("Work", "own", schedule=soon, priority=0)
        async with app.unit_of_work() as uow:
            await app.enqueue("Work", "in a unit", schedule=soon, priority=-4)
            uow.run(lambda tx: tx.enqueue("Work", "inside", schedule=soon, priority=5))
        async with app.client() as jobs:
            await jobs.enqueue(JobType("Elsewhere", dict), "of a client", {}, schedule=soon)
        names = ("declared", "handler's", "own", "in a unit", "inside", "of a client")
        assert [await priority(name) for name in names] == [3, 7, 0, -4, 5, 0]
        same = await app.enqueue(work, "own", schedule=soon, priority=0)
        with pytest.raises(JobConflict, match="priority"):
            await app.enqueue(work, "own", schedule=soon, priority=1)
        assert await app.enqueue(work, "own", schedule=soon, priority=1, if_exists="keep") == same
        assert await app.enqueue(work, "own", schedule=soon, priority=1, if_exists="replace") == same
        assert await priority("own") == 1
        await app.update("own", "@daily")
        assert await priority("own") == 1
        assert "Its priority is 1." in await app.explain("own")


@pytest.mark.parametrize("value", [101, -101, 1.0, True, "5", 10**30])
async def test_what_is_no_priority(make_app: Callable[..., Aether], value: Any) -> None:
    app = make_app()
    with pytest.raises(InvalidOption, match="priority"):
        app.handler("Work", priority=value)

    @app.handler("Work")
    async def work() -> None: ...

    with pytest.raises(InvalidOption, match="priority"):
        app.declare("Work", "work", priority=value)
    async with app:
        with pytest.raises(InvalidOption, match="priority"):
            await app.enqueue(work, priority=value)
        with pytest.raises(InvalidOption, match="priority"):
            await app.enqueue_many([{"handler": "Work", "priority": value}])


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", 2**70])
async def test_what_is_no_limit(make_app: Callable[..., Aether], value: Any) -> None:
    with pytest.raises(InvalidOption, match="concurrency"):
        make_app().handler("Work", concurrency=value)


async def test_a_paused_handler_waits_everywhere(path: Path, clock: FakeClock) -> None:
    ran = list[str]()
    apps = [Aether(path, scheduler="timer", grace=2, clock=clock) for _ in range(2)]
    for app in apps:

        @app.handler("Render", retries=1)
        async def render(args: str) -> None:
            ran.append(args)

        @app.handler("Other")
        async def other() -> None:
            ran.append("other")

    one, two = apps
    async with one, two:
        await one.pause(handler="Render")
        await two.pause(handler=JobType("Render", str))  # twice is as once
        job = await one.enqueue("Render", "waits", "a")
        await two.enqueue("Other")
        await two.drain()
        await one.drain()
        assert ran == ["other"]
        assert "The handler 'Render' is paused" in await two.explain(job)
        stats = await two.store.stats()
        assert (stats.paused_handlers, stats.due) == (("Render",), 0)
        health = await one.health()
        assert (health["ok"], health["stats"]["paused_handlers"]) == (True, ["Render"])
        found = await one.store.get(job)
        assert found is not None
        assert found.handler_paused
        assert not found.paused
        await one.enqueue("Render", "triggered", "b")
        await one.trigger("triggered")
        await one.wait("triggered", 10)
        assert ran == ["other", "b"]
        clock.advance(hours=1)
        await two.resume(handler="Render")
        await one.wait(job, 10)
        assert ran == ["other", "b", "a"]
        await two.resume(handler="Render")
        assert (await one.store.stats()).paused_handlers == ()


async def test_a_pause_survives_a_restart(make_app: Callable[..., Aether]) -> None:
    app, ran = make_app(), list[int]()

    @app.handler("Render", schedule="@every 1s")
    async def render() -> None:
        ran.append(1)

    async with app:
        await app.pause(handler=render)
        before = len(ran)
    async with app:
        await app.drain()
        await anyio.sleep(1.2)
        assert len(ran) == before
        await app.resume(handler=render)
        with anyio.fail_after(10):
            while len(ran) == before:
                await anyio.sleep(0.02)


async def test_pause_takes_a_job_or_a_handler(app: Aether) -> None:
    @app.handler("Work")
    async def work() -> None: ...

    async with app:
        for verb in (app.pause, app.resume):
            with pytest.raises(InvalidOption, match="one of the two"):
                await verb()
            with pytest.raises(InvalidOption, match="one of the two"):
                await verb("a job", handler="Work")
        async with app.unit_of_work():
            with pytest.raises(AetherError, match="unit of work"):
                await app.pause(handler="Work")


class Push:
    """A push scheduler that the test fires."""

    kernel: Kernel

    def __init__(self) -> None:
        self.armed = dict[Any, Any]()

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.kernel = kernel
        await anyio.sleep_forever()

    @hookimpl
    async def schedule_arm(self, job: Any) -> bool:
        if job.waiting:
            self.armed[job.id] = job
        else:
            self.armed.pop(job.id, None)
        return True

    async def fire(self, job: Any) -> Fired:
        return await self.kernel.fire(self.kernel.store_id, job.id, job.seq, job.occurrence)


async def test_a_push_scheduler_gets_back_what_a_pause_consumed(make_app: Callable[..., Aether]) -> None:
    push, ran = Push(), list[str]()
    app = make_app(scheduler=push)

    @app.handler("Render")
    async def render(args: str) -> None:
        ran.append(args)

    async with app:
        job = await app.enqueue(render, payload="a", schedule=timedelta(seconds=0.5))
        with anyio.fail_after(10):
            while job not in push.armed or (row := await app.store.get(job)) is None or row.armed_seq != row.seq:
                await anyio.sleep(0.01)
        trigger = push.armed[job]
        await app.pause(handler=render)
        held = await app.enqueue(render, payload="b")
        await anyio.sleep(0.5)
        assert await push.fire(trigger) is Fired.CONSUMED
        push.armed.pop(job, None)  # a late look of the kernel may have done so
        assert held not in push.armed
        await app.resume(handler=render)
        with anyio.fail_after(10):
            while not {job, held} <= push.armed.keys():
                await anyio.sleep(0.01)
        for each in (job, held):
            assert await push.fire(push.armed.pop(each)) is Fired.CLAIMED
        await app.drain()
    assert sorted(ran) == ["a", "b"]


async def test_a_trigger_of_a_full_handler_is_answered_with_retry(make_app: Callable[..., Aether]) -> None:
    push, end = Push(), anyio.Event()
    app = make_app(scheduler=push)

    @app.handler("Render", concurrency=1)
    async def render() -> None:
        await end.wait()

    async with app:
        rows = [await app.store.get(await app.enqueue(render)) for _ in range(2)]
        assert await push.fire(rows[0]) is Fired.CLAIMED
        assert await push.fire(rows[1]) is Fired.RETRY
        assert "1 of 1 run" in await app.explain(rows[1].id)  # type: ignore[union-attr]
        end.set()
        await app.wait(rows[0].id, 10)  # type: ignore[union-attr]
        assert await push.fire(rows[1]) is Fired.CLAIMED


async def test_the_blocking_verbs(make_app: Callable[..., Aether]) -> None:
    app = make_app()

    @app.handler("Work")
    async def work() -> None: ...

    def script() -> None:
        with app.blocking() as jobs:
            jobs.pause(handler=work)
            job = jobs.enqueue(work, priority=9)
            jobs.drain()
            found = jobs.store.get(job)
            assert found is not None
            assert (found.status, found.priority, found.handler_paused) == (JobStatus.SCHEDULED, 9, True)
            jobs.resume(handler="Work")
            assert jobs.wait(job, 10).status is JobStatus.COMPLETED

    await anyio.to_thread.run_sync(script)
