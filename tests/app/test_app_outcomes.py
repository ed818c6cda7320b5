"""What becomes of outcomes that the store refuses, of triggers for jobs whose owner died, of problems that are over."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from aether_bg import Aether, Backoff, JobStatus, RunOutcome, SQLiteStore, StoreError, UnitOfWork, hookimpl
from aether_bg._kernel.timings import Timings
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
    """docs/protocol.md, C6: it counts once, writes once, and the job goes on; it is not run again and again."""
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
            path, "UPDATE aether_jobs SET occurrence = (SELECT occurrence FROM aether_runs), "
            "due_at = (SELECT occurrence FROM aether_runs), "
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
    make_app: Callable[..., Aether], path: Path, step: Any
) -> None:
    """docs/protocol.md, C2, without waiting for the next look at the owners."""
    app = make_app(scheduler=step, timings=Timings(look=60.0))
    app.handler("Work")(lambda: None)
    async with app:
        id_ = await app.enqueue("Work", "job", schedule="@every 1h")
        by_hand(path, "UPDATE aether_jobs SET status = 1, seq = 7, attempt = 1, owner = ?", str(uuid4()))
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
    """One line each: a failure with retries left as a warning, the last one as an error."""
    caplog.set_level("INFO", "aether_bg")

    @fake_app.handler("Fails", retries=1)
    async def fails() -> None:
        raise ValueError("no\nsecond line")

    async with fake_app as app:
        await app.enqueue("Fails", "job")
        await app.drain()
        clock.advance(hours=1)
        await app.drain()
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "Fails (" in record.getMessage()]
    assert told == [
        ("WARNING", "Fails (job): attempt 1 failed, it is tried again: ValueError: no"),
        ("ERROR", "Fails (job): attempt 2 failed, that was the last try: ValueError: no"),
    ]


async def test_problems_fade(fake_app: Aether, clock: FakeClock) -> None:
    async with fake_app as app:
        app._running.kernel.report("outbox", "the engine is away")
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


async def test_an_overdue_job_is_reported_at_the_second_look(
    make_app: Callable[..., Aether], clock: FakeClock, step: Any
) -> None:
    """Once. At the first look it may be the clock that was moved, in a test or by a laptop's sleep."""
    fake_app = make_app(clock=clock, scheduler=step, timings=Timings(look=0.005))
    fake_app.handler("Work")(lambda: None)
    async with fake_app as app:
        await app.enqueue("Work", "job")
        clock.advance(minutes=2)
        await anyio.sleep(0.3)
        assert "scheduler" not in (await app.health())["problems"]
        clock.advance(seconds=11)
        with anyio.fail_after(10):
            while "scheduler" not in (problems := (await app.health())["problems"]):
                await anyio.sleep(0.01)
        assert "1 jobs are overdue" in problems["scheduler"]
        for _ in range(7):
            clock.advance(seconds=11)
            await anyio.sleep(0.05)
        assert "scheduler" not in (await app.health())["problems"], "told once"
        await app.drain()


async def test_a_deferred_constraint_is_paid_for_by_its_own_unit(make_app: Callable[..., Aether], path: Path) -> None:
    """It breaks at the commit, which others share (docs/protocol.md, W1)."""
    ran = []
    app = make_app()

    @app.handler("Work")
    async def work(n: int) -> None:
        ran.append(n)

    async def innocent(n: int) -> None:
        await app.wait(await app.enqueue("Work", payload=n), 20)

    async def guilty() -> None:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO child VALUES (99)")

    async with app:
        with contextlib.closing(sqlite3.connect(path)) as conn, conn:
            conn.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            conn.execute("CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
        for _ in range(5):
            async with anyio.create_task_group() as group:
                for n in range(12):
                    group.start_soon(innocent, n)
                    group.start_soon(guilty)
    assert sorted(ran) == sorted([*range(12)] * 5)


async def test_what_the_schema_refuses_of_a_unit_is_a_failure_of_its_handler(app: Aether, path: Path) -> None:
    """No duplicate: the occurrence had not completed before (docs/protocol.md, W8)."""

    @app.handler("Order")
    async def order(uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO orders VALUES (1)")
        uow.run(lambda tx: tx.enqueue("Order", "another"))

    async with app:
        with contextlib.closing(sqlite3.connect(path)) as conn, conn:
            conn.execute("CREATE TABLE orders (one)")
            conn.execute(
                "CREATE TRIGGER quota BEFORE INSERT ON aether_jobs WHEN NEW.job_name = 'another' "
                "BEGIN SELECT RAISE(ABORT, 'the quota is used up'); END"
            )
        job = await app.wait(await app.enqueue("Order", "first"), 10)
        assert job.status is JobStatus.FAILED
        assert "the quota is used up" in (job.last_error or "")
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (0,)


class Moody:
    """A store whose trouble, at one hook, the test switches on."""

    def __init__(self, path: Path, hook: str) -> None:
        self._inner, self._hook = SQLiteStore(path), hook
        self.trouble = 0

    async def _asked(self, hook: str, *args: Any) -> Any:
        if hook == self._hook and self.trouble:
            self.trouble -= 1
            raise StoreBusy("the store", "is busy", "Wait.")
        return await getattr(self._inner, hook)(*args)

    @hookimpl
    async def store_transact(self, writes: Any) -> Any:
        return await self._asked("store_transact", writes)

    @hookimpl
    async def store_claim(self, claim: Any) -> Any:
        return await self._asked("store_claim", claim)

    @hookimpl
    async def store_heartbeat(self, beat: Any) -> Any:
        return await self._asked("store_heartbeat", beat)

    @hookimpl
    async def store_find(self, query: Any) -> Any:
        hook = "changed_after" if query.changed_after is not None else "store_find"
        return await self._asked(hook, query) if hook == "store_find" else await self._looked(query)

    async def _looked(self, query: Any) -> Any:
        if self._hook == "changed_after" and self.trouble:
            self.trouble -= 1
            raise StoreBusy("the store", "is busy", "Wait.")
        return await self._inner.store_find(query)

    @hookimpl
    async def store_history(self, job_id: Any, limit: int) -> Any:
        return await self._asked("store_history", job_id, limit)

    @hookimpl
    async def store_runs(self, query: Any) -> Any:
        return await self._asked("store_runs", query)

    @hookimpl
    async def store_failures(self, query: Any) -> Any:
        return await self._asked("store_failures", query)

    @hookimpl
    async def store_stats(self) -> Any:
        return await self._asked("store_stats")

    @hookimpl
    async def store_purge(self, purge: Any) -> Any:
        return await self._asked("store_purge", purge)

    @hookimpl
    async def lifecycle_start(self, kernel: Any, stack: Any) -> None:
        await self._inner.lifecycle_start(kernel, stack)


async def test_drain_says_that_it_could_not_claim(make_app: Callable[..., Aether], path: Path, step: Any) -> None:
    store = Moody(path, "store_claim")
    app = make_app(store, scheduler=step)
    app.handler("Work")(lambda: None)
    async with app:
        await app.enqueue("Work", "job")
        store.trouble = 1
        with pytest.raises(StoreBusy):
            await app.drain()
        await app.drain()
        assert (await app.wait("job")).status is JobStatus.COMPLETED


async def test_a_clock_put_back_is_not_forgotten_in_trouble(
    make_app: Callable[..., Aether], path: Path, clock: FakeClock, step: Any
) -> None:
    """docs/protocol.md, R4: a retry that was to come in five seconds comes in five seconds of the new time."""
    store = Moody(path, "changed_after")
    app = make_app(store, scheduler=step, clock=clock, timings=Timings(clocks=0.01))

    @app.handler("Fails", retries=1, backoff=Backoff(first=5, jitter=0))
    async def fails() -> None:
        raise ValueError

    async with app:
        id_ = await app.enqueue("Fails")
        await app.drain()
        store.trouble = 3
        clock.set(clock.now() - timedelta(days=1))
        with anyio.fail_after(20):
            while True:
                row = await app.store.get(id_)
                assert row is not None
                assert row.due_at is not None
                if row.due_at <= clock.now() + timedelta(seconds=6):
                    break
                await anyio.sleep(0.01)
        assert store.trouble == 0


async def test_a_due_job_that_waits_for_the_stop_causes_no_busy_loop(make_app: Callable[..., Aether]) -> None:
    app = make_app(concurrency=1, grace=2)
    begun = anyio.Event()

    @app.handler("Slow")
    async def slow() -> None:
        begun.set()
        await anyio.sleep(1)

    looks = 0
    async with app:
        kernel = app._running.kernel
        sleep = kernel.sleep_until

        async def counted(when: Any) -> None:
            nonlocal looks
            looks += 1
            await sleep(when)

        kernel.sleep_until = counted
        await app.enqueue("Slow")
        await begun.wait()
        await app.enqueue("Slow")
    assert looks < 50
