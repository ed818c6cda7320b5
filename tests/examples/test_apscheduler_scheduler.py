"""The APScheduler plugin under real apps: what it holds, over restarts, without its database, killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import anyio
import pytest

pytest.importorskip("apscheduler", reason="the APScheduler plugin needs: pip install 'apscheduler<4' sqlalchemy")
pytest.importorskip("sqlalchemy", reason="the APScheduler plugin needs: pip install 'apscheduler<4' sqlalchemy")

from apscheduler_scheduler import APScheduler

from aether_bg import Aether, Backoff, JobInfo, JobStatus, RunOutcome

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
WORKER = Path(__file__).with_name("apscheduler_worker.py")
Make = Callable[..., Aether]


@pytest.fixture
def triggers(tmp_path: Path) -> Path:
    return tmp_path / "triggers.db"


@pytest.fixture
def make(make_app: Make, triggers: Path) -> Make:
    """An app on the same jobs and the same triggers at each call; `Tick` ends at once."""

    def make(**options: object) -> Aether:
        app = make_app(scheduler=APScheduler(f"sqlite:///{triggers}"), **options)
        app.handler("Tick")(lambda n: None)
        return app

    return make


def held(triggers: Path) -> dict[UUID, datetime]:
    """What APScheduler would call back for, and when."""
    with closing(sqlite3.connect(triggers)) as conn:
        if not conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'aether_bg_triggers'").fetchall():
            return {}  # it is about to start
        rows = conn.execute("SELECT id, next_run_time FROM aether_bg_triggers").fetchall()
    return {UUID(name.split("/")[1]): datetime.fromtimestamp(when, UTC) for name, when in rows}


async def until(holds: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not holds():
            await anyio.sleep(0.01)


async def until_armed(app: Aether, job: UUID) -> JobInfo:
    """Held, and the row says so."""
    with anyio.fail_after(10):
        while (row := await row_of(app, job)).armed_seq != row.seq:
            await anyio.sleep(0.01)
    return row


async def row_of(app: Aether, job: UUID) -> JobInfo:
    row = await app.store.get(job)
    assert row is not None
    return row


async def test_runs_retries_and_recurs(make: Make) -> None:
    app = make()

    @app.handler("Fails", retries=2, backoff=Backoff(first=0.05))
    async def fails() -> None:
        raise LookupError

    async with app:
        tick = await app.enqueue("Tick", payload=1)
        failing = await app.enqueue(fails)
        recurring = await app.enqueue("Tick", "thrice", 1, "@every 0.2s", repeats=3)
        rows = [await app.wait(job, timeout=20) for job in (tick, failing, recurring)]
        assert [row.status for row in rows] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
        assert (rows[1].retry_count, rows[2].occurrences) == (2, 3)
        assert (await app.health())["problems"] == {}


async def test_holds_waiting_jobs_only(make: Make, triggers: Path) -> None:
    async with make() as app:
        job = await app.enqueue("Tick", "tick", 1, schedule=timedelta(hours=1))
        row = await until_armed(app, job)
        assert row.due_at is not None
        assert abs(held(triggers)[job] - row.due_at) < timedelta(milliseconds=1)
        await app.update(job, timedelta(hours=2))
        await until_armed(app, job)
        assert held(triggers)[job] > row.due_at + timedelta(minutes=30)
        await app.pause(job)
        await until(lambda: not held(triggers))
        await app.resume(job)
        await until_armed(app, job)
        assert held(triggers).keys() == {job}
        await app.delete(job)
        await until(lambda: not held(triggers))


async def test_triggers_survive_a_restart(make: Make, triggers: Path) -> None:
    async with make() as app:
        soon = await app.enqueue("Tick", payload=1, schedule=timedelta(seconds=1))
        later = await app.enqueue("Tick", payload=2, schedule=timedelta(seconds=2))
        await until(lambda: {soon, later} == held(triggers).keys())
    assert {soon, later} == held(triggers).keys()
    await anyio.sleep(1)  # the first comes due while nothing runs
    async with make() as app:
        for job in (soon, later):
            row = await app.wait(job, timeout=10)
            assert (row.status, row.attempt) == (JobStatus.COMPLETED, 1)
    assert not held(triggers)


@pytest.mark.parametrize("loss", ["wiped", "delivered"])
async def test_what_was_armed_and_is_not_held_is_armed_again(make: Make, triggers: Path, loss: str) -> None:
    async with make() as app:
        job = await app.enqueue("Tick", payload=1, schedule=timedelta(seconds=1))
        await until_armed(app, job)
    if loss == "wiped":
        triggers.unlink()
    else:  # APScheduler forgot it, and the process died before its claim
        with closing(sqlite3.connect(triggers)) as conn, conn:
            conn.execute("DELETE FROM aether_bg_triggers")
    async with make() as app:
        row = await row_of(app, job)
        assert row.armed_seq == row.seq  # so that only the plugin can find it
        assert (await app.wait(job, timeout=10)).status is JobStatus.COMPLETED


async def test_a_trigger_without_capacity_comes_again(make: Make) -> None:
    app = make(concurrency=1)

    @app.handler("Long")
    async def long() -> None:
        await anyio.sleep(6)  # longer than `fire` waits for capacity

    async with app:
        jobs = [await app.enqueue(long), await app.enqueue("Tick", payload=1)]
        rows = [await app.wait(job, timeout=20) for job in jobs]
        assert {row.status for row in rows} == {JobStatus.COMPLETED}


async def test_without_its_database_jobs_are_stored_and_run_when_it_is_there(
    make_app: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(scheduler=APScheduler(f"sqlite:///{tmp_path / 'no' / 'triggers.db'}"))
    app.handler("Tick")(lambda n: None)
    async with app:
        job = await app.enqueue("Tick", payload=1)
        await until(lambda: "unable to open database file" in caplog.text)
        assert "unable to open database file" in (await app.health())["problems"]["scheduler"]
        (tmp_path / "no").mkdir()
        assert (await app.wait(job, timeout=30)).status is JobStatus.COMPLETED


async def test_kill_9_loses_nothing(make: Make, tmp_path: Path) -> None:
    command = [sys.executable, str(WORKER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(1.5)  # some wait, some run, some have ended
        process.kill()
        promised = [UUID(text) for text in (first + process.stdout.read()).split("\n") if len(text) == 36]
    assert len(promised) > 5
    async with make() as app:
        rows = [await app.wait(job, timeout=30) for job in promised]
        assert {row.status for row in rows} == {JobStatus.COMPLETED}
        runs = [run for job in promised for run in await app.store.history(job)]
    completed = [run for run in runs if run.outcome is RunOutcome.COMPLETED]
    assert len(completed) == len(promised)
    assert any(run.outcome is RunOutcome.CRASHED for run in runs)
