"""The circuit breaker on real apps: opens, spares retries, probes with one attempt, closes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from circuit_breaker import Circuit, CircuitBreaker
from rate_limiter import Rate, RateLimiter

from aether_bg import Aether, Backoff, GiveUp, JobContext, JobInfo, JobStatus, RunOutcome, Snooze
from aether_bg.errors import InvalidOption
from aether_bg.model import Raised
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


class Service:
    """The other side: `up` or not; every call counts."""

    def __init__(self) -> None:
        self.up = False
        self.calls: list[str] = []

    def call(self, who: str) -> None:
        self.calls.append(who)
        if not self.up:
            raise ConnectionError("connection refused")


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def guarded(make_app: Make, clock: FakeClock, step: Any, service: Service) -> Make:
    """`guarded(*plugins)`: an app on the fake clock, with a handler that calls the service."""

    def make(*plugins: Any) -> Aether:
        app = make_app(clock=clock, scheduler=step, plugins=list(plugins))

        @app.handler("Call", retries=1, backoff=Backoff(first=5, jitter=0))
        async def call(ctx: JobContext) -> None:
            if raises := ctx.job.metadata.get("raises"):
                raise {"GiveUp": GiveUp("no"), "Snooze": Snooze(timedelta(hours=1)), "Value": ValueError()}[raises]
            service.call(ctx.job.job_name)

        return app

    return make


async def row(app: Aether, name: str) -> JobInfo:
    found = await app.store.get_by_job_name(name)
    assert found is not None
    return found


async def fail(app: Aether, count: int, **options: Any) -> None:
    for n in range(count):
        await app.enqueue("Call", f"fails-{n}", **options)
    await app.drain()


async def test_opens_and_puts_off_without_cost(guarded: Make, clock: FakeClock, service: Service) -> None:
    breaker = CircuitBreaker(failures=3, recovery=60)
    app = guarded(breaker)
    async with app:
        await fail(app, 2)
        assert breaker.state("Call") is Circuit.CLOSED
        await app.enqueue("Call", "third")
        await app.drain()
        assert breaker.state("Call") is Circuit.OPEN
        opened = clock.now()
        for n in range(5):
            await app.enqueue("Call", f"later-{n}")
        clock.advance(seconds=10)  # the retries of those that failed are due as well
        await app.drain()
        assert len(service.calls) == 3
        for name in ("fails-0", "later-4"):
            job = await row(app, name)
            assert (job.status, job.due_at) == (JobStatus.SCHEDULED, opened + timedelta(seconds=60))
            assert job.retry_count == (name == "fails-0")
            assert (await app.store.history(job.id))[0].outcome is RunOutcome.SNOOZED


async def test_one_probe_closes_it(guarded: Make, clock: FakeClock, service: Service) -> None:
    breaker = CircuitBreaker(failures=2, recovery=60)
    app = guarded(breaker)
    async with app:
        await fail(app, 2)
        for n in range(3):
            await app.enqueue("Call", f"later-{n}")
        clock.advance(seconds=59)
        await app.drain()
        service.up = True
        clock.advance(seconds=1)
        assert breaker.state("Call") is Circuit.HALF_OPEN
        await app.drain()
        assert breaker.state("Call") is Circuit.CLOSED
        clock.advance(seconds=61)
        await app.drain()
        assert sorted(service.calls[2:]) == ["fails-0", "fails-1", "later-0", "later-1", "later-2"]
        assert [(await row(app, f"fails-{n}")).status for n in range(2)] == [JobStatus.COMPLETED] * 2


async def test_while_the_probe_runs_the_others_wait(make_app: Make) -> None:
    """Real time: the probe is in the middle of its work when the next one comes."""
    breaker = CircuitBreaker(failures=1, recovery=0.3)
    app = make_app(plugins=[breaker])
    failed = anyio.Event()
    running = 0
    beside_the_probe: list[int] = []

    @app.handler("Call", retries=5, backoff=Backoff(first=0.01, jitter=0))
    async def call() -> None:
        nonlocal running
        if not failed.is_set():
            failed.set()
            raise ConnectionError
        running += 1
        if breaker.state("Call") is Circuit.HALF_OPEN:
            await anyio.sleep(0.2)
            beside_the_probe.append(running - 1)
        running -= 1

    async with app:
        first = await app.enqueue(call)
        await failed.wait()
        await anyio.sleep(0.05)
        for job in [first, *[await app.enqueue(call) for _ in range(5)]]:
            assert (await app.wait(job, timeout=20)).status is JobStatus.COMPLETED
    assert beside_the_probe == [0]


async def test_a_probe_that_fails_opens_it_again(guarded: Make, clock: FakeClock, service: Service) -> None:
    breaker = CircuitBreaker(failures=2, recovery=60)
    app = guarded(breaker)
    async with app:
        await fail(app, 2)
        clock.advance(seconds=60)
        await app.drain()
        assert len(service.calls) == 3
        assert breaker.state("Call") is Circuit.OPEN
        assert sorted([(await row(app, f"fails-{n}")).status for n in range(2)]) == [
            JobStatus.SCHEDULED,
            JobStatus.FAILED,
        ]  # the probe was its last retry


@pytest.mark.parametrize("raises", ["GiveUp", "Snooze"])
async def test_a_probe_that_says_nothing_lets_the_next_one_try(
    guarded: Make, clock: FakeClock, service: Service, raises: str
) -> None:
    breaker = CircuitBreaker(failures=1, recovery=60)
    app = guarded(breaker)
    async with app:
        await fail(app, 1)
        clock.advance(seconds=60)
        await app.delete("fails-0")
        await app.enqueue("Call", "probe", metadata={"raises": raises})
        await app.drain()
        assert breaker.state("Call") is Circuit.HALF_OPEN
        service.up = True
        await app.enqueue("Call", "next")
        await app.drain()
        assert (await row(app, "next")).status is JobStatus.COMPLETED
        assert breaker.state("Call") is Circuit.CLOSED


async def test_a_success_in_between_resets_the_count(guarded: Make, service: Service) -> None:
    breaker = CircuitBreaker(failures=3)
    app = guarded(breaker)
    async with app:
        await fail(app, 2)
        service.up = True
        await app.enqueue("Call", "good")
        await app.drain()
        service.up = False
        for name in ("bad-1", "bad-2"):
            await app.enqueue("Call", name)
        await app.drain()
        assert breaker.state("Call") is Circuit.CLOSED


async def test_only_failures_that_count(guarded: Make) -> None:
    def connection(failure: Any) -> bool:
        return isinstance(failure, Raised) and isinstance(failure.error, ConnectionError)

    breaker = CircuitBreaker(failures=2, counts=connection)
    app = guarded(breaker)
    async with app:
        for raises in ("Value", "GiveUp", "Value", "Snooze"):
            await app.enqueue("Call", metadata={"raises": raises})
        await app.drain()
        assert breaker.state("Call") is Circuit.CLOSED
        await fail(app, 2)
        assert breaker.state("Call") is Circuit.OPEN


async def test_a_timeout_is_a_failure(make_app: Make) -> None:
    breaker = CircuitBreaker(failures=1)
    app = make_app(plugins=[breaker])

    @app.handler("Hangs", timeout=0.05)
    async def hangs() -> None:
        await anyio.sleep(30)

    async with app:
        assert (await app.wait(await app.enqueue(hangs), timeout=10)).status is JobStatus.FAILED
    assert breaker.state("Hangs") is Circuit.OPEN


async def test_circuits_are_apart_and_some_have_none(guarded: Make, service: Service) -> None:
    breaker = CircuitBreaker(failures=1, key=lambda ctx: ctx.job.metadata.get("host"))
    app = guarded(breaker)
    async with app:
        await fail(app, 1, metadata={"host": "a"})
        service.up = True
        await app.enqueue("Call", "to-a", metadata={"host": "a"})
        await app.enqueue("Call", "to-b", metadata={"host": "b"})
        await app.enqueue("Call", "to-none")
        await app.drain()
        assert sorted(service.calls) == ["fails-0", "to-b", "to-none"]
        assert (breaker.state("a"), breaker.state("b")) == (Circuit.OPEN, Circuit.CLOSED)


async def test_outside_of_a_rate_limiter(guarded: Make, clock: FakeClock, service: Service) -> None:
    """A probe that the limiter puts off says nothing, and comes again."""
    breaker = CircuitBreaker(failures=1, recovery=10)
    app = guarded(breaker, RateLimiter(Rate(1, per=100)))
    async with app:
        await fail(app, 1)
        service.up = True
        clock.advance(seconds=10)
        await app.drain()
        assert (breaker.state("Call"), len(service.calls)) == (Circuit.HALF_OPEN, 1)
        clock.advance(seconds=90)
        await app.drain()
        assert (breaker.state("Call"), len(service.calls)) == (Circuit.CLOSED, 2)


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"failures": True}, {"recovery": 0}, {"recovery": float("nan")}])
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="must be"):
        CircuitBreaker(**wrong)
