"""A stop is not a crash (docs/protocol.md, S4 and S7)."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from aether_bg import Aether, JobStatus, NotStarted, RunOutcome, SQLiteStore
from aether_bg._kernel.timings import Timings
from aether_bg.model import Heartbeat
from aether_bg.plugins.memory import MemoryStore

pytestmark = pytest.mark.anyio
Make = Callable[..., Aether]


async def eventually(condition: Callable[[], Any], within: float = 20) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path, timeout=30)) as conn:
        return conn.execute(sql).fetchall()


class Slow:
    """A thread that a stop cannot end, until `go`."""

    def __init__(self, app: Aether) -> None:
        self.begun, self.go, self.starts = threading.Event(), threading.Event(), 0
        app.handler("Slow")(self.run)

    def run(self) -> None:
        self.starts += 1
        self.begun.set()
        self.go.wait(30)

    async def started(self, app: Aether) -> Any:
        job_id = await app.enqueue("Slow", "slow")
        await eventually(self.begun.is_set)
        return job_id


async def test_the_stop_is_announced_before_the_grace(make_app: Make, path: Path) -> None:
    app = make_app(grace=10)
    slow = Slow(app)

    async def let_go_once_announced() -> None:
        with anyio.fail_after(5):
            while rows(path, "SELECT stopping FROM aether_owners") != [(1,)]:
                await anyio.sleep(0.02)
        slow.go.set()

    async with anyio.create_task_group() as group, app:
        job_id = await slow.started(app)
        assert rows(path, "SELECT stopping FROM aether_owners") == [(0,)]
        group.start_soon(let_go_once_announced)
    assert rows(path, "SELECT count(*) FROM aether_owners") == [(0,)]
    async with app.client() as jobs:
        job = await jobs.store.get(job_id)
        assert job is not None
        assert job.status is JobStatus.COMPLETED


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_a_thread_that_returns_after_the_stop_is_recorded(
    make_app: Make, path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The host goes on after the stop: the job is neither lost nor run again."""
    made = MemoryStore() if store == "memory" else None
    app = make_app(made, grace=0.1)
    slow = Slow(app)
    with caplog.at_level(logging.INFO, "aether_bg"):
        async with app:
            job_id = await slow.started(app)
        async with app:  # started again beside its earlier thread
            job = await app.store.get(job_id)
            assert job is not None
            assert job.status is JobStatus.RUNNING
            await anyio.sleep(0.3)
            assert slow.starts == 1
            slow.go.set()
            job = await app.wait(job_id, 20)
            assert (job.status, job.crash_count, slow.starts) == (JobStatus.COMPLETED, 0, 1)
            with anyio.fail_after(20):
                while (await app.store.stats()).owners > 1:
                    await anyio.sleep(0.02)
    stops = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(stops) == 1, stops
    assert "did not end when cancelled: Slow (slow)" in stops[0]


async def test_an_outcome_that_the_stop_cannot_record_does_not_count_as_crash(
    make_app: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is busy throughout the stop: the next start puts back what ran, uncounted."""
    app, begun, go = make_app(SQLiteStore(path, busy=0.3), grace=1), [], anyio.Event()

    @app.handler("Slow")
    async def slow() -> None:
        begun.append(1)
        await go.wait()

    foreign = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    async with app:
        for number in range(5):
            await app.enqueue("Slow", f"slow-{number}")
        await eventually(lambda: len(begun) == 5)
        about: dict[str, Any] = {"handlers": ("Slow",), "now": app.options.clock.now(), "interval": 5, "keep_for": 60}
        announced = Heartbeat(owner=app._running.kernel.owner, stopping=True, **about)
        await app.calls.heartbeat(announced)  # as the stop does, before the trouble
        caplog.clear()
        foreign.execute("BEGIN IMMEDIATE")
        go.set()
    foreign.execute("ROLLBACK")
    foreign.close()
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [line for line in told if "NotStarted" in line], told
    assert len(told) == len(set(told)) <= 4, told
    async with app:
        for number in range(5):
            job = await app.wait(f"slow-{number}", 20)
            assert (job.status, job.crash_count) == (JobStatus.COMPLETED, 0)
            runs = [run.outcome for run in await app.store.history(job.id)]
            assert runs == [RunOutcome.COMPLETED, RunOutcome.RELEASED]


async def test_a_long_stop_misses_no_handler(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What is due waits for the next start, which is no news; nor is a call that comes too late."""
    app = make_app(grace=10, concurrency=1, timings=Timings(settling=0.1, look=0.02))
    slow, late = Slow(app), list[BaseException]()

    async def enqueues_until_the_end() -> None:
        try:
            while True:
                await app.enqueue("Slow")
                await anyio.sleep(0.001)
        except NotStarted as error:
            late.append(error)

    async def let_go() -> None:
        await anyio.sleep(0.8)
        slow.go.set()

    async with anyio.create_task_group() as group, app:
        await slow.started(app)
        await app.enqueue("Slow")
        await eventually(lambda: "Slow" in app._running.upkeep.heartbeats.alive.due)  # type: ignore[union-attr]
        group.start_soon(let_go)
        group.start_soon(enqueues_until_the_end)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert "a write" not in str(late[0])
    assert "async with app" in str(late[0]), "it says what to do"
