"""What becomes of outcomes that the store refuses, of triggers for jobs whose owner died, of problems that are over."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from aether_bg import Aether, JobStatus, RunOutcome, StoreError, UnitOfWork
from aether_bg._kernel import owners
from aether_bg.errors import StoreBusy
from aether_bg.model import Fired
from aether_bg.plugins.sqlite import opened
from aether_bg.testing import FakeClock

pytestmark = pytest.mark.anyio


def by_hand(path: Path, sql: str, *params: Any) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn, conn:
        assert conn.execute(sql, params).rowcount == 1


async def test_an_occurrence_that_has_completed_before_is_a_duplicate(
    fake_app: Aether, path: Path, clock: FakeClock
) -> None:
    """PROTOCOL C6: it counts once, writes once, and the job goes on; it is not run again and again."""
    calls = []

    @fake_app.handler("Count")
    async def count(uow: UnitOfWork) -> None:
        calls.append(clock.now())
        uow.execute("INSERT INTO counted VALUES (1)")

    async with fake_app as app:
        by_hand_table(path)
        id_ = await app.enqueue("Count", "count", schedule="@every 1h")
        clock.advance(hours=1)
        await app.drain()
        first = await app.store.get(id_)
        assert first is not None
        by_hand(
            path, "UPDATE jobs SET occurrence = (SELECT occurrence FROM runs), due_at = (SELECT occurrence FROM runs), "
            "last_occurrence = NULL, occurrences = 0",
        )  # fmt: skip
        await app.drain()
        assert len(calls) == 2
        again = await app.store.get(id_)
        assert again is not None
        assert (again.status, again.due_at, again.last_error) == (JobStatus.SCHEDULED, first.due_at, None)
        outcomes = [run.outcome for run in await app.store.history(id_)]
        assert outcomes == [RunOutcome.DUPLICATE, RunOutcome.COMPLETED]
        clock.advance(hours=1)
        await app.drain()
        assert len(calls) == 3
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM counted").fetchone() == (2,), "what a duplicate writes does not count"


def by_hand_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("CREATE TABLE counted (one)")


async def test_a_trigger_for_a_running_job_has_its_owner_looked_at(
    make_app: Callable[..., Aether], path: Path, step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL C2, without waiting for the next look at the owners."""
    monkeypatch.setattr(owners, "LOOK", 60.0)
    app = make_app(scheduler=step)
    app.handler("Work")(lambda: None)
    async with app:
        id_ = await app.enqueue("Work", "job", schedule="@every 1h")
        by_hand(path, "UPDATE jobs SET status = 1, seq = 7, attempt = 1, owner = ?", str(uuid4()))
        row = await app.store.get(id_)
        assert row is not None
        with anyio.fail_after(20):
            while row.status is JobStatus.RUNNING:
                fired = await step.kernel.fire(step.kernel.store_id, id_, 7, row.occurrence)
                assert fired is Fired.CONSUMED
                await anyio.sleep(0.01)
                row = await app.store.get(id_)
                assert row is not None
        assert row.crash_count == 1


async def test_failures_are_logged(fake_app: Aether, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """One line each: a retry as information, the last try as a warning."""
    caplog.set_level("INFO", "aether_bg")

    @fake_app.handler("Fails", retries=1)
    async def fails() -> None:
        raise ValueError("no\nsecond line")

    async with fake_app as app:
        await app.enqueue("Fails", "job")
        await app.drain()
        clock.advance(hours=1)
        await app.drain()
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "Fails" in record.getMessage()]
    assert told == [
        ("INFO", "Fails (job): attempt 1 failed, it is tried again: ValueError: no"),
        ("WARNING", "Fails (job): attempt 2 failed, that was the last try: ValueError: no"),
    ]


async def test_problems_fade(fake_app: Aether, clock: FakeClock) -> None:
    async with fake_app as app:
        app._running.engine.report("outbox", "the engine is away")
        assert (await app.health())["problems"] == {"outbox": "the engine is away"}
        clock.advance(seconds=61)
        assert (await app.health())["problems"] == {}


async def test_opening_waits_for_others_but_not_for_ever(
    make_app: Callable[..., Aether], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app:
        pass
    monkeypatch.setattr(opened, "_OPEN_FOR", 0.2)
    with path.with_name(f"{path.name}-lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreBusy, match="write lock past the deadline"):
            async with app:
                raise AssertionError
        fcntl.flock(lock, fcntl.LOCK_UN)
        with anyio.fail_after(20):
            while True:  # the wait that was given up lets go of the lock it gets
                with contextlib.suppress(StoreError):
                    async with app:
                        break


async def test_an_overdue_job_is_told_of_at_the_second_look(
    fake_app: Aether, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once. At the first look it may be the clock that was moved, in a test or by a laptop's sleep."""
    monkeypatch.setattr(owners, "LOOK", 0.005)
    fake_app.handler("Work")(lambda: None)
    async with fake_app as app:
        await app.enqueue("Work", "job")
        clock.advance(minutes=2)
        await anyio.sleep(0.3)
        assert (await app.health())["problems"] == {}
        clock.advance(seconds=11)
        with anyio.fail_after(10):
            while not (problems := (await app.health())["problems"]):
                await anyio.sleep(0.01)
        assert "1 jobs are overdue" in problems["scheduler"]
        for _ in range(7):
            clock.advance(seconds=11)
            await anyio.sleep(0.05)
        assert (await app.health())["problems"] == {}, "told once"
        await app.drain()
