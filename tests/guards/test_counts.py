"""Commits, statements and thread hops for many jobs. Group commit means that they do not grow with the jobs.

The bounds are about twice what is seen, where batches depend on how threads happen to run, and exact elsewhere.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether
from guards.recorded import Recording, recording

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
FAR = timedelta(days=1)


@pytest.fixture
def counted() -> Iterator[Recording]:
    with recording() as found:
        yield found


@pytest.fixture
def noop_app(make_app: Callable[..., Aether]) -> Aether:
    app = make_app()

    @app.handler("Noop")
    async def noop() -> None: ...

    return app


async def put(jobs: Any, count: int) -> None:
    for _ in range(count):
        await jobs.enqueue("Noop", schedule=FAR)


async def put_together(jobs: Any, schedule: Any = FAR) -> None:
    """1,024 jobs by 64 tasks."""

    async def some() -> None:
        for _ in range(16):
            await jobs.enqueue("Noop", schedule=schedule)

    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(some)


def within(counted: Recording, **most: int) -> None:
    assert not (over := beyond(counted, **most)), over


def beyond(counted: Recording, **most: int) -> str:
    """What was seen more often than `most`; empty if nothing was."""
    seen = {"commits": counted.commits, "statements": len(counted.written()), "hops": counted.hops}
    seen |= {"turns": counted.turns, "wakes": counted.wakes}
    over = {name: f"{seen[name]} > {most[name]}" for name in most if seen[name] > most[name]}
    return f"{over}: {Counter(one.verb for one in counted.written())}" if over else ""


async def at_best(counted: Recording, doing: Callable[[], Awaitable[None]], **most: int) -> None:
    """The best of three: a busy machine makes the batches smaller and so more, never larger."""
    for _ in range(3):
        counted.clear()
        await doing()
        if not (over := beyond(counted, **most)):
            return
    pytest.fail(over)


async def test_one_at_a_time(noop_app: Aether, counted: Recording) -> None:
    """One commit of one statement, one hop back: nothing can be spared, and nothing is added."""
    async with noop_app.client() as jobs:
        counted.clear()
        await put(jobs, 300)
        within(counted, commits=300, statements=900, hops=300)


async def test_one_at_a_time_while_the_scheduler_runs(noop_app: Aether, counted: Recording) -> None:
    """The same with a scheduler beside it: jobs of tomorrow are no reason for it to look."""
    async with noop_app as app:
        counted.clear()
        await put(app, 300)
        within(counted, commits=330, statements=1080, hops=360)


async def test_64_at_once(noop_app: Aether, counted: Recording) -> None:
    async with noop_app as app:
        await at_best(counted, partial(put_together, app), commits=60, statements=300, hops=75, turns=240)


async def test_64_units_of_work_at_once(noop_app: Aether, counted: Recording) -> None:
    """Each is a transaction of its own to its author; the writer commits many together."""

    async def some() -> None:
        for _ in range(16):
            async with noop_app.unit_of_work():
                await noop_app.enqueue("Noop", schedule=FAR)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(some)

    async with noop_app:
        await at_best(counted, all_of_them, commits=200, statements=4500, hops=250)


async def test_drain(noop_app: Aether, counted: Recording) -> None:
    """A claim of a hundred shares its commit with the outcomes of the hundred before; attempts that never suspend take
    no turn of the loop, where tasks can begin at once."""
    eager = sys.version_info >= (3, 12)
    async with noop_app.client() as jobs:
        await put_together(jobs, "@once")
    counted.clear()
    async with noop_app as app:
        await app.drain()
        within(counted, commits=40 if eager else 60, statements=450, hops=70 if eager else 90, turns=200)


async def test_a_life_on_a_file(noop_app: Aether, counted: Recording) -> None:
    """Opened, one job, closed."""
    async with noop_app.client() as jobs:
        await jobs.store.find()
    opened = [one for one in counted.statements if one.sql.startswith("PRAGMA synchronous")]
    assert len(opened) == 2, "one writes, and the one that has set the file up reads"
    counted.clear()
    async with noop_app as app:
        await app.enqueue("Noop")
        await app.drain()
    assert len(counted.statements) <= 130, Counter(one.sql for one in counted.statements)
    within(counted, commits=14, hops=35)


async def test_one_that_fires_alone(noop_app: Aether, counted: Recording) -> None:
    """Enqueued and claimed in one commit, recorded in another; a hop to the writer each, and one back."""
    async with noop_app as app:
        await app.wait(await app.enqueue("Noop"), 10)
        counted.clear()
        for _ in range(50):
            await app.wait(await app.enqueue("Noop"), 10)
        within(counted, commits=240, statements=1700, hops=450, turns=1600)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the writer looks ten times a second")
async def test_an_idle_app_wakes_twice_a_second_at_most(noop_app: Aether, counted: Recording) -> None:
    """Each second it reads the clock. Seldom it beats, and looks at other owners and for due jobs."""
    async with noop_app as app:
        await put(app, 100)
        await anyio.sleep(2.5)  # the WAL is moved into the database by then
        await at_best(counted, partial(anyio.sleep, 5), commits=3, statements=30, hops=8, turns=25, wakes=10)


async def test_chance_is_fetched_for_many_ids(noop_app: Aether, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fetch lets the writer's thread in, which costs the loop more than the id."""
    fetched: list[int] = []
    urandom = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: fetched.append(size) or urandom(size))
    async with noop_app.client() as jobs:
        fetched.clear()
        async with jobs.unit_of_work():
            await put(jobs, 1000)
    assert len(fetched) <= 5


async def test_checkpoints(noop_app: Aether, counted: Recording) -> None:
    """Few, so that they cost little, but enough that the WAL starts again; none while all is idle."""

    def made() -> int:
        return sum("wal_checkpoint" in one.sql for one in counted.statements)

    async with noop_app.client() as jobs:
        await put(jobs, 100)
        await anyio.sleep(0.3)
        assert made() == 0
        await put(jobs, 500)
        await anyio.sleep(0.3)
        busy = made()
        assert 1 <= busy <= 600 * 5 // 1000 + 1
        await anyio.sleep(0.5)
        assert made() == busy


async def test_a_large_wal_of_other_processes_is_checkpointed(noop_app: Aether, counted: Recording, path: Path) -> None:
    """Programs that never checkpoint, many of them or one that died, leave no WAL that grows and grows."""

    wal, kept = path.with_name(f"{path.name}-wal"), 16 * 1024 * 1024
    async with noop_app.client() as jobs:
        with closing(sqlite3.connect(path)) as outsider, outsider:
            outsider.execute("PRAGMA wal_autocheckpoint = 0")
            outsider.execute("CREATE TABLE theirs (what BLOB)")
            outsider.execute("INSERT INTO theirs VALUES (zeroblob(20000000))")
        assert wal.stat().st_size > kept
        with anyio.fail_after(10):
            while wal.stat().st_size > kept:
                await put(jobs, 1)  # the first write after the checkpoint starts the WAL again, and cuts the file
                await anyio.sleep(0.05)
    assert counted.commits < 200, "it was not our own writing that made the checkpoint due"


async def test_a_large_wal_of_few_commits_is_checkpointed(noop_app: Aether, path: Path) -> None:
    """Rows may be large: pages told by the number of commits would let the WAL grow to gigabytes."""
    largest = 0
    async with noop_app.client() as jobs:
        async with jobs.unit_of_work() as work:
            work.execute("CREATE TABLE theirs (what BLOB)")
        for _ in range(16):
            async with jobs.unit_of_work() as work:
                work.execute("INSERT INTO theirs VALUES (zeroblob(5000000))")
            await anyio.sleep(0.15)
            largest = max(largest, path.with_name(f"{path.name}-wal").stat().st_size)
    assert largest < 50_000_000  # of 80 written


DRAINING = """
import anyio
from aether_bg import Aether

app = Aether("jobs.db", scheduler="timer")

@app.handler("Noop")
async def noop() -> None: ...

async def main() -> None:
    async with app:
        for _ in range(2):
            async with app.unit_of_work():
                for _ in range(50):
                    await app.enqueue("Noop")
            await app.drain()

anyio.run(main)
"""


def test_no_temporary_files(tmp_path: Path) -> None:
    """SQLite makes one per savepoint unless told otherwise. A folder remembers when something was last made in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    before = folder.stat().st_mtime_ns
    environment = {**os.environ, "SQLITE_TMPDIR": str(folder)}
    subprocess.run([sys.executable, "-c", DRAINING], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert folder.stat().st_mtime_ns == before
