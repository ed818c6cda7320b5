"""Units of work: docs/protocol.md, W4 to W9, in handlers (async and in threads) and for callers."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import (
    Aether,
    DeniedSQL,
    InsideUnitOfWork,
    JobConflict,
    JobContext,
    JobStatus,
    NotStarted,
    StoreError,
    UnitOfWork,
    UnitOfWorkClosed,
    UnknownHandler,
    hookimpl,
)
from aether_bg.model import Enqueued, Event
from aether_bg.testing import FakeClock

pytestmark = pytest.mark.anyio


def rows(path: Path, sql: str = "SELECT * FROM orders ORDER BY 1") -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        return conn.execute(sql).fetchall()


@pytest.fixture
def shop(app: Aether, path: Path) -> Aether:
    """An app with `Work`, and a table of its own in the jobs' file."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
    app.handler("Work")(lambda: None)
    return app


async def test_a_caller_writes_and_enqueues_at_once(shop: Aether, path: Path) -> None:
    async with shop as app:
        async with app.unit_of_work() as uow:
            added = uow.execute("INSERT INTO orders (item) VALUES (?) RETURNING id", ["book"])
            uow.execute("INSERT INTO orders (item) VALUES (:item)", {"item": "pen"})
            count = uow.run(lambda tx: tx.execute("SELECT count(*) FROM orders")[0][0])
            job_id = await app.enqueue("Work", "job")
            with pytest.raises(NotStarted, match="after the commit"):
                _ = added.result
            assert rows(path) == [], "nothing is held while user code awaits"
            assert await app.store.find() == []
        assert added.result == [(1,)]
        assert count.result == 2
        assert rows(path) == [(1, "book"), (2, "pen")]
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED


class Undecided:
    """As an array of numpy: it is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


@pytest.mark.one_loop
async def test_a_function_may_return_anything(shop: Aether) -> None:
    async with shop as app, app.unit_of_work() as uow:
        made = uow.run(lambda tx: Undecided())
    assert isinstance(made.result, Undecided)


async def test_an_exception_in_the_block_drops_everything(shop: Aether, path: Path) -> None:
    async with shop as app:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO orders (item) VALUES ('book')")
                await app.enqueue("Work", "job")
                raise ZeroDivisionError
        assert rows(path) == []
        assert await app.store.find() == []
        await app.enqueue("Work", "job")


@pytest.mark.one_loop
@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("INSERT INTO nowhere VALUES (1)", sqlite3.OperationalError),
        ("INSERT INTO orders (item) VALUES (NULL)", sqlite3.IntegrityError),
        ("INSERT OR ROLLBACK INTO orders (item) VALUES (NULL)", sqlite3.IntegrityError),
        ("COMMIT", DeniedSQL), ("BEGIN", DeniedSQL), ("ROLLBACK", DeniedSQL), ("END", DeniedSQL),
        ("SAVEPOINT mine", DeniedSQL), ("RELEASE one", DeniedSQL), ("ROLLBACK TO one", DeniedSQL),
        ("PRAGMA synchronous = OFF", DeniedSQL), ("ATTACH ':memory:' AS other", DeniedSQL),
        ("DETACH main", DeniedSQL),
    ],
)  # fmt: skip
async def test_an_error_in_its_sql_undoes_this_unit_only(
    shop: Aether, path: Path, sql: str, error: type[Exception]
) -> None:
    async with shop as app:

        async def others(item: str) -> None:
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO orders (item) VALUES (?)", [item])

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(others, f"other {number}")
            with pytest.raises(error):  # noqa: PT012
                async with app.unit_of_work() as uow:
                    uow.execute("INSERT INTO orders (item) VALUES ('book')")
                    await app.enqueue("Work", "job")
                    uow.execute(sql)
        assert sorted(item for _, item in rows(path)) == [f"other {number}" for number in range(5)]
        assert await app.store.find() == []


@pytest.mark.one_loop
async def test_denied_sql_names_statement_and_reason(shop: Aether) -> None:
    async with shop as app:
        with pytest.raises(DeniedSQL, match=r"PRAGMA in a unit of work.*one transaction.*Leave it out"):
            async with app.unit_of_work() as uow:
                uow.run(lambda tx: tx.execute("PRAGMA user_version = 5"))


@pytest.mark.one_loop
async def test_slow_sql_is_interrupted(shop: Aether, path: Path) -> None:
    """docs/protocol.md, W7."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    async with shop as app:
        with pytest.raises((sqlite3.OperationalError, StoreError)):  # noqa: PT012
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO orders (item) VALUES ('book')")
                uow.execute(endless)
        assert rows(path) == []
        async with app.unit_of_work() as uow:
            uow.execute("INSERT INTO orders (item) VALUES ('pen')")
        assert rows(path) == [(1, "pen")]


async def test_nested_blocks_join_the_outer_one(shop: Aether, path: Path) -> None:
    async with shop as app:
        async with app.unit_of_work() as outer:
            async with app.unit_of_work() as inner:
                assert inner is outer
                inner.execute("INSERT INTO orders (item) VALUES ('book')")
            assert rows(path) == []
            await app.enqueue("Work", "job")
        assert len(rows(path)) == 1


async def test_only_enqueue_can_join(shop: Aether) -> None:
    async with shop as app:
        job = await app.enqueue("Work", "job", schedule=timedelta(hours=1))
        calls: dict[str, Callable[[], Any]] = {
            "update": lambda: app.update(job, "@daily"), "delete": lambda: app.delete(job),
            "trigger": lambda: app.trigger(job), "pause": lambda: app.pause(job), "resume": lambda: app.resume(job),
            "retry": lambda: app.retry(job), "wait": lambda: app.wait(job), "drain": app.drain,
        }  # fmt: skip
        async with app.unit_of_work():
            for verb, call in calls.items():
                with pytest.raises(InsideUnitOfWork, match=f"{verb} inside.*before or after the block"):
                    await call()
            assert (await app.store.get(job)) is not None, "reading is free"


async def test_a_closed_unit_raises(shop: Aether) -> None:
    async with shop as app:
        async with app.unit_of_work() as uow:
            pass
        with pytest.raises(UnitOfWorkClosed, match=r"has ended.*another"):
            uow.execute("SELECT 1")
        with pytest.raises(UnitOfWorkClosed):
            uow.run(lambda tx: None)


@pytest.mark.one_loop
async def test_names_are_looked_up_at_the_call_and_checked_at_the_commit(shop: Aether, path: Path) -> None:
    """docs/protocol.md, W6."""
    async with shop as app:
        held = await app.enqueue("Work", "held", schedule=timedelta(hours=1))
        async with app.unit_of_work() as uow:
            assert await app.enqueue("Work", "held", schedule=timedelta(hours=1)) == held
            with pytest.raises(JobConflict, match="differs in schedule"):
                await app.enqueue("Work", "held", schedule=timedelta(hours=2))
            uow.execute("INSERT INTO orders (item) VALUES ('book')")
        assert len(rows(path)) == 1
        with pytest.raises(JobConflict, match="taken") as caught:  # noqa: PT012
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO orders (item) VALUES ('pen')")
                await app.enqueue("Work", "taken")
                async with app.client() as other:
                    taken = await _outside(other, "taken")
        assert caught.value.existing is not None
        assert caught.value.existing.id == taken
        assert len(rows(path)) == 1, "the whole unit was rolled back"


async def _outside(jobs: Any, name: str) -> Any:
    """Enqueue without joining the unit around it."""
    import contextvars

    ids: list[Any] = []

    async def enqueue() -> None:
        ids.append(await jobs.enqueue("Work", name, schedule=timedelta(hours=1)))

    async with anyio.create_task_group() as group:
        contextvars.Context().run(group.start_soon, enqueue)
    return ids[0]


@pytest.mark.one_loop
async def test_bad_input_inside_a_unit_raises_at_the_call(shop: Aether) -> None:
    async with shop as app:
        async with app.unit_of_work():
            with pytest.raises(UnknownHandler):
                await app.enqueue("Wrok")
        assert await app.store.find() == []


@pytest.mark.one_loop
async def test_enqueue_within_the_transaction(shop: Aether, path: Path) -> None:
    async with shop as app:
        async with app.unit_of_work() as uow:
            made = uow.run(lambda tx: [tx.enqueue("Work", f"job-{number}") for number in range(3)])
            again = uow.run(lambda tx: tx.enqueue("Work", "job-0"))
        assert again.result == made.result[0]
        for job in made.result:
            assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
        with pytest.raises(JobConflict, match="differs in schedule"):  # noqa: PT012
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO orders (item) VALUES ('book')")
                uow.run(lambda tx: tx.enqueue("Work", "job-0", schedule="@daily"))
        assert rows(path) == []


# -- in handlers -----------------------------------------------------------------------------------


async def test_a_handlers_rows_and_its_completion_are_one(shop: Aether, path: Path, anyio_backend: str) -> None:
    during: list[Any] = []

    @shop.handler("Async")
    async def one(args: str, uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO orders (item) VALUES (?)", [args])
        await shop.enqueue("Work", f"after {args}")
        during.append(rows(path))

    @shop.handler("Sync")
    def two(args: str, uow: UnitOfWork) -> None:
        assert threading.current_thread() is not threading.main_thread()
        uow.execute("INSERT INTO orders (item) VALUES (?)", [args])
        uow.run(lambda tx: tx.enqueue("Work", f"after {args}"))
        during.append(rows(path))

    async with shop as app:
        for handler, item in (("Async", "a"), ("Sync", "b")):
            job = await app.wait(await app.enqueue(handler, payload=item), 10)
            assert job.status is JobStatus.COMPLETED, job.last_error
            assert (await app.wait(f"after {item}", 10)).status is JobStatus.COMPLETED
    assert during == [[], [(1, "a")]]
    assert rows(path) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("kind", ["raise", "snooze", "sql", "call"])
@pytest.mark.one_loop
async def test_an_attempt_that_fails_leaves_nothing(
    make_app: Callable[..., Aether], path: Path, clock: FakeClock, step: Any, kind: str
) -> None:
    from aether_bg import Snooze

    app = make_app(clock=clock, scheduler=step)
    app.handler("Work")(lambda: None)

    @app.handler("Buy", retries=1)
    async def buy(uow: UnitOfWork, ctx: JobContext) -> None:
        uow.execute("INSERT INTO orders (item) VALUES ('book')")
        await app.enqueue("Work", "job")
        if ctx.attempt == 2:
            return
        match kind:
            case "raise":
                raise ValueError
            case "snooze":
                raise Snooze(timedelta(seconds=1))
            case "sql":
                uow.execute("INSERT INTO orders VALUES ('wrong', 'wrong', 'wrong')")
            case "call":
                uow.run(lambda tx: 1 / 0)

    async with app:
        async with app.unit_of_work() as uow:
            uow.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        job_id = await app.enqueue("Buy")
        await app.drain()
        waiting = await app.store.get(job_id)
        assert waiting is not None
        assert waiting.status is JobStatus.SCHEDULED
        assert (rows(path), await app.store.get_by_job_name("job")) == ([], None)
        if kind in ("sql", "call"):  # an error in the unit is a failure of the handler (docs/protocol.md, W8)
            assert waiting.retry_count == 1
        clock.advance(seconds=5)
        await app.drain()
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
        assert (await app.wait("job", 10)).status is JobStatus.COMPLETED
    assert rows(path) == [(1, "book")]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_revoked_attempts_work_is_rolled_back(
    shop: Aether, make_app: Callable[..., Aether], path: Path, elsewhere: bool
) -> None:
    """docs/protocol.md, U2, C1: the outcome of a deleted job is refused, and its unit of work with it. If another
    process deleted it, this one does not know yet, and the store refuses."""
    other = make_app()
    begun, go, went = anyio.Event(), anyio.Event(), anyio.Event()

    @shop.handler("Buy")
    async def buy(uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO orders (item) VALUES ('book')")
        begun.set()
        with anyio.CancelScope(shield=True):
            await go.wait()
        went.set()

    async with shop as app, other:
        job_id = await app.enqueue("Buy")
        with anyio.fail_after(10):
            await begun.wait()
            assert await (other if elsewhere else app).delete(job_id)
            go.set()
            await went.wait()
        await app.drain()
        assert (await app.wait(job_id, 10)).status is JobStatus.CANCELLED
        assert [str(run.outcome) for run in await app.store.history(job_id)] == ["cancelled"]
    assert rows(path) == []


async def test_other_handlers_do_not_join(shop: Aether) -> None:
    """Only a handler that takes a UnitOfWork runs inside one (docs/protocol.md, W6)."""

    @shop.handler("Plain")
    async def plain() -> None:
        await shop.enqueue("Work", "at once")
        assert await shop.store.get_by_job_name("at once") is not None
        raise ValueError

    async with shop as app:
        assert (await app.wait(await app.enqueue("Plain"), 10)).status is JobStatus.FAILED
        assert (await app.wait("at once", 10)).status is JobStatus.COMPLETED


async def test_work_enqueued_by_a_handlers_unit_runs_at_once(shop: Aether, anyio_backend: str) -> None:
    """The timer is woken at once by an enqueue of its own process, not after its next look at the clock."""
    told: list[str] = []

    @shop.handler("First")
    async def first(uow: UnitOfWork) -> None:
        await shop.enqueue("Second", "second")

    second = anyio.Event()

    @shop.handler("Second")
    async def run_second() -> None:
        told.append("second")
        second.set()

    async with shop as app:
        await app.wait(await app.enqueue("Work"), 10)
        begun = anyio.current_time()
        for _ in range(5):
            await app.enqueue("First")
            with anyio.fail_after(10):
                await second.wait()
            await app.wait("second", 10)
            await app.store.purge()
            second = anyio.Event()
        assert anyio.current_time() - begun < 4, "five looks at the clock would take five seconds"


async def test_observers_see_jobs_that_a_function_of_the_unit_enqueues(make_app: Callable[..., Aether]) -> None:
    """Once each, and after the commit: not of those of a unit that is undone."""

    class Observer:
        names: list[str]

        def __init__(self) -> None:
            self.names = []

        @hookimpl
        async def lifecycle_event(self, event: Event) -> None:
            if isinstance(event, Enqueued):
                self.names.append(event.job.job_name)

    observer = Observer()
    app = make_app(plugins=[observer])
    app.handler("Work")(lambda: None)

    def two(tx: Any) -> None:
        tx.enqueue("Work", "b")
        tx.enqueue("Work", "c")

    async with app:
        async with app.unit_of_work() as uow:
            await app.enqueue("Work", "a")
            uow.run(two)
        with contextlib.suppress(ZeroDivisionError):
            async with app.unit_of_work() as uow:
                uow.run(lambda tx: (tx.enqueue("Work", "d"), 1 / 0))
        for name in "abc":
            assert (await app.wait(name, timeout=5)).status is JobStatus.COMPLETED
    assert observer.names == ["a", "b", "c"]
