"""The main scenarios, the same over the embedded timer and over a real Dapr (`nox -s dapr`): what a job means does not
depend on who watches the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from anyio import to_thread

from aether_bg import Aether, Backoff, DaprScheduler, JobContext, JobStatus, RunOutcome
from aether_bg.testing.sidecar import DaprRuntime, require_dapr

pytestmark = pytest.mark.anyio

MakeScheduler: TypeAlias = Callable[..., Any]
SOON = timedelta(seconds=0.5)
LATER = timedelta(hours=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # grpc.aio knows no other; the timer's own tests run on trio as well


@pytest.fixture(params=["timer", pytest.param("dapr", marks=pytest.mark.dapr)])
def scheduler(request: pytest.FixtureRequest) -> Iterator[MakeScheduler]:
    """`scheduler()`: one for an app that starts; `scheduler(1)`: for a second one, at work at the same time."""
    if request.param == "timer":
        yield lambda replica=0: "timer"
        return
    pytest.importorskip("grpc", reason="Dapr needs the extra: pip install 'aether-bg[dapr]'")
    require_dapr()
    with DaprRuntime() as dapr:

        def make(replica: int = 0) -> DaprScheduler:
            sidecar = dapr.replica() if replica else dapr.sidecar
            return DaprScheduler(endpoint=f"127.0.0.1:{sidecar.grpc_port}", app_port=sidecar.app_port)

        yield make


@pytest.fixture
def again(request: pytest.FixtureRequest) -> float:
    """Seconds after which Dapr has delivered again what was not consumed, and the timer has looked again."""
    return 1.2 if request.node.get_closest_marker("dapr") else 0.3


class Log:
    """What the handler was called with, and when."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.at: list[datetime] = []

    def app(self, path: Path, scheduler: Any, *, takes: float = 0, **options: Any) -> Aether:
        app = Aether(path, scheduler=scheduler, grace=2, **options)

        @app.handler("Work")
        async def work(word: str) -> None:
            self.seen.append(word)
            self.at.append(datetime.now(UTC))
            await anyio.sleep(takes)

        return app


async def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    with anyio.fail_after(timeout):
        while not condition():
            await anyio.sleep(0.01)


async def test_one_shots_and_delays(scheduler: MakeScheduler, path: Path, again: float) -> None:
    log = Log()
    async with log.app(path, scheduler()) as app:
        begun = datetime.now(UTC)
        delayed = await app.enqueue("Work", payload="delayed", schedule=timedelta(seconds=1))
        at = datetime.now(UTC) + timedelta(seconds=1.5)
        dated = await app.enqueue("Work", payload="dated", schedule=at)
        for word in ("one", "two"):
            assert (await app.wait(await app.enqueue("Work", payload=word), 30)).status is JobStatus.COMPLETED
        for job in (delayed, dated):
            await app.wait(job, 30)
        await anyio.sleep(again)
        assert sorted(log.seen) == ["dated", "delayed", "one", "two"]
        started = dict(zip(log.seen, log.at, strict=True))
        assert started["delayed"] >= begun + timedelta(seconds=1)
        assert started["dated"] >= at
        assert [len(await app.store.history(job)) for job in (delayed, dated)] == [1, 1]


async def broken_off(app: Aether) -> None:
    async with app.unit_of_work():
        await app.enqueue("Work", payload="rolled back")
        raise ZeroDivisionError


async def test_a_unit_of_work(scheduler: MakeScheduler, path: Path, again: float) -> None:
    log = Log()
    async with log.app(path, scheduler()) as app:
        async with app.unit_of_work():
            ids = [await app.enqueue("Work", payload=str(n)) for n in range(5)]
            await anyio.sleep(0.3)
            assert log.seen == []
        with pytest.raises(ZeroDivisionError):
            await broken_off(app)
        for job in ids:
            assert (await app.wait(job, 30)).status is JobStatus.COMPLETED
        await anyio.sleep(again)
        assert sorted(log.seen) == ["0", "1", "2", "3", "4"]


async def test_recurring_jobs(scheduler: MakeScheduler, path: Path) -> None:
    async with Log().app(path, scheduler()) as app:
        job_id = await app.enqueue("Work", "tick", "x", "@every 1s", repeats=3)
        assert (await app.wait(job_id, 30)).status is JobStatus.COMPLETED
        runs = await app.store.history(job_id)
        assert [run.outcome for run in runs] == [RunOutcome.COMPLETED] * 3
        occurrences = sorted(run.occurrence for run in runs if run.occurrence)
        assert len(set(occurrences)) == 3
        assert all((when - occurrences[0]) % timedelta(seconds=1) == timedelta(0) for when in occurrences)
        assert all(run.started_at and run.occurrence and run.started_at >= run.occurrence for run in runs)


async def test_retries_wait_out_their_backoff(scheduler: MakeScheduler, path: Path) -> None:
    app = Aether(path, scheduler=scheduler(), grace=2)
    attempts: list[tuple[int, datetime]] = []

    @app.handler("Flaky", retries=2, backoff=Backoff(first=0.5, factor=2, jitter=0))
    async def flaky(fails: int, ctx: JobContext) -> None:
        attempts.append((ctx.attempt, datetime.now(UTC)))
        if ctx.attempt <= fails:
            raise RuntimeError("not yet")

    async with app:
        assert (await app.wait(await app.enqueue("Flaky", payload=2), 30)).status is JobStatus.COMPLETED
        assert [number for number, _ in attempts] == [1, 2, 3]
        (_, first), (_, second), (_, third) = attempts
        assert second - first >= timedelta(seconds=0.5)
        assert third - second >= timedelta(seconds=1)
        job = await app.wait(await app.enqueue("Flaky", payload=3), 30)
        assert job.status is JobStatus.FAILED
        assert "not yet" in (job.last_error or "")
        assert len(attempts) == 6


async def test_update_and_delete(scheduler: MakeScheduler, path: Path, again: float) -> None:
    log = Log()
    async with log.app(path, scheduler()) as app:
        moved = await app.enqueue("Work", "moved", "moved", LATER)
        put_off = await app.enqueue("Work", "put off", "put off", timedelta(seconds=3))
        gone = await app.enqueue("Work", "gone", "gone", timedelta(seconds=3))
        recurring = await app.enqueue("Work", "recurring", "recurring", "@daily")
        assert await app.delete(gone)
        assert not await app.delete(gone)
        await app.update(put_off, LATER)
        await app.update(moved, SOON)
        await app.update(recurring, "@every 1s")
        await app.wait(moved, 30)
        await until(lambda: log.seen.count("recurring") >= 2)
        assert await app.delete(recurring)
        runs = log.seen.count("recurring")
        await anyio.sleep(2 + again)
        assert sorted(log.seen) == ["moved", *["recurring"] * runs]


async def test_pause_resume_and_trigger(scheduler: MakeScheduler, path: Path, again: float) -> None:
    log = Log()
    async with log.app(path, scheduler()) as app:
        daily = await app.enqueue("Work", "daily", "daily", "@daily")
        await app.trigger(daily)
        await until(lambda: log.seen == ["daily"])
        await app.pause(daily)
        await app.trigger(daily)  # works while paused, which stays (docs/protocol.md, U3)
        await until(lambda: log.seen == ["daily"] * 2)
        once = await app.enqueue("Work", "once", "once", timedelta(seconds=1))
        await app.pause(once)
        await anyio.sleep(1 + again)
        assert "once" not in log.seen
        await app.resume(once)
        await app.resume(daily)
        await app.wait(once, 30)
        row = await app.store.get(daily)
        assert row is not None
        assert not row.paused
        assert row.due_at is not None
        assert row.due_at > datetime.now(UTC)
        await anyio.sleep(again)
        assert log.seen == ["daily", "daily", "once"]


async def test_a_restart_with_a_backlog(scheduler: MakeScheduler, path: Path, again: float) -> None:
    log = Log()
    async with log.app(path, scheduler()) as app:
        for n in range(30):
            await app.enqueue("Work", f"job-{n}", f"{n}", SOON)
    async with log.app(path, scheduler()).client() as client:  # no process runs jobs now
        await client.enqueue("Work", "from a client", "30")
    await anyio.sleep(1)
    assert len(log.seen) < 31
    async with log.app(path, scheduler()) as app:
        await until(lambda: len(log.seen) >= 31)
        await anyio.sleep(again)
        assert (await app.store.stats()).completed == 31
    assert sorted(map(int, log.seen)) == list(range(31))


async def test_a_stop_in_the_middle_of_a_run(scheduler: MakeScheduler, path: Path) -> None:
    """Released, not counted, and run by the next start."""
    log = Log()
    async with log.app(path, scheduler(), takes=3600) as app:
        job_id = await app.enqueue("Work", payload="x")
        await until(lambda: log.seen == ["x"])
    async with log.app(path, scheduler()) as app:
        job = await app.wait(job_id, 30)
        assert job.status is JobStatus.COMPLETED
        assert job.retry_count == 0
        outcomes = [run.outcome for run in await app.store.history(job_id)]
        assert outcomes == [RunOutcome.COMPLETED, RunOutcome.RELEASED]
    assert log.seen == ["x", "x"]


async def test_a_handler_that_takes_longer_than_its_period(scheduler: MakeScheduler, path: Path) -> None:
    app = Aether(path, scheduler=scheduler(), grace=2)
    busy = most = done = 0

    @app.handler("Slow", schedule="@every 1s")
    async def slow() -> None:
        nonlocal busy, most, done
        busy += 1
        most = max(most, busy)
        await anyio.sleep(1.3)
        busy -= 1
        done += 1

    async with app:
        await until(lambda: done >= 3)  # the chain does not break (docs/protocol.md, C3)
    assert most == 1


async def test_two_apps_on_one_file(scheduler: MakeScheduler, path: Path, again: float) -> None:
    """They share the work, and nothing is done twice."""
    one, two = Log(), Log()
    second = await to_thread.run_sync(scheduler, 1)
    async with (
        one.app(path, scheduler(), takes=0.2, concurrency=4) as app,
        two.app(path, second, takes=0.2, concurrency=4),
    ):
        for n in range(40):
            await app.enqueue("Work", payload=f"{n}")
        await until(lambda: len(one.seen) + len(two.seen) >= 40)
        await anyio.sleep(again)
        assert (await app.store.stats()).completed == 40
    assert sorted(map(int, one.seen + two.seen)) == list(range(40))
    assert one.seen
    assert two.seen
