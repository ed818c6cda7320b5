"""The rate limiter on real apps: the rate holds, no job is lost, and none is postponed twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest
from rate_limiter import Rate, RateLimiter

from aether_bg import Aether, GiveUp, JobContext, JobStatus, RunOutcome, Snooze
from aether_bg.errors import InvalidOption
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


@pytest.fixture
def begun() -> list[tuple[str, datetime]]:
    """Job name and instant of every handler call."""
    return []


@pytest.fixture
def limited(make_app: Make, clock: FakeClock, step: Any, begun: list[tuple[str, datetime]]) -> Callable[..., Aether]:
    """`limited(*plugins)`: an app on the fake clock with a handler that notes when it runs."""

    def make(*plugins: Any) -> Aether:
        app = make_app(clock=clock, scheduler=step, plugins=list(plugins))

        @app.handler("Call", retries=3)
        async def call(ctx: JobContext) -> None:
            begun.append((ctx.job.job_name, clock.now()))
            if "fails" in ctx.job.metadata and ctx.job.retry_count == 0:
                raise ConnectionError
            if "snoozes" in ctx.job.metadata and ctx.attempt == 1:
                raise Snooze(timedelta(seconds=1))

        return app

    return make


async def drain_for(app: Aether, clock: FakeClock, seconds: float, step: float = 0.5) -> None:
    for _ in range(round(seconds / step)):
        await app.drain()
        clock.advance(seconds=step)
    await app.drain()


async def test_many_at_once_run_at_the_rate_and_each_is_put_off_once(
    limited: Make, clock: FakeClock, begun: list[tuple[str, datetime]]
) -> None:
    app = limited(RateLimiter(Rate(2, per=1, burst=3)))
    start = clock.now()
    async with app:
        jobs = [await app.enqueue("Call", f"call-{n}") for n in range(11)]
        await drain_for(app, clock, 6)
        seconds = [(when - start).total_seconds() for _, when in begun]
        assert seconds == [0, 0, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]  # the burst, then two a second
        at_once = {name for name, when in begun if when == start}
        for job in jobs:
            row = await app.store.get(job)
            assert row is not None
            assert (row.status, row.retry_count) == (JobStatus.COMPLETED, 0)
            outcomes = [run.outcome for run in reversed(await app.store.history(job))]
            assert outcomes == [RunOutcome.SNOOZED] * (row.job_name not in at_once) + [RunOutcome.COMPLETED]


async def test_a_rest_fills_the_bucket_and_no_more(
    limited: Make, clock: FakeClock, begun: list[tuple[str, datetime]]
) -> None:
    app = limited(RateLimiter(Rate(1, per=10, burst=2)))
    async with app:
        for round_ in range(2):
            for n in range(3):
                await app.enqueue("Call", f"call-{round_}-{n}")
            await app.drain()
            assert len(begun) == 2 + 3 * round_
            await drain_for(app, clock, 3600, step=600)
    assert len(begun) == 6


async def test_each_key_has_its_own_bucket_and_none_is_free(
    limited: Make, clock: FakeClock, begun: list[tuple[str, datetime]]
) -> None:
    app = limited(RateLimiter(Rate(1, per=60), key=lambda ctx: ctx.job.metadata.get("tenant")))
    async with app:
        for n in range(2):
            for tenant in ("a", "b"):
                await app.enqueue("Call", f"{tenant}-{n}", metadata={"tenant": tenant})
            await app.enqueue("Call", f"free-{n}")
        await app.drain()
        assert sorted(name.split("-")[0] for name, _ in begun) == ["a", "b", "free", "free"]
        await drain_for(app, clock, 61, step=60)
    assert len(begun) == 6


async def test_a_retry_takes_a_token_too(limited: Make, clock: FakeClock, begun: list[tuple[str, datetime]]) -> None:
    app = limited(RateLimiter(Rate(1, per=60)))
    start = clock.now()
    async with app:
        job = await app.enqueue("Call", metadata={"fails": True})
        await drain_for(app, clock, 62, step=2)
        assert [(when - start).total_seconds() for _, when in begun] == [0, 60]
        row = await app.store.get(job)
        assert row is not None
        assert (row.status, row.retry_count) == (JobStatus.COMPLETED, 1)


async def test_come_too_early_it_waits_for_its_own_token(
    limited: Make, clock: FakeClock, begun: list[tuple[str, datetime]]
) -> None:
    app = limited(RateLimiter(Rate(1, per=60)))
    async with app:
        for name in ("first", "second"):
            await app.enqueue("Call", name)
            await app.drain()
        await app.trigger("second")
        await app.drain()
        assert [name for name, _ in begun] == ["first"]
        await drain_for(app, clock, 61, step=60)
    assert [name for name, _ in begun] == ["first", "second"]


async def test_a_snooze_within_keeps_the_token(
    limited: Make, clock: FakeClock, begun: list[tuple[str, datetime]]
) -> None:
    """With two limiters, the outer one's token is not lost to the inner one."""
    app = limited(RateLimiter(Rate(1, per=60)))
    start = clock.now()
    async with app:
        await app.enqueue("Call", "it", metadata={"snoozes": True})
        await drain_for(app, clock, 3, step=1)
    assert [(when - start).total_seconds() for _, when in begun] == [0, 1]


async def test_real_time_and_a_real_timer(make_app: Make) -> None:
    app = make_app(plugins=[RateLimiter(Rate(20, per=1))])
    begun: list[float] = []

    @app.handler("Call")
    async def call() -> None:
        begun.append(anyio.current_time())

    async with app:
        for job in [await app.enqueue(call) for _ in range(10)]:
            assert (await app.wait(job, timeout=20)).status is JobStatus.COMPLETED
    assert max(begun) - min(begun) >= 9 * 0.05 - 0.02


async def test_an_error_of_the_handler_passes(limited: Make) -> None:
    app = limited(RateLimiter(Rate(1)))

    @app.handler("Bad")
    async def bad() -> None:
        raise GiveUp("no")

    async with app:
        job = await app.enqueue(bad)
        await app.drain()
        row = await app.store.get(job)
        assert row is not None
        assert (row.last_error or "").startswith("GiveUp: no")


async def test_what_is_done_is_forgotten(limited: Make, clock: FakeClock) -> None:
    limiter = RateLimiter(Rate(1, per=1), key=lambda ctx: ctx.job.job_name)
    app = limited(limiter)
    async with app:
        for n in range(20):
            await app.enqueue("Call", f"call-{n}")
        await drain_for(app, clock, 120, step=60)
        await app.enqueue("Call", "last")
        await app.drain()
    assert len(limiter._full_at) == 1
    assert not limiter._promised


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": True}, {"count": 1, "per": -1}, {"count": 1, "burst": 0}])
def test_wrong_rates(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"Rate\("):
        Rate(**wrong)
