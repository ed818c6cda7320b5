"""Rows 33, 34 and 38: clocks that are set back, zones whose rules change, weeks of missed occurrences."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from aether_bg import Aether, JobContext, RunOutcome
from aether_bg.testing import FakeClock
from chaos.clocked import ZONE, Clocked, python, zone_data
from chaos.plugins import Hook
from chaos.worker import asleep

DAY = datetime(2030, 6, 5, tzinfo=UTC)
BEFORE_NOON = timedelta(hours=12, minutes=29, seconds=57)
STEPS = {
    "1min": timedelta(minutes=1), "1h": timedelta(hours=1), "4h": timedelta(hours=4), "40y": timedelta(days=14610),
}  # fmt: skip


def until(condition: Callable[[], Any], timeout: float = 30) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + timeout, f"it did not come within {timeout:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "between two starts"])
@pytest.mark.parametrize("back", STEPS.values(), ids=STEPS)
@pytest.mark.row(33, small=1, full=20)
def test_the_clock_is_set_back(
    tmp_path: Path, count: int, back: timedelta, restarted: bool, note: Callable[[str], None]
) -> None:
    worst = 0.0
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir()
        clocked = Clocked(folder)
        clocked.show(DAY + timedelta(hours=12))
        clocked.start()
        try:
            until(lambda c=clocked: len(c.starts("cron")) > 3 and len(c.starts("every")) > 3)
            clocked.show(DAY + BEFORE_NOON)
            until(lambda c=clocked: c.starts("fixed"))
            if restarted:
                clocked.stop()
            wall = clocked.wall - back
            clocked.show(wall)
            seen = {name: len(clocked.starts(name)) for name in ("cron", "every")}
            if restarted:
                clocked.start()
            took = until(lambda c=clocked, s=seen: all(len(c.starts(name)) > s[name] + 2 for name in s))
            worst = max(worst, took)
            if back > timedelta(hours=3):  # due as usual
                clocked.show(wall.replace(hour=12, minute=29, second=58))
                until(lambda c=clocked: len(c.starts("fixed")) == 2)
            else:
                clocked.show(DAY + BEFORE_NOON + timedelta(seconds=2))
                until(lambda c=clocked: c.wall > DAY + BEFORE_NOON + timedelta(seconds=7))
                assert len(clocked.starts("fixed")) == 1, "it is not repeated"
        finally:
            clocked.stop()
        twice = Counter((one["name"], one["occurrence"]) for one in clocked.starts())
        assert max(twice.values()) == 1, "no occurrence runs twice"
        with closing(sqlite3.connect(folder / "jobs.db")) as db:
            due, status = db.execute("SELECT due_at, status FROM aether_jobs WHERE job_name = 'later'").fetchone()
            assert (due[:10], status) == ("2035-01-01", 0), "a one-shot keeps its instant"
    note(f"three runs of each within {worst:.1f} s of the step")


@pytest.mark.row(34, small=2, full=10)
def test_the_rules_of_a_zone_change(tmp_path: Path, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In 2022 Mexico gave up summer time: 09:00 is an hour later than the old data says, from April on."""
    wheels = tmp_path_factory.mktemp("tzdata")
    old, new = (zone_data(release, wheels) for release in ("2022.5", "2023.3"))
    for number in range(count):
        database = tmp_path / f"jobs-{number}.db"
        down = datetime(2023, 7, 1, 12, tzinfo=UTC) + timedelta(hours=number % 10)

        def live(data: Path, start: datetime, days: int, database: Path = database) -> list[Any]:
            command, env = python("zoned", str(database), start.isoformat(), str(days), PYTHONTZPATH=str(data))
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return list(json.loads(done.stdout))

        before = live(old, down - timedelta(days=2), 2)
        after = live(new, down, 3)
        assert len(before) >= 1
        assert {at[11:16] for at, _ in before} == {"14:00"}
        assert {at[11:16] for at, _ in after} == {"15:00"}, "at nine by the new rules"
        local = [datetime.fromisoformat(at).astimezone(ZoneInfo(ZONE)).date() for at, _ in before + after]
        assert len(local) == len(set(local)) >= 4, "one run a day"
        with closing(sqlite3.connect(database)) as db:
            said = db.execute("SELECT error FROM aether_runs WHERE outcome = 'superseded'").fetchall()
        assert len(said) == 1
        assert ZONE in said[0][0]


@pytest.mark.alone
@pytest.mark.row(38, small=1, full=5)
def test_fifty_jobs_after_weeks(tmp_path: Path, count: int, note: Callable[[str], None]) -> None:
    """The event loop's own work is measured, in time of the processor: other programs may take the rest."""

    def make(number: int, clock: FakeClock, ran: Counter[str]) -> Aether:
        app = Aether(str(tmp_path / f"jobs-{number}.db"), scheduler=Hook(schedule_run=asleep), clock=clock)

        @app.handler("tick")
        async def tick(ctx: JobContext) -> None:
            ran[ctx.job.job_name] += 1

        return app

    async def main(number: int) -> None:
        clock, ran, held = FakeClock(), Counter[str](), [0.0]
        async with make(number, clock, ran) as app:
            for n in range(50):
                await app.enqueue("tick", f"tick-{n}", schedule="* * * * *")
                await app.enqueue("tick", f"held-{n}", schedule="* * * * *")
                await app.pause(f"held-{n}")
        clock.advance(days=14)
        async with make(number, clock, ran) as app, anyio.create_task_group() as group:

            async def watch() -> None:
                before = time.thread_time()
                while True:
                    await anyio.lowlevel.checkpoint()
                    now = time.thread_time()
                    held.append(now - before)
                    before = now

            group.start_soon(watch)
            began = time.process_time()
            await app.drain()
            judged = time.process_time() - began
            assert len(ran) == 50
            assert set(ran.values()) == {1}
            clock.advance(days=46)
            began = time.process_time()
            for n in range(50):
                await app.resume(f"held-{n}")
            resumed = time.process_time() - began
            group.cancel_scope.cancel()
            for name, ticks in (("tick-7", 14 * 1440 - 1), ("held-7", 60 * 1440)):
                row = await app.store.get_by_job_name(name)
                gaps = [run for run in await app.store.history(row.id) if run.outcome is not RunOutcome.COMPLETED]
                assert [run.count for run in gaps] == [ticks]
        note(f"loop held {1000 * max(held):.0f} ms at most, judged in {judged:.1f} s, resumed in {resumed:.1f} s")
        assert max(held) < 0.02
        assert judged < 2
        assert resumed < 2

    for number in range(count):
        anyio.run(main, number)
