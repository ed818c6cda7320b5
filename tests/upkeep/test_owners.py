"""Processes that declare each other dead, and one that gets back a job that it still runs (docs/protocol.md, P6 and
P7)."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from aether_bg import Aether, JobStatus, RunOutcome
from aether_bg.testing import FakeClock

pytestmark = pytest.mark.anyio
Make = Callable[..., Aether]
LEASE = 1.0


async def eventually(condition: Callable[[], Any], within: float = 20) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


@pytest.mark.one_loop
async def test_a_store_that_no_process_can_write_makes_no_owner_dead(make_app: Make, path: Path) -> None:
    starts: list[str] = []
    begun, go = anyio.Event(), anyio.Event()

    def made() -> Aether:
        app = make_app(lease=LEASE)

        @app.handler("Slow")
        async def slow() -> None:
            starts.append("slow")
            begun.set()
            await go.wait()

        return app

    async with made() as app, made():
        job_id = await app.enqueue("Slow")
        with anyio.fail_after(10):
            await begun.wait()

        def hold() -> None:
            with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as foreign:
                foreign.execute("BEGIN IMMEDIATE")
                time.sleep(2.5 * LEASE)
                foreign.execute("ROLLBACK")

        await anyio.to_thread.run_sync(hold)
        await anyio.sleep(1.5 * LEASE)  # time for a wrong verdict to show
        go.set()
        job = await app.wait(job_id, 20)
        assert (job.status, job.crash_count, starts) == (JobStatus.COMPLETED, 0, ["slow"])
        assert [run.outcome for run in await app.store.history(job_id)] == [RunOutcome.COMPLETED]


def taken_for_dead(path: Path) -> UUID:
    """Does what another process does that declares every owner dead: puts the rows back, and forgets the owners."""
    with closing(sqlite3.connect(path, timeout=30)) as conn, conn:
        owner = UUID(conn.execute("SELECT id FROM aether_owners").fetchone()[0])
        conn.execute("UPDATE aether_jobs SET status = 0, seq = seq + 1, owner = NULL WHERE status = 1")
        conn.execute("UPDATE aether_runs SET outcome = 'crashed' WHERE outcome IS NULL")
        conn.execute("DELETE FROM aether_owners")
    return owner


class Overlaps:
    """Counts how many attempts run at once."""

    def __init__(self) -> None:
        self.running = self.most = self.started = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.running += 1
            self.started += 1
            self.most = max(self.most, self.running)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.running -= 1


@pytest.mark.parametrize("kind", ["thread", "deaf", "async"])
async def test_a_job_that_comes_back_waits_for_its_earlier_attempt(make_app: Make, path: Path, kind: str) -> None:
    app, seen, go = make_app(), Overlaps(), threading.Event()

    if kind == "thread":

        @app.handler("Slow")
        def in_thread() -> None:
            with seen:
                go.wait(20)

    else:

        @app.handler("Slow")
        async def on_loop() -> None:
            with seen, anyio.CancelScope(shield=kind == "deaf"):
                while not go.is_set():
                    await anyio.sleep(0.01)

    async with app:
        job_id = await app.enqueue("Slow")
        await eventually(lambda: seen.started == 1)
        taken_for_dead(path)
        job = None
        with anyio.fail_after(20):
            while job is None or job.status is not JobStatus.RUNNING or job.attempt < 2:
                await anyio.sleep(0.02)
                job = await app.store.get(job_id)
        await anyio.sleep(0.5)
        assert seen.started == (2 if kind == "async" else 1)
        go.set()
        job = await app.wait(job_id, 20)
        assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
        assert (seen.started, seen.most) == (2, 1)


async def test_a_deleted_job_that_is_retried_waits_for_its_thread(make_app: Make) -> None:
    app, seen, go = make_app(), Overlaps(), threading.Event()

    @app.handler("Slow")
    def slow() -> None:
        with seen:
            go.wait(20)

    async with app:
        job_id = await app.enqueue("Slow", "one")
        await eventually(lambda: seen.started == 1)
        for _ in range(3):
            await app.delete(job_id)
            await app.retry(job_id)
            await anyio.sleep(0.2)
        assert seen.started == 1
        go.set()
        assert (await app.wait(job_id, 20)).status is JobStatus.COMPLETED
        assert (seen.started, seen.most) == (2, 1)


async def test_a_job_that_waits_for_its_earlier_attempt_can_be_deleted(make_app: Make) -> None:
    app, seen, go = make_app(), Overlaps(), threading.Event()

    @app.handler("Slow")
    def slow() -> None:
        with seen:
            go.wait(20)

    @app.handler("Quick")
    def quick() -> None: ...

    async with app:
        job_id = await app.enqueue("Slow", "one")
        await eventually(lambda: seen.started == 1)
        await app.delete(job_id)
        await app.retry(job_id)
        await anyio.sleep(0.2)
        assert await app.delete(job_id)
        go.set()
        await eventually(lambda: seen.running == 0)
        await app.wait(await app.enqueue("Quick"), 20)
        job = await app.store.get(job_id)
        assert job is not None
        assert (job.status, seen.started) == (JobStatus.CANCELLED, 1)


@pytest.mark.one_loop
async def test_a_look_after_a_jump_of_the_clock_makes_no_owner_dead(make_app: Make, clock: FakeClock) -> None:
    """The process was suspended, or its loop was held: what the others did in that time is unknown."""
    app, other, begun, go = make_app(clock=clock), make_app(), anyio.Event(), anyio.Event()

    @app.handler("Never")
    async def never() -> None: ...

    @other.handler("Slow")
    async def slow() -> None:
        begun.set()
        await go.wait()

    async with other, app:
        job_id = await other.enqueue("Slow")
        with anyio.fail_after(10):
            await begun.wait()
        for _ in range(5):
            await anyio.sleep(0.4)
            clock.advance(seconds=20)
        go.set()
        job = await other.wait(job_id, 20)
        assert (job.status, job.crash_count) == (JobStatus.COMPLETED, 0)
