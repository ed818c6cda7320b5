"""PostgreSQL: machines whose clocks differ decide by the server's. Row 117 of the table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from aether_bg import Aether
from aether_bg.testing.postgres import PostgresCluster, postgres_fixture
from chaos.clocked import faketime
from chaos.harness import Nursery

psycopg = pytest.importorskip("psycopg")
from chaos.postgres import PgWorld  # noqa: E402

PROGRAM = """
import sys
from aether_bg import Aether, JobContext, UnitOfWork
app = Aether(sys.argv[1], scheduler="timer", concurrency=5)
@app.handler("Work")
async def work(args: object, ctx: JobContext, uow: UnitOfWork) -> None:
    uow.execute("INSERT INTO public.started VALUES (%s, %s, clock_timestamp(), %s)",
                [str(ctx.job.job_name), ctx.occurrence, sys.argv[2]])
app.run()
"""
JOBS = 20


@pytest.fixture
def pg(tmp_path: Path, nursery: Nursery) -> Iterator[PgWorld]:
    for cluster in postgres_fixture():
        assert isinstance(cluster, PostgresCluster)
        yield PgWorld(tmp_path / "world", nursery, cluster.server.url(), cluster.server, "postgres").create()


@pytest.mark.parametrize("skew", ["+5", "-5", "+3600", "-3600"])
@pytest.mark.alone  # it measures how early a job starts
@pytest.mark.row(117, small=1, full=3)
def test_clocks_of_machines_differ(pg: PgWorld, full: bool, count: int, note: Callable[[str], None], skew: str) -> None:
    if not full and skew.startswith("-"):
        pytest.skip("full counts only")
    pg.sql("CREATE TABLE started (name text, due timestamptz, at timestamptz, who text)")
    skewed = {"LD_PRELOAD": faketime(), "FAKETIME": f"{skew}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, pg.url, who], env={**os.environ, **env}, stderr=-3)
        for who, env in (("skewed", skewed), ("right", {}))
    ]
    try:
        pg.until(lambda: pg.sql("SELECT count(*) FROM aether_owners") == [(2,)], 60, "two processes")

        async def put(number: int) -> None:
            async with Aether(pg.url, scheduler="timer").client() as jobs:
                for job in range(JOBS):
                    due = timedelta(seconds=3 + job / 10)
                    await jobs.enqueue("Work", f"once-{number}-{job}", {}, due)
                if number == 0:
                    await jobs.enqueue("Work", "tick", {}, "@every 500ms", repeats=10)

        for number in range(count):
            anyio.run(put, number)
        wanted = count * JOBS + 10
        pg.until(lambda: pg.sql("SELECT count(*) FROM started")[0][0] >= wanted, 60, "all starts")
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(30) for process in processes]
    assert codes == [0, 0]
    assert pg.sql("SELECT count(*), count(DISTINCT (name, due)) FROM started") == [(wanted, wanted)]
    ((early, by_skewed),) = pg.sql(
        "SELECT max(extract(epoch FROM due - at)), count(*) FILTER (WHERE who = 'skewed') FROM started"
    )
    note(f"clock {skew} s: earliest start {early:+.3f} s before it was due; {by_skewed} of {wanted} by that process")
    assert early < 0.05
