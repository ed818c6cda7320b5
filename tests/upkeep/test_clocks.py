"""The wall clock is set back, while the app runs and between two starts: nothing is silent, nothing runs twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from aether_bg import Aether, Backoff, JobContext, JobInfo, JobStatus, RunOutcome
from aether_bg._kernel.timings import Timings
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

DAY = timedelta(days=1)
NOON = datetime(2030, 6, 5, 12, 0, 10, tzinfo=UTC)
STEPS = {
    "2s": timedelta(seconds=2), "1min": timedelta(minutes=1), "1h": timedelta(hours=1), "4h": timedelta(hours=4),
    "40y": timedelta(days=14610),
}  # fmt: skip
HOW = pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
BACK = pytest.mark.parametrize("back", STEPS.values(), ids=STEPS)


class World:
    """An app by a fake clock, which may be stopped and started."""

    def __init__(self, make: Callable[..., Aether], clock: FakeClock, step: Any) -> None:
        self._make, self.clock, self._step = make, clock, step
        self.ran: list[tuple[str, datetime, datetime]] = []
        self.app: Aether
        clock.set(NOON)

    @asynccontextmanager
    async def running(self) -> Any:
        self.app = self._make(clock=self.clock, scheduler=self._step)

        @self.app.handler("work")
        async def work(ctx: JobContext) -> None:
            self.ran.append((ctx.job.job_name, ctx.occurrence, self.clock.now()))

        @self.app.handler("fails", retries=3, backoff=Backoff(first=60, factor=1, max=60, jitter=0))
        async def fails(ctx: JobContext) -> None:
            self.ran.append((ctx.job.job_name, ctx.occurrence, self.clock.now()))
            raise ValueError

        @self.app.handler("sets back")
        async def sets_back() -> None:
            if self.clock.now() > NOON:
                self.clock.set(NOON - timedelta(days=9))

        async with self.app:
            yield self.app

    async def until(self, holds: Callable[[], Any]) -> None:
        with anyio.fail_after(20):
            while not await holds():
                await anyio.sleep(0.01)

    async def row(self, name: str) -> JobInfo:
        job = await self.app.store.get_by_job_name(name)
        assert job is not None
        return job

    async def due_within(self, name: str, length: timedelta) -> None:
        async def soon() -> bool:
            job = await self.row(name)
            return job.due_at is not None and job.due_at <= self.clock.now() + length + timedelta(seconds=1)

        await self.until(soon)

    async def tick(self, **length: float) -> int:
        """Let time pass and run what is due; how many ran."""
        before = len(self.ran)
        self.clock.advance(**length)
        await self.app.drain()
        return len(self.ran) - before

    def once_each(self) -> None:
        seen = [(name, occurrence) for name, occurrence, _ in self.ran if name != "retried"]
        assert len(seen) == len(set(seen)), "an occurrence ran twice"


@pytest.fixture
def world(make_app: Callable[..., Aether], clock: FakeClock, step: Any) -> World:
    return World(partial(make_app, timings=Timings(clocks=0.01)), clock, step)


@asynccontextmanager
async def after(world: World, restarted: bool, back: timedelta, prepare: Callable[[Aether], Any]) -> Any:
    """The app once the clock has been set back, while it ran or while it was down."""
    async with world.running() as app:
        await prepare(app)
        if not restarted:
            world.clock.set(world.clock.now() - back)
            yield app
    if restarted:
        world.clock.set(world.clock.now() - back)
        async with world.running() as app:
            yield app


@HOW
@BACK
@pytest.mark.parametrize("schedule", ["@every 1m", "*/20 * * * * *", "CRON_TZ=Asia/Kathmandu * * * * *"])
async def test_a_frequency_continues(world: World, back: timedelta, restarted: bool, schedule: str) -> None:
    async def prepare(app: Aether) -> None:
        await app.enqueue("work", "often", schedule=schedule)
        for _ in range(3):
            assert await world.tick(minutes=1)

    async with after(world, restarted, back, prepare) as app:
        await world.due_within("often", timedelta(minutes=1))
        for _ in range(5):
            assert await world.tick(minutes=1, milliseconds=50), "it runs in each minute of the new time"
        world.once_each()
        runs = await app.store.history((await world.row("often")).id)
        assert {run.outcome for run in runs} <= {RunOutcome.COMPLETED, RunOutcome.COALESCED}


@HOW
@pytest.mark.parametrize("name", ["1min", "1h", "4h", "40y"])
async def test_a_fixed_time_repeats_only_after_more_than_three_hours(world: World, name: str, restarted: bool) -> None:
    back = STEPS[name]

    async def prepare(app: Aether) -> None:
        await app.enqueue("work", "noon", schedule="30 12 * * *")
        assert await world.tick(minutes=20, seconds=20) == 1 - 1
        assert await world.tick(minutes=10) == 1

    async with after(world, restarted, back, prepare):
        repeated = back > timedelta(hours=3)
        if repeated:
            await world.due_within("noon", timedelta(days=1))
        before = len(world.ran)
        for _ in range(24):
            await world.tick(hours=1)
        assert len(world.ran) - before == (1 if repeated else 0)
        assert await world.tick(hours=24) == 1
        world.once_each()


@HOW
@pytest.mark.parametrize(("back", "again"), [(2, 0), (4, 2), (2.9, 0), (5, 2)])
async def test_the_step_counts_and_not_when_it_ran(world: World, back: float, again: int, restarted: bool) -> None:
    """It ran at 13:30 and the clock is set back at 15:30: how long ago it ran does not matter."""

    async def prepare(app: Aether) -> None:
        await app.enqueue("work", "twice a day", schedule="30 12,13 * * *")
        await app.enqueue("work", "often", schedule="* * * * *")
        for _ in range(7):
            await world.tick(minutes=30)
        assert len(await completed(app)) == 2

    async def completed(app: Aether) -> list[Any]:
        return list(await app.store.history((await world.row("twice a day")).id))

    async with after(world, restarted, timedelta(hours=back), prepare) as app:
        await world.due_within("often", timedelta(minutes=1))
        next_one = NOON.replace(minute=30) + (DAY if not again else timedelta(0))
        await world.due_within("twice a day", next_one - world.clock.now())
        for _ in range(2 * 12):
            await world.tick(minutes=30)
        assert len(await completed(app)) == 2 + again
        await world.tick(hours=24)
        assert len(await completed(app)) in (3 + again, 4 + again), "as every day"
        world.once_each()


async def test_small_steps_add_up_to_no_repetition(world: World) -> None:
    async with world.running() as app:
        await app.enqueue("work", "noon", schedule="30 12 * * *")
        await app.enqueue("work", "often", schedule="* * * * *")
        await world.tick(minutes=40)
        for _ in range(2):
            world.clock.set(world.clock.now() - timedelta(hours=1))
            await world.due_within("often", timedelta(minutes=1))
            await world.tick(minutes=5)
        for _ in range(24):
            await world.tick(minutes=10)
        assert len([name for name, _, _ in world.ran if name == "noon"]) == 1


async def test_a_run_by_hand_between_two_that_come_again(world: World) -> None:
    async with world.running() as app:
        await app.enqueue("work", "twice a day", schedule="30 12,13 * * *")
        await app.enqueue("work", "often", schedule="* * * * *")
        for _ in range(10):
            await world.tick(minutes=10)
        world.clock.set(world.clock.now() - timedelta(hours=3))
        await world.due_within("often", timedelta(minutes=1))
        for _ in range(24):
            await world.tick(minutes=10)
            await app.trigger("twice a day")
            await world.tick()
        regular = [at for name, at, _ in world.ran if name == "twice a day" and at.second == 0]
        assert len(regular) == 4
        world.once_each()


@HOW
async def test_a_job_that_has_never_run(world: World, restarted: bool) -> None:
    """Its anchor lies in the future then."""

    async def prepare(app: Aether) -> None:
        await app.enqueue("work", "every", schedule="@every 1h")
        await app.enqueue("work", "hourly", schedule="@hourly")
        await app.enqueue("work", "changed", schedule="@daily")
        await world.tick(minutes=2)
        await app.update("changed", "@hourly")

    async with after(world, restarted, timedelta(days=20), prepare):
        for name in ("every", "hourly", "changed"):
            await world.due_within(name, timedelta(hours=1))
        await world.tick()
        assert world.ran == [], "nothing has come yet"
        assert await world.tick(minutes=61) == 3
        assert await world.tick(hours=1) == 3
        world.once_each()


@HOW
async def test_retries_and_what_was_due_go_on_and_one_shots_keep_their_instant(world: World, restarted: bool) -> None:
    at = NOON + timedelta(hours=1)

    async def prepare(app: Aether) -> None:
        await app.enqueue("work", "at", schedule=at)
        await app.enqueue("fails", "retried")
        await world.tick()
        await app.enqueue("work", "due at once")
        await app.enqueue("work", "recurs", schedule="@every 1s")
        world.clock.advance(seconds=1)
        await app.trigger("recurs")

    async with after(world, restarted, timedelta(days=1), prepare):
        await world.due_within("retried", timedelta(minutes=1))
        await world.due_within("due at once", timedelta(0))
        await world.due_within("recurs", timedelta(seconds=1))
        assert (await world.row("at")).due_at == at
        await world.tick()
        await world.tick(minutes=1)
        assert {name for name, _, _ in world.ran} == {"retried", "due at once", "recurs"}
        assert len([name for name, _, _ in world.ran if name == "retried"]) == 2
        assert await world.tick(days=2) >= 1
        assert (await world.row("at")).status is JobStatus.COMPLETED


async def test_a_paused_job_continues_when_resumed(world: World) -> None:
    async with world.running() as app:
        await app.enqueue("work", "often", schedule="@hourly")
        await world.tick(hours=3)
        await app.pause("often")
        world.clock.set(NOON - timedelta(days=2))
        await world.due_within("often", timedelta(hours=1))
        await app.resume("often")
        assert await world.tick(hours=1) == 1


async def test_an_attempt_during_which_the_clock_is_set_back(world: World) -> None:
    async with world.running() as app:
        await app.enqueue("sets back", "often", schedule="* * * * *")
        await world.tick(minutes=1)
        job = await world.row("often")
        assert job.due_at is not None
        assert job.due_at - world.clock.now() <= timedelta(minutes=1)


@HOW
async def test_it_is_reported_once(world: World, restarted: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def prepare(app: Aether) -> None:
        await app.enqueue("work", "often", schedule="@hourly")
        await world.tick(hours=1)

    with caplog.at_level(logging.WARNING, "aether_bg"):
        async with after(world, restarted, timedelta(days=1), prepare) as app:
            await world.due_within("often", timedelta(hours=1))
            await anyio.sleep(0.3)
            assert "set back" in (await app.health())["problems"]["clock"]
    assert len([record for record in caplog.records if "set back" in record.getMessage()]) == 1


async def test_a_start_in_the_future_holds(world: World) -> None:
    """`start` is an instant that the user chose: set back before it, the job waits for it."""
    start = NOON + timedelta(hours=2)
    async with world.running() as app:
        await app.enqueue("work", "every", schedule="@every 1h", start=start)
        world.clock.set(NOON - timedelta(days=3))
        await anyio.sleep(0.2)
        assert (await world.row("every")).due_at == start


async def test_two_steps_to_one_instant(world: World) -> None:
    """It waits for an occurrence that comes again already, and goes on waiting for that one."""
    async with world.running() as app:
        await app.enqueue("work", "hourly", schedule="@hourly")
        await world.tick(hours=2)
        for _ in range(2):
            world.clock.set(NOON)
            await world.due_within("hourly", timedelta(hours=1))
            await anyio.sleep(0.1)
            waiting = await world.row("hourly")
            assert waiting.due_at is not None
            world.clock.advance(minutes=1)
            await app.pause("hourly")  # changes the row, by the time before the next step
            await app.resume("hourly")
        row = await world.row("hourly")
        assert row.due_at == waiting.due_at
        assert await world.tick(hours=1) == 1
        world.once_each()
