"""Rows 17 to 20 and 28: expressions, clocks that jump, downtime, deploys."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, Backoff, JobContext, RunOutcome
from aether_bg._rules import recurrence, transitions
from aether_bg.testing import FakeClock
from chaos.harness import TESTS, World
from chaos.plugins import Hook
from chaos.worker import Spec, Worker, asleep

POLL = 1.0


@pytest.mark.row(17, small=15, full=3000)
def test_expressions_against_the_oracle(count: int) -> None:
    """The oracle lives with the tests of the schedule language; here it gets this many expressions for each zone."""
    env = {**os.environ, "AETHER_SCHEDULE_CASES": str(count)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "schedule/test_oracle.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-4000:]


# -- row 18 --------------------------------------------------------------------------------------


class Shifted:
    """The real clock, but for a wall clock that somebody sets."""

    def __init__(self) -> None:
        self.shift = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def monotonic(self) -> float:
        return time.monotonic()


JUMPS = [timedelta(seconds=2), timedelta(hours=1), timedelta(days=1)]


@pytest.mark.parametrize("sign", [1, -1], ids=["forwards", "back"])
@pytest.mark.parametrize("jump", JUMPS, ids=["2s", "1h", "1d"])
@pytest.mark.row(18, small=5, full=50)
def test_the_wall_clock_jumps(tmp_path: Path, count: int, jump: timedelta, sign: int) -> None:
    """No occurrence twice; what is due by the new time runs within a poll; a retry waits no longer than its backoff."""
    largest = 0.5

    async def one(number: int) -> None:
        clock = Shifted()
        app = Aether(str(tmp_path / f"jobs-{number}.db"), scheduler="timer", clock=clock, grace=1)
        starts: list[tuple[str, datetime, float]] = []

        @app.handler("every", schedule="@every 200ms")
        async def every(ctx: JobContext) -> None:
            starts.append(("every", ctx.occurrence, time.monotonic()))

        @app.handler("fails", retries=3, backoff=Backoff(first=largest, factor=1, max=largest, jitter=0))
        async def fails(ctx: JobContext) -> None:
            starts.append(("fails", ctx.occurrence, time.monotonic()))
            if ctx.attempt < 3:
                raise RuntimeError("again")

        @app.handler("once")
        async def once(ctx: JobContext) -> None:
            starts.append(("once", ctx.occurrence, time.monotonic()))

        async with app:
            await app.enqueue("fails")
            later = await app.enqueue("once", "later", schedule=jump / 2)
            await anyio.sleep(0.7 + number % 5 * 0.1)
            clock.shift = sign * jump
            jumped = time.monotonic()
            if sign > 0:  # both are overdue now
                await app.wait(later, POLL + 0.5)
                await until(lambda: [s for s in starts if s[0] == "every" and s[2] > jumped], POLL + 0.5)
            else:
                fresh = await app.enqueue("once", "fresh")
                await app.wait(fresh, POLL + 0.5)
            await until(lambda: len([s for s in starts if s[0] == "fails"]) == 3, 3 * (largest + POLL) + 0.5)
        retries = [at for name, _, at in starts if name == "fails"]
        waits = [b - a for a, b in pairwise(retries)]
        assert max(waits) < largest + POLL + 0.5, waits
        twice = [key for key, times in Counter(s[:2] for s in starts if s[0] != "fails").items() if times > 1]
        assert not twice

    async def main() -> None:
        for start in range(0, count, 10):
            async with anyio.create_task_group() as group:
                for number in range(start, min(start + 10, count)):
                    group.start_soon(one, number)

    anyio.run(main)


async def until(condition: Callable[[], Any], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not come within {timeout:g} s"
        await anyio.sleep(0.01)


# -- row 19 --------------------------------------------------------------------------------------


@pytest.mark.row(19, small=4, full=20)
def test_down_for_an_hour(tmp_path: Path, count: int, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(19)
    cap = 1000
    if not full:
        cap = 100
        for room in (recurrence, transitions):
            monkeypatch.setattr(room, "KEPT", cap)

    async def main(number: int) -> None:
        clock = FakeClock()
        runs: Counter[str] = Counter()

        def make() -> Aether:
            app = Aether(str(tmp_path / f"jobs-{number}.db"), scheduler=Hook(schedule_run=asleep), clock=clock)

            @app.handler("tick")
            async def tick(ctx: JobContext) -> None:
                runs[ctx.job.job_name] += 1

            return app

        minutes = chance.randrange(1, 300)
        clock.advance(minutes=minutes, seconds=chance.randrange(60))
        async with make() as app:
            for misfire in ("skip", "once", "all"):
                await app.enqueue("tick", misfire, schedule="* * * * *", misfire=misfire)
            for _ in range(3):
                clock.set(clock.now().replace(second=0) + timedelta(minutes=1, seconds=1))
                await app.drain()
            assert runs == {"skip": 3, "once": 3, "all": 3}
        ticks = 60
        if number == 0:
            ticks = cap * 5 // 2
        clock.set(clock.now().replace(second=30) + timedelta(minutes=ticks))
        runs.clear()
        async with make() as app:
            await app.drain()
            assert runs["skip"] == 0
            assert runs["once"] == 1
            assert runs["all"] == min(ticks, cap), "the cap is kept"
            for name in ("skip", "once", "all"):
                history = await app.store.history((await app.store.get_by_job_name(name)).id, 3000)
                gaps = [run for run in history if run.outcome in (RunOutcome.SKIPPED, RunOutcome.COALESCED)]
                closed = sum(run.count for run in gaps)
                assert closed + runs[name] == ticks, (name, gaps)
                assert len(gaps) <= 1, "a gap is one row"
            runs.clear()
            clock.set(clock.now().replace(second=1) + timedelta(minutes=1))
            await app.drain()
            assert runs == {"skip": 1, "once": 1, "all": 1}

    for number in range(count):
        anyio.run(main, number)


# -- rows 20 and 28 ------------------------------------------------------------------------------


def declares(spec: Spec) -> None:
    """A process of a service: declares its schedules at the start."""
    worker = Worker(spec)

    async def declared(ctx: JobContext) -> None:
        with worker.logged(ctx):
            await anyio.sleep(0.005)

    for number in range(3):
        worker.app.handler(f"declared-{number}", schedule=spec["schedule"])(declared)
    worker.app.run()


@pytest.mark.row(20, small=6, full=100)
def test_five_processes_declare_the_same(worlds: Callable[[str], World], count: int) -> None:
    chance = random.Random(20)
    for number in range(count):
        world = worlds(f"declared-{number}").create()
        five = [world.start("chaos.test_time:declares", schedule="@every 100ms") for _ in range(5)]
        world.until(lambda w=world: len({e["occurrence"] for e in w.find("end")}) > 4)
        victim = chance.choice(five)
        victim.kill()
        world.start("chaos.test_time:declares", schedule="@every 100ms")
        seen = len(world.find("end"))
        world.until(lambda w=world, seen=seen: len(w.find("end")) > seen + 9)
        assert all(process.alive or process is victim for process in five), world.logs()
        world.end_all()
        assert world.sql("SELECT count(*), count(DISTINCT job_name) FROM aether_jobs") == [(3, 3)]
        world.settle(endless=["tick", "declared-0", "declared-1", "declared-2"])
        starts = Counter((e["job"], e["occurrence"]) for e in world.find("start"))
        died = {
            (job, at) for job, at in world.sql("SELECT job_id, occurrence FROM aether_runs WHERE outcome = 'crashed'")
        }
        assert not [key for key, times in starts.items() if times > 1 and key not in died]
        world.check(late=60, overlaps=False)


@pytest.mark.row(20, small=4, full=50)
def test_a_rolling_deploy_changes_the_cron(worlds: Callable[[str], World], count: int) -> None:
    for number in range(count):
        world = worlds(f"rolling-{number}").create()
        three = [world.start("chaos.test_time:declares", schedule="@every 100ms") for _ in range(3)]
        world.until(lambda w=world: len({e["occurrence"] for e in w.find("end")}) > 3)
        for index, process in enumerate(three):
            process.send(15 if index % 2 else 9)
            process.wait()
            three[index] = world.start("chaos.test_time:declares", schedule="@every 150ms")
            time.sleep(0.05)
        seen = len(world.find("end"))
        world.until(lambda w=world, seen=seen: len(w.find("end")) > seen + 12)
        world.end_all()
        rows = world.sql("SELECT job_name, expression_value, status FROM aether_jobs ORDER BY job_name")
        assert [(name, text) for name, text, _ in rows] == [(f"declared-{n}", "@every 150ms") for n in range(3)]
        assert all(status in (0, 1) for _, _, status in rows)
        world.settle(endless=["tick", "declared-0", "declared-1", "declared-2"])
        world.check(late=60, overlaps=False)


@pytest.mark.row(28, small=6, full=50)
def test_an_old_process_leaves_new_work_to_the_new_one(worlds: Callable[[str], World], count: int) -> None:
    for number in range(count):
        world = worlds(f"deploy-{number}").create()
        old = world.start("until_signal", without=["effect"], scheduler=["timer", "push"][number % 2])
        jobs = [{"handler": kind, "name": f"{kind}-{n}"} for n in range(4) for kind in ("effect", "quick")]
        assert world.start("put", enqueue=jobs).wait() == 0
        world.until(lambda w=world: len(w.find("end", handler="quick")) == 4)
        time.sleep(0.3)
        assert world.sql("SELECT count(*) FROM aether_jobs WHERE handler_name = 'effect' AND status = 0") == [(4,)]
        new = world.start("until_signal", scheduler=["timer", "push"][number % 2])
        world.until(lambda w=world: not w.sql("SELECT 1 FROM aether_jobs WHERE status < 2"))
        assert {e["pid"] for e in world.find("end", handler="effect")} == {new.pid}
        for process in (old, new):
            process.end()
        world.check(overlaps=False)


@pytest.mark.row(28, small=2, full=20)
def test_work_without_a_handler_waits_and_is_reported(worlds: Callable[[str], World], count: int) -> None:
    """A process without the handler runs on for longer than any deploy takes; once it was a minute, here 0.6 s."""
    for number in range(count):
        world = worlds(f"unknown-{number}").create()
        old = world.ready(without=["effect"])
        jobs = [
            {"handler": "effect", "name": "once", "payload": {"ms": 1}},
            {"handler": "effect", "name": "again", "payload": {"ms": 1}, "schedule": "@every 200ms", "repeats": 5},
        ]
        assert world.start("put", enqueue=jobs).wait() == 0
        world.until(lambda old=old: "wait for a process that has their handler: 'effect' since" in old.tail())
        time.sleep(1)
        assert world.sql("SELECT DISTINCT status FROM aether_jobs") == [(0,)]
        assert world.sql("SELECT count(*) FROM aether_runs") == [(0,)]
        new = world.ready()
        world.until(lambda w=world: w.sql("SELECT DISTINCT status FROM aether_jobs") == [(2,)])
        for process in (old, new):
            process.end()
        assert old.tail().count("'effect' since") == 1, "once an hour"
        world.check()
