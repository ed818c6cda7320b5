"""What a busy process and a busy server have around a store: many open files, transactions that stay open."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator

import anyio
import psycopg
import pytest

from aether_bg import Aether, JobContext, JobStatus
from aether_bg.model import Runs

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
MADE = "SELECT count(*) FROM pg_class WHERE relname = 'runs_ended'"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Descriptors of the connections are above 1024, where `select` fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1500:
        pytest.skip("this user may not open as many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for file in opened:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_process_with_many_open_files(url: str, many_files: None) -> None:
    app = Aether(url, scheduler="timer", lease=3)
    app.handler("Work")(lambda: None)
    async with app:
        assert (await app.wait(await app.enqueue("Work"), 20)).status is JobStatus.COMPLETED
        with psycopg.connect(url, autocommit=True) as conn:
            deadline = time.monotonic() + 20
            while conn.execute("SELECT beat FROM aether_bg.owners").fetchone() == (0,):
                assert time.monotonic() < deadline, "no beat is renewed"
                await anyio.sleep(0.1)


def hold_snapshot(conn: psycopg.Connection) -> None:
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT count(*) FROM aether_bg.runs")


async def test_an_index_that_cannot_be_made_now_is_made_later(url: str) -> None:
    """A transaction that stays open keeps it from being made."""
    app = Aether(url, scheduler="timer")
    store = app.plugins.owners("persistence")[0]
    async with app.client():
        with psycopg.connect(url) as reader, psycopg.connect(url, autocommit=True) as conn:
            hold_snapshot(reader)
            assert await store.store_runs(Runs()) == []
            assert conn.execute(INVALID).fetchone() != (0,)
            reader.rollback()
    async with app.client():
        assert await store.store_runs(Runs()) == []
    with psycopg.connect(url) as conn:
        assert (conn.execute(INVALID).fetchone(), conn.execute(MADE).fetchone()) == ((0,), (1,))


async def test_an_index_that_a_crash_has_left_half_made(url: str) -> None:
    app = Aether(url, scheduler="timer")
    store = app.plugins.owners("persistence")[0]
    async with app.client():
        pass
    with psycopg.connect(url, autocommit=True) as conn, psycopg.connect(url) as reader:
        hold_snapshot(reader)
        conn.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            conn.execute("CREATE INDEX CONCURRENTLY runs_ended ON aether_bg.runs (finished_at)")
        assert conn.execute(INVALID).fetchone() == (1,)
        reader.rollback()
        async with app.client():
            assert await store.store_runs(Runs()) == []
        assert (conn.execute(INVALID).fetchone(), conn.execute(MADE).fetchone()) == ((0,), (1,))


async def test_only_a_look_at_all_attempts_makes_their_index(url: str) -> None:
    """Results and parents are found by the key of their rows: only an app with a page pays for more."""
    app = Aether(url, scheduler="timer")
    app.handler("Number", keep_result=True)(lambda: 5)

    @app.handler("Sum", keep_result=True)
    async def total(ctx: JobContext) -> list[int]:
        return [parent.result for parent in await ctx.parents()]

    async with app:
        numbers = [await app.enqueue("Number") for _ in range(2)]
        assert await app.result(await app.enqueue("Sum", after=numbers), 20) == [5, 5]
        with psycopg.connect(url, autocommit=True) as conn:
            assert conn.execute(MADE).fetchone() == (0,)
            assert len(await app.store.runs()) == 3
            assert conn.execute(MADE).fetchone() == (1,)
