"""Lost answers: whatever the network does, a write happens once, and its caller gets the true answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import anyio
import psycopg
import pytest
from proxy import HOST, Proxy
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aether_bg import Aether, ForkedProcess, JobStatus, PostgresStore, RunOutcome, UnitOfWork, UnitOfWorkTimeout
from aether_bg.errors import DeniedSQL, StoreContended
from aether_bg.model import Insert, Query, Update
from aether_bg.testing.contracts.opening import hooks_of
from aether_bg.testing.contracts.values import a_job, change

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
LOST = ("message", "answer")


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    proxy = Proxy(int(conninfo_to_dict(url)["port"]))  # type: ignore[arg-type]
    yield proxy
    proxy.close()


@pytest.fixture
def store(url: str, proxy: Proxy) -> PostgresStore:
    """By way of the proxy."""
    return PostgresStore(make_conninfo(url, host=HOST, port=proxy.port))


def app_on(store: Any) -> Aether:
    app = Aether(store, scheduler="timer", grace=1)

    @app.handler("Work")
    async def work(payload: str) -> None: ...

    @app.handler("Unit")
    async def unit(payload: str, uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO effects VALUES (%s)", [payload])

    return app


async def both(app: Aether, *statements: str) -> None:
    async with app.unit_of_work() as unit:
        for sql in statements:
            unit.execute(sql)


@pytest.mark.parametrize("how", LOST)
async def test_an_enqueue(store: PostgresStore, proxy: Proxy, how: Any) -> None:
    async with app_on(store) as app:
        await app.pause(handler="Work")
        proxy.cut(how, b"marked")
        job = await app.enqueue("Work", "once", "marked")
        assert proxy.cuts == 1
        assert [row.id for row in await app.store.find(Query(handler_name="Work"))] == [job]


@pytest.mark.parametrize("how", LOST)
async def test_a_change(store: PostgresStore, proxy: Proxy, how: Any) -> None:
    async with app_on(store) as app:
        job = await app.enqueue("Work", "later", "x", "@yearly")
        proxy.cut(how, b"30 2 * * 1")
        await app.update(job, "30 2 * * 1")
        assert proxy.cuts == 1
        row = await app.store.get(job)
        assert row is not None
        assert (row.expression_value, row.schedule_rev) == ("30 2 * * 1", 1)


@pytest.mark.parametrize("how", LOST)
async def test_a_unit_of_work(store: PostgresStore, proxy: Proxy, url: str, how: Any) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE effects (name text)")
        async with app_on(store) as app:
            proxy.cut(how, b"COMMIT")
            job = await app.enqueue("Unit", payload="one")
            assert (await app.wait(job, timeout=20)).status is JobStatus.COMPLETED
            assert proxy.cuts == 1
            assert conn.execute("SELECT count(*) FROM effects").fetchone() == (1,)
            assert [run.outcome for run in await app.store.history(job)] == [RunOutcome.COMPLETED]


async def test_a_stopped_server_process(store: PostgresStore, url: str) -> None:
    """The caller is answered at its deadline, and what was written late does not count twice."""
    store = PostgresStore(url, busy=0.7)
    async with app_on(store) as app:
        await app.pause(handler="Work")
        await app.enqueue("Work", "first", "x")
        with psycopg.connect(url, autocommit=True) as conn:
            sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'aether_bg' AND query LIKE '%INSERT INTO%'"
            pids = [pid for (pid,) in conn.execute(sql)]
            assert pids
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                await app.enqueue("Work", "second", "x")
                assert time.monotonic() - began < 10
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            await anyio.sleep(0.3)
            names = [row.job_name for row in await app.store.find(Query(handler_name="Work"))]
            assert names == ["first", "second"]


async def test_a_row_that_a_stranger_holds(url: str) -> None:
    """Of a batch, the others are written."""
    store = PostgresStore(url)
    hook = hooks_of(store)
    async with app_on(store).client() as client:
        jobs = [a_job() for _ in range(3)]
        await hook.store_transact(writes=[Insert(job) for job in jobs])
        with psycopg.connect(url) as conn:
            conn.execute("SELECT FROM aether_bg.jobs WHERE id = %s FOR UPDATE", [jobs[1].id])
            with pytest.raises(StoreContended):
                await hook.store_transact(writes=[Update(change(job)) for job in jobs])
            await hook.store_transact(writes=[Update(change(jobs[0]))])
        del client


async def test_units_with_forbidden_statements(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE effects (name text)")
    async with app_on(PostgresStore(url, unit_timeout=2)) as app:
        for sql in (
            "COMMIT",
            " /* a */ -- b\nrollback",
            "Begin",
            ";SAVEPOINT x",
            "SET ROLE nobody",
            "prepare transaction 'x'",
        ):
            with pytest.raises(DeniedSQL):
                async with app.unit_of_work() as unit:
                    unit.execute(sql)
        for sql in ("SELECT 1; COMMIT", "SELEC 1", "INSERT INTO nowhere VALUES (1)"):
            with pytest.raises(psycopg.Error):
                await both(app, "INSERT INTO effects VALUES ('x')", sql)
        with pytest.raises(UnitOfWorkTimeout):
            async with app.unit_of_work() as unit:
                unit.execute("SELECT pg_sleep(3)")
        with pytest.raises(UnitOfWorkTimeout):
            async with app.unit_of_work() as unit:
                unit.run(lambda tx: [tx.execute("SELECT pg_sleep(0.8)") for _ in range(5)])
        async with app.unit_of_work() as unit:
            rows = unit.execute("SELECT count(*) FROM effects")
            percent = unit.execute("SELECT 'a' LIKE '%a'")
        assert rows.result == [(0,)]
        assert percent.result == [(True,)]
        assert (await app.wait(await app.enqueue("Work", payload="x"), timeout=10)).status is JobStatus.COMPLETED


async def test_a_fork_leaves_the_parent_alone(url: str) -> None:
    store = PostgresStore(url)
    async with app_on(store) as app:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store._open()
            except ForkedProcess:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        with psycopg.connect(url) as conn:
            locks = conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert locks == (1,)
        assert (await app.wait(await app.enqueue("Work", payload="x"), timeout=10)).status is JobStatus.COMPLETED


async def test_many_starts_leave_nothing_behind(url: str) -> None:
    for _ in range(10):
        async with app_on(url):
            pass
    with psycopg.connect(url) as conn:
        deadline = time.monotonic() + 5
        left = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'aether_bg' AND datname = current_database()"
        )
        while conn.execute(left).fetchone() != (0,) and time.monotonic() < deadline:
            await anyio.sleep(0.1)
        assert conn.execute(left).fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM aether_bg.owners").fetchone() == (0,)
