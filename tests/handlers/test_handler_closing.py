"""Dependencies are closed however the attempt ends: shielded, bounded, each one (docs/protocol.md, S8)."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobContext, JobInfo, JobRun, JobStatus, RunOutcome, Snooze
from aether_bg._handlers import dependencies

pytestmark = [pytest.mark.anyio, pytest.mark.any_store]


class Outer: ...


class Inner: ...


class World:
    """Two dependencies, the inner one closed first, in the way that a test sets."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.started = anyio.Event()
        self.inner: Callable[[], Any] = self.pause

    async def pause(self) -> None:
        await anyio.sleep(0.05)

    async def outer_dependency(self) -> AsyncIterator[Outer]:
        try:
            yield Outer()
        finally:
            await anyio.sleep(0.02)
            self.closed.append("outer")

    async def inner_dependency(self, outer: Outer) -> AsyncIterator[Inner]:
        try:
            yield Inner()
        finally:
            await self.inner()
            self.closed.append("inner")


@pytest.fixture
def world(app: Aether) -> World:
    world = World()
    app.provide(Outer, world.outer_dependency)
    app.provide(Inner, world.inner_dependency)

    async def work(args: str, inner: Inner) -> None:
        world.started.set()
        if args == "snoozes":
            raise Snooze(timedelta(hours=1))
        if args == "fails":
            raise ValueError("no")
        if args == "hangs":
            await anyio.sleep_forever()

    app.handler("Work")(work)
    app.handler("Timed", timeout=0.1)(work)
    return world


async def _ended(app: Aether, handler: str, args: str) -> Any:
    job_id = await app.enqueue(handler, "job", args)
    with anyio.fail_after(20):
        while True:
            runs = await app.store.history(job_id)
            if runs and runs[0].outcome is not None:
                return runs[0]
            await anyio.sleep(0.01)


async def test_after_a_timeout(app: Aether, world: World) -> None:
    async with app:
        run = await _ended(app, "Timed", "hangs")
        assert run.outcome is RunOutcome.TIMED_OUT
        assert world.closed == ["inner", "outer"]


async def test_after_a_delete(app: Aether, world: World) -> None:
    async with app:
        job_id = await app.enqueue("Work", payload="hangs")
        await world.started.wait()
        assert await app.delete(job_id)
        with anyio.fail_after(10):
            while len(world.closed) < 2:
                await anyio.sleep(0.01)
    assert world.closed == ["inner", "outer"]


async def stopped(make_app: Callable[..., Aether], world: World) -> tuple[JobInfo, JobRun]:
    """A job that waits inside its dependencies when the app stops: its row, and its attempt."""
    app = make_app(grace=0)
    app.provide(Outer, world.outer_dependency)
    app.provide(Inner, world.inner_dependency)

    @app.handler("Work")
    async def work(inner: Inner) -> None:
        world.started.set()
        await anyio.sleep_forever()

    async with app:
        job_id = await app.enqueue("Work")
        await world.started.wait()
    async with make_app().client() as jobs:
        job = await jobs.store.get(job_id)
        (run,) = await jobs.store.history(job_id)
    assert job is not None
    return job, run


async def test_after_a_stop(make_app: Callable[..., Aether]) -> None:
    world = World()
    job, run = await stopped(make_app, world)
    assert world.closed == ["inner", "outer"]
    assert (job.status, run.outcome) == (JobStatus.SCHEDULED, RunOutcome.RELEASED)


async def test_at_the_stop_one_that_hangs_leaves_time_for_the_next(make_app: Callable[..., Aether]) -> None:
    world = World()
    world.inner = anyio.sleep_forever
    _, run = await stopped(make_app, world)
    assert world.closed == ["outer"]
    assert run.outcome is RunOutcome.RELEASED
    assert "closing Inner: it did not end within" in str(run.error)


def _raises(error: BaseException) -> Callable[[], Any]:
    async def inner() -> None:
        await anyio.sleep(0)
        raise error

    return inner


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), SystemExit(3), KeyboardInterrupt(), Unprintable()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize(
    ("handler", "args", "outcome"),
    [
        ("Work", "returns", RunOutcome.COMPLETED), ("Work", "fails", RunOutcome.FAILED),
        ("Work", "snoozes", RunOutcome.SNOOZED), ("Timed", "hangs", RunOutcome.TIMED_OUT),
    ],
)  # fmt: skip
async def test_the_next_one_is_closed_even_if_one_fails(
    app: Aether, world: World, caplog: pytest.LogCaptureFixture, error: BaseException, handler: str, args: str,
    outcome: RunOutcome,
) -> None:  # fmt: skip
    world.inner = _raises(error)
    async with app:
        run = await _ended(app, handler, args)
    assert run.outcome is outcome
    assert world.closed == ["outer"]
    assert f"closing Inner: {type(error).__name__}" in str(run.error), "noted on the run"
    assert any("closing Inner" in record.getMessage() for record in caplog.records), "and logged"


async def test_one_that_hangs_is_given_up(app: Aether, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "CLOSE_WITHIN", 0.2)
    world.inner = anyio.sleep_forever
    async with app:
        run = await _ended(app, "Timed", "hangs")
        assert run.outcome is RunOutcome.TIMED_OUT
        assert "closing Inner: it did not end within 0.2 s" in str(run.error)
        assert world.closed == ["outer"]


async def test_a_threads_dependencies_are_closed_after_it(app: Aether) -> None:
    told: list[str] = []
    go = threading.Event()

    def dependency() -> Iterator[Inner]:
        yield Inner()
        told.append("closed")

    app.provide(Inner, dependency)

    @app.handler("Thread", timeout=0.05)
    def thread(inner: Inner, ctx: JobContext) -> None:
        go.wait(10)
        told.append("returned")

    async with app:
        job_id = await app.enqueue("Thread")
        await anyio.sleep(0.3)
        assert told == []
        go.set()
        assert (await app.wait(job_id, 10)).status is JobStatus.FAILED
    assert told == ["returned", "closed"]


async def test_trouble_in_a_clean_up_is_one_line_of_the_log(
    app: Aether, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise RuntimeError("a\x1b[31mb\nWARNING forged")

    world.inner = fails
    async with app:
        job = await app.wait(await app.enqueue("Work", payload="x"), 10)
    assert job.status is JobStatus.COMPLETED
    (told,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert told.isprintable()
