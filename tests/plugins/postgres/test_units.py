"""A unit of work whose answer is lost in a crash of the server (docs/protocol.md, P13)."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from aether_bg import Aether, PostgresStore
from aether_bg.model import Call, Insert, Transaction, Update, Write
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.schema import Schema
from aether_bg.plugins.postgres.units import Unit
from aether_bg.testing.contracts.values import a_job, change
from aether_bg.testing.postgres import PostgresCluster, postgres_fixture

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture
def own() -> Iterator[PostgresCluster]:
    yield from postgres_fixture()


@pytest.mark.parametrize("guarded", [False, True])
async def test_transaction_number_used_again_after_a_crash_proves_nothing(own: PostgresCluster, guarded: bool) -> None:
    schema, job = Schema("aether_bg"), a_job("once")

    def crash(tx: Transaction) -> None:
        own.server.kill()
        tx.execute("SELECT 1")

    outcome: list[Write] = [Update(change(job))] if guarded else []
    unit = Unit(schema, [*outcome, Call(crash, "crash")], 5, "the test's server")
    with own.database() as url:
        await PostgresStore(url).migrate()
        with Connection.connect(url, autocommit=True) as conn:
            Unit(schema, [Insert(job), Call(lambda tx: None, "nothing")], 5, "the test's server").run(conn)
        with Connection.connect(url, autocommit=True) as conn, pytest.raises(psycopg.OperationalError):
            unit.run(conn)
        own.server.start()
        with Connection.connect(url, autocommit=True) as conn:
            for _ in range(100):  # numbers that left no record are given out again
                (number,) = conn.execute("SELECT pg_current_xact_id()::text").fetchone() or ("0",)
                if int(number) >= int(unit._number or 0):
                    break
            assert conn.execute("SELECT pg_xact_status(%s::text::xid8)", [unit._number]).fetchone() == ("committed",)
            assert unit.settle(conn) is None


async def test_others_are_told_of_jobs_whatever_a_function_returns(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told, store, known = list[None](), PostgresStore(url), a_job("known")

    async with Aether(store, scheduler="timer").client():
        monkeypatch.setattr(store._open().session, "notify", lambda: told.append(None))
        assert list(await store.store_transact([])) == []
        assert told == []
        results = await store.store_transact([Call(lambda tx: known, "read"), Insert(a_job("new"))])
        assert results[0] == known
    assert told == [None]
