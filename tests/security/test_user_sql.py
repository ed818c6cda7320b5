"""The SQL and the functions of a unit of work: they stay inside, away from our tables, and short."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import (
    Aether,
    DeniedSQL,
    InvalidOption,
    JobStatus,
    SQLiteStore,
    StoreBusy,
    StoreError,
    UnitOfWork,
    UnitOfWorkClosed,
    UnitOfWorkTimeout,
)

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

Make = Callable[..., Aether]

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
COUNT = f"{ENDLESS} SELECT count(*) FROM n"


@pytest.fixture
def made(make_app: Make, path: Path) -> Make:
    def make(**options: Any) -> Aether:
        app = make_app(SQLiteStore(path, **options))
        app.handler("Ok")(lambda args: None)
        return app

    return make


TEMPORARY = [
    "CREATE TEMP TABLE aether_jobs (id)", "CREATE TEMP TABLE mine (id)", "CREATE TABLE temp.aether_jobs (id)",
    "CREATE TEMP VIEW aether_jobs AS SELECT 1", "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE TEMP TRIGGER t BEFORE INSERT ON main.aether_jobs BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TEMP TRIGGER t AFTER INSERT ON theirs BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.mine USING fts5(a)",
]  # fmt: skip
OURS = [
    "CREATE TRIGGER t BEFORE INSERT ON aether_jobs BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER t AFTER INSERT ON aether_jobs BEGIN DELETE FROM aether_jobs; END",
    "CREATE TRIGGER t AFTER INSERT ON AETHER_RUNS BEGIN SELECT 1; END",
    "CREATE INDEX i ON aether_jobs (payload)", "DROP INDEX aether_jobs_ready", "DROP TABLE aether_owners",
    "ALTER TABLE aether_jobs ADD COLUMN x", "ALTER TABLE theirs RENAME TO aether_more",
    "ALTER TABLE theirs RENAME TO Aether_Jobs_2", "ALTER TABLE aether_runs RENAME TO runs",
    "DELETE FROM aether_jobs", "UPDATE main.aether_jobs SET status = 2", "INSERT INTO aether_meta VALUES ('a', 'b')",
    "REPLACE INTO aether_meta VALUES ('store_id', 'x')",
]  # fmt: skip


@pytest.mark.parametrize("statements", [TEMPORARY, OURS], ids=["temporary", "ours"])
async def test_nothing_can_be_put_before_or_into_our_tables(made: Make, statements: list[str]) -> None:
    app = made()
    async with app:
        async with app.unit_of_work() as uow:
            uow.execute("CREATE TABLE theirs (id)")
        for sql in statements:
            with pytest.raises(DeniedSQL):
                async with app.unit_of_work() as uow:
                    uow.execute(sql)
            with pytest.raises(DeniedSQL):
                async with app.unit_of_work() as uow:
                    uow.run(lambda tx, sql=sql: tx.execute(sql))
            job = await app.wait(await app.enqueue("Ok", payload=1), 10)
            assert job.status is JobStatus.COMPLETED, sql


async def test_a_table_of_theirs_can_be_altered(made: Make) -> None:
    async with made() as app, app.unit_of_work() as uow:
        for sql in ("CREATE TABLE theirs (id)", "ALTER TABLE theirs RENAME TO more", "ALTER TABLE more ADD COLUMN x",
                    "ALTER TABLE more RENAME COLUMN x TO aether_x",
                    "ALTER TABLE more DROP COLUMN aether_x"):  # fmt: skip
            uow.execute(sql)


async def test_a_trigger_of_theirs_cannot_touch_ours(made: Make) -> None:
    app = made()
    async with app:
        await app.enqueue("Ok", "later", 1, "@daily")
        with pytest.raises(DeniedSQL):  # noqa: PT012
            async with app.unit_of_work() as uow:
                uow.execute("CREATE TABLE theirs (id)")
                uow.execute("CREATE TRIGGER t AFTER INSERT ON theirs BEGIN DELETE FROM aether_jobs; END")
                uow.execute("INSERT INTO theirs VALUES (1)")
        assert await app.store.get_by_job_name("later") is not None


@pytest.mark.parametrize("body", ["SELECT RAISE(IGNORE)", "DELETE FROM aether_jobs WHERE id = new.id"])
@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
async def test_a_trigger_made_elsewhere_while_we_run_loses_no_job_in_silence(
    made: Make, path: Path, when: str, body: str
) -> None:
    app = made()
    async with app:
        await app.enqueue("Ok", "first", 1, "@daily")
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.execute(f"CREATE TRIGGER t {when} INSERT ON aether_jobs BEGIN {body}; END")
        try:
            job_id = await app.enqueue("Ok", "second", 1, "@daily")
        except StoreError:
            assert await app.store.get_by_job_name("second") is None
        else:
            assert await app.store.get(job_id) is not None
        await app.pause("first")  # another transaction, while the trigger is still there
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.execute("DROP TRIGGER t")
        await app.enqueue("Ok", "third", 1, "@daily")


def sleeps(tx: Any) -> None:
    time.sleep(0.8)


def several(tx: Any) -> None:
    while True:
        tx.execute(f"{ENDLESS} SELECT count(*) FROM (SELECT i FROM n LIMIT 100000)")


def catches(tx: Any) -> None:
    for _ in range(20):
        try:
            tx.execute(COUNT)
        except Exception:
            time.sleep(0.05)


LONG: dict[str, Callable[[UnitOfWork], object]] = {
    "a function that sleeps": lambda uow: uow.run(sleeps),
    "one statement": lambda uow: uow.execute(COUNT),
    "many short statements": lambda uow: uow.run(several),
    "a function that goes on after an interrupt": lambda uow: uow.run(catches),
    "several statements": lambda uow: [
        uow.execute(f"{ENDLESS} SELECT count(*) FROM (SELECT i FROM n LIMIT 2000000)") for _ in range(30)
    ],
}


@pytest.mark.parametrize("kind", LONG)
async def test_a_unit_that_takes_too_long_is_undone_and_named(made: Make, kind: str) -> None:
    app = made(unit_timeout=0.3)
    async with app:
        async with app.unit_of_work() as uow:
            uow.execute("CREATE TABLE theirs (id)")
        began = time.monotonic()
        with pytest.raises(UnitOfWorkTimeout) as caught:  # noqa: PT012
            async with app.unit_of_work() as uow:
                uow.execute("INSERT INTO theirs VALUES (1)")
                LONG[kind](uow)
        assert time.monotonic() - began < 10
        health = await app.health()
        assert "unit of work" in health["problems"]
        assert "INSERT INTO theirs" in str(caught.value)
        with anyio.fail_after(10):
            while True:
                try:
                    async with app.unit_of_work() as uow:
                        rows = uow.execute("SELECT count(*) FROM theirs")
                    break
                except StoreBusy:
                    await anyio.sleep(0.05)
        assert rows.result == [(0,)]
        assert (await app.wait(await app.enqueue("Ok", payload=1), 10)).status is JobStatus.COMPLETED


async def test_a_handler_whose_unit_takes_too_long_fails(made: Make) -> None:
    app = made(unit_timeout=0.3)

    @app.handler("Slow")
    async def slow(uow: UnitOfWork) -> None:
        uow.run(sleeps)

    async with app:
        job = await app.wait(await app.enqueue("Slow"), 20)
        assert job.status is JobStatus.FAILED
        assert job.last_error is not None
        assert "UnitOfWorkTimeout" in job.last_error
        assert "sleeps" in job.last_error


async def test_a_stop_never_waits_for_a_stuck_connection(made: Make, path: Path) -> None:
    release = threading.Event()

    def stuck(tx: Any) -> None:
        release.wait(60)

    app = made(unit_timeout=0.3)
    try:
        async with app:
            with pytest.raises(UnitOfWorkTimeout, match="stuck"):
                async with app.unit_of_work() as uow:
                    uow.run(stuck)
            with pytest.raises(StoreBusy, match="stuck"):
                await app.enqueue("Ok", payload=1)
            assert "stuck" in str((await app.health())["problems"])
            began = time.monotonic()
        assert time.monotonic() - began < 5
    finally:
        release.set()
    await anyio.sleep(0.3)


async def test_what_waits_behind_a_stuck_unit_or_shares_its_commit_is_given_up(made: Make) -> None:
    release, seen = threading.Event(), dict[str, BaseException | None]()
    app = made(unit_timeout=1.5)

    async def attempt(name: str, act: Callable[[], Any]) -> None:
        try:
            seen[name] = None
            await act()
        except (StoreBusy, UnitOfWorkTimeout) as error:
            seen[name] = error

    async def unit(fn: Callable[[Any], object]) -> None:
        async with app.unit_of_work() as uow:
            uow.run(fn)

    try:
        async with app:
            async with anyio.create_task_group() as group:
                group.start_soon(attempt, "first", partial(unit, lambda tx: time.sleep(0.5)))
                await anyio.sleep(0.2)  # what follows goes into one batch
                group.start_soon(attempt, "before", partial(app.enqueue, "Ok", "before", 1, "@daily"))
                await anyio.sleep(0.05)
                group.start_soon(attempt, "stuck", partial(unit, lambda tx: release.wait(60)))
                await anyio.sleep(0.05)
                group.start_soon(attempt, "after", partial(app.enqueue, "Ok", "after", 1, "@daily"))
            assert seen["first"] is None
            assert isinstance(seen["stuck"], UnitOfWorkTimeout)
            for name in ("before", "after"):
                assert isinstance(seen[name], StoreBusy)
                assert "unit of work" in str(seen[name])
            await anyio.sleep(1.2)  # the scheduler has tried to claim
            began = time.monotonic()
        assert time.monotonic() - began < 5
    finally:
        release.set()
    await anyio.sleep(0.5)
    async with made() as again:
        assert await again.store.find() == []  # refused means: not stored later either


async def test_a_slow_trigger_inside_our_own_statement_is_interrupted(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("guard", "operations", "session", "transactions"):
        monkeypatch.setattr(f"aether_bg.plugins.sqlite.{module}.OWN", 0.5)
    app = made()
    async with app:
        async with app.unit_of_work() as uow:
            uow.execute("CREATE TABLE theirs (job TEXT REFERENCES aether_jobs (id) ON DELETE CASCADE)")
            endless = f"INSERT INTO theirs SELECT count(*) FROM ({ENDLESS} SELECT i FROM n)"
            uow.execute(f"CREATE TRIGGER slow AFTER DELETE ON theirs BEGIN {endless}; END")
        job = await app.wait(await app.enqueue("Ok", payload=1), 10)
        async with app.unit_of_work() as uow:
            uow.execute("INSERT INTO theirs VALUES (?)", [str(job.id)])
        began = time.monotonic()
        with pytest.raises(StoreBusy, match="trigger"):
            await app.store.purge()
        assert time.monotonic() - began < 10
        assert (await app.wait(await app.enqueue("Ok", payload=1), 10)).status is JobStatus.COMPLETED
        async with app.unit_of_work() as uow:
            uow.execute("DROP TRIGGER slow")
        assert await app.store.purge() == 2


async def test_one_instruction_on_enormous_values_is_refused(made: Make) -> None:
    app = made()
    async with app:
        for sql in ("SELECT instr(zeroblob(900000000), x'01')", "SELECT length(hex(zeroblob(500000000)))",
                    "SELECT replace(zeroblob(20000000), x'00', 'aaaa')", "SELECT randomblob(100000000)",
                    f"SELECT 'a' LIKE '{'%a' * 5000}'"):  # fmt: skip
            began = time.monotonic()
            with pytest.raises((sqlite3.Error, DeniedSQL)):
                async with app.unit_of_work() as uow:
                    uow.execute(sql)
            assert time.monotonic() - began < 5
        await app.enqueue("Ok", "large", "x" * 200_000, "@daily")


async def test_results_and_statements_are_bounded(made: Make) -> None:
    app = made(unit_timeout=30)  # a busy machine needs a while for so much
    async with app:
        for sql in (f"{ENDLESS} SELECT i FROM n LIMIT 300000", "SELECT 1 -- " + "x" * 2_000_000, 5,
                    f"{ENDLESS} SELECT zeroblob(1000000) FROM n LIMIT 200"):  # fmt: skip
            with pytest.raises(DeniedSQL) as caught:
                async with app.unit_of_work() as uow:
                    uow.execute(sql)  # type: ignore[arg-type]
            assert len(str(caught.value)) < 1000


async def test_a_statement_inside_a_statement_is_refused(made: Make) -> None:
    app = made()

    def nested(tx: Any) -> None:
        class Hostile:
            def __conform__(self, protocol: object) -> object:
                tx.execute("SELECT 1")
                return 1

        tx.execute("SELECT ?", [Hostile()])

    async with app:
        with pytest.raises((DeniedSQL, sqlite3.Error)):
            async with app.unit_of_work() as uow:
                uow.run(nested)


async def test_the_transaction_ends_with_its_call_and_stays_on_its_thread(made: Make) -> None:
    app, kept, seen = made(), list[Any](), list[BaseException]()

    def keep(tx: Any) -> None:
        kept.append(tx)

    def elsewhere(tx: Any) -> None:
        def other() -> None:
            for use in (partial(tx.execute, "SELECT 1"), partial(tx.enqueue, "Ok", payload=1, schedule="@daily")):
                try:
                    use()
                except UnitOfWorkClosed as error:
                    seen.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    async with app:
        async with app.unit_of_work() as uow:
            uow.run(keep)
            uow.run(elsewhere)
        assert len(seen) == 2
        for use in (partial(kept[0].execute, "SELECT 1"), partial(kept[0].enqueue, "Ok", payload=1)):
            with pytest.raises(UnitOfWorkClosed):
                use()
        with pytest.raises(UnitOfWorkClosed):
            async with app.unit_of_work() as uow:
                uow.run(lambda tx: kept[0].execute("SELECT 1"))
        assert await app.store.find() == []


async def later(tx: Any) -> None: ...


def generator(tx: Any) -> Any:
    yield tx.execute("SELECT 1")


class Awaits:
    async def __call__(self, tx: Any) -> None: ...


async def test_only_a_plain_function_can_run_in_a_transaction(made: Make) -> None:
    app = made()
    async with app:
        for fn in (later, generator, Awaits(), partial(later), 5, None, "SELECT 1"):
            with pytest.raises(InvalidOption, match="plain"):
                async with app.unit_of_work() as uow:
                    uow.run(fn)  # type: ignore[arg-type]


async def test_what_returns_an_awaitable_is_undone(made: Make) -> None:
    app = made()
    async with app:
        with pytest.raises(InvalidOption, match="not something to await"):  # noqa: PT012
            async with app.unit_of_work() as uow:
                await app.enqueue("Ok", "never", 1, "@daily")
                uow.run(lambda tx: later(tx))
        assert await app.store.find() == []


@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan"), float("inf"), None])
def test_a_bound_is_a_number_of_seconds(value: Any, path: Path) -> None:
    with pytest.raises(InvalidOption, match="unit_timeout"):
        SQLiteStore(path, unit_timeout=value)
