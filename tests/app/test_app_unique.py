"""Names that are held for a while (docs/protocol.md, N10)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aether_bg import Aether, InvalidOption, InvalidTransition, JobConflict, JobInfo, JobStatus
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing import FakeClock, sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]
ONLY_WHILE_ACTIVE, AN_HOUR = timedelta(0), timedelta(hours=1)


def works(app: Aether) -> Aether:
    @app.handler("Work")
    async def work(args: str = "") -> None:
        if args == "bad":
            raise ValueError("boom")

    return app


@pytest.fixture(params=["file", "memory"])
def jobs_app(make_app: Make, clock: FakeClock, step: Any, request: pytest.FixtureRequest) -> Aether:
    return works(make_app(MemoryStore() if request.param == "memory" else None, clock=clock, scheduler=step))


@pytest.mark.parametrize("payload", ["", "bad"])
async def test_zero_frees_the_name_at_the_end(jobs_app: Aether, payload: str) -> None:
    async with jobs_app as app:
        first = await app.enqueue("Work", "sync:7", payload, if_exists="keep", unique_for=ONLY_WHILE_ACTIVE)
        assert await app.enqueue("Work", "sync:7", "other", if_exists="keep", unique_for=ONLY_WHILE_ACTIVE) == first
        with pytest.raises(JobConflict, match="differs in payload"):
            await app.enqueue("Work", "sync:7", "other", unique_for=ONLY_WHILE_ACTIVE)
        await app.drain()
        row = await app.store.get(first)
        assert row is not None
        assert row.status.terminal
        assert not row.holds_name
        second = await app.enqueue("Work", "sync:7", payload, if_exists="keep", unique_for=ONLY_WHILE_ACTIVE)
        assert second != first
        assert [job.id for job in await app.store.find(job_name="sync:7")] == [second, first]


async def test_an_hour_begins_at_the_end(jobs_app: Aether, clock: FakeClock) -> None:
    async def digest() -> Any:
        return await app.enqueue("Work", "digest:ada", if_exists="keep", unique_for=AN_HOUR)

    async with jobs_app as app:
        first = await digest()
        clock.advance(hours=2)
        assert await digest() == first
        await app.drain()
        clock.advance(minutes=59)
        assert await digest() == first
        with pytest.raises(JobConflict):
            await app.enqueue("Work", "digest:ada", "other")
        clock.advance(minutes=1)
        second = await digest()
        assert second != first
        assert await digest() == second
        assert [job.id for job in await app.store.find(job_name="digest:ada")] == [second, first]


async def test_none_holds_it_until_the_purge(jobs_app: Aether, clock: FakeClock) -> None:
    async with jobs_app as app:
        first = await app.enqueue("Work", "once")
        await app.drain()
        clock.advance(days=400)
        assert await app.enqueue("Work", "once") == first
        assert await app.enqueue("Work", "once", unique_for=timedelta(days=500)) == first
        await app.store.purge()
        assert await app.enqueue("Work", "once") != first


async def test_the_new_window_counts_else_that_of_the_holder(jobs_app: Aether, clock: FakeClock) -> None:
    async with jobs_app as app:
        first = await app.enqueue("Work", "name")
        await app.drain()
        clock.advance(minutes=5)
        assert await app.enqueue("Work", "name", unique_for=600) == first
        second = await app.enqueue("Work", "name", unique_for=60.0)  # seconds do as well
        assert second != first
        await app.drain()
        clock.advance(seconds=59)
        assert await app.enqueue("Work", "name") == second
        clock.advance(seconds=1)
        assert await app.enqueue("Work", "name") != second


async def test_replace_and_retry_within_the_window(jobs_app: Aether, clock: FakeClock) -> None:
    async with jobs_app as app:
        first = await app.enqueue("Work", "name", "a", unique_for=AN_HOUR)
        await app.drain()
        second = await app.enqueue("Work", "name", "b", unique_for=AN_HOUR, if_exists="replace")
        assert second != first
        bad = await app.enqueue("Work", "bad", "bad", unique_for=ONLY_WHILE_ACTIVE)
        await app.drain()
        await app.retry(bad)
        row = await app.store.get(bad)
        assert row is not None
        assert row.holds_name
        await app.drain()
        other = await app.enqueue("Work", "bad", "bad", unique_for=ONLY_WHILE_ACTIVE)
        with pytest.raises(JobConflict):
            await app.retry(bad)
        changed: dict[str, Any] = {"payload": "c", "schedule": AN_HOUR, "unique_for": ONLY_WHILE_ACTIVE}
        assert await app.enqueue("Work", "bad", if_exists="replace", **changed) == other
        row = await app.store.get(other)
        assert row is not None
        assert row.unique_for == 0


async def test_units_and_many(make_app: Make, clock: FakeClock) -> None:
    async with works(make_app(clock=clock)) as app:
        first = await app.enqueue("Work", "name", unique_for=AN_HOUR)
        await app.drain()
        clock.advance(hours=1)
        async with app.unit_of_work() as unit:
            second = await app.enqueue("Work", "name", unique_for=AN_HOUR)
            again = unit.run(lambda tx: tx.enqueue("Work", "name", unique_for=AN_HOUR))
        assert again.result == second != first
        await app.drain()
        clock.advance(hours=1)
        third, fourth = await app.enqueue_many([{"handler": "Work", "job_name": "name", "unique_for": AN_HOUR}] * 2)
        assert third == fourth != second
        await app.drain()
        clock.advance(hours=1)
        async with app.unit_of_work() as unit:
            inside = unit.run(lambda tx: tx.enqueue("Work", "name"))
        assert inside.result != third


async def test_a_recurring_job_ends_when_it_is_terminal(jobs_app: Aether, clock: FakeClock) -> None:
    async with jobs_app as app:
        first = await app.enqueue("Work", "twice", schedule="@hourly", repeats=2, unique_for=ONLY_WHILE_ACTIVE)
        for _ in range(2):
            again = await app.enqueue("Work", "twice", schedule="@hourly", repeats=2, unique_for=ONLY_WHILE_ACTIVE)
            assert again == first
            clock.advance(hours=1)
            await app.drain()
        assert await app.enqueue("Work", "twice", schedule="@hourly", repeats=2, unique_for=ONLY_WHILE_ACTIVE) != first


def test_a_declared_job_that_runs_at_each_start(make_app: Make) -> None:
    for starts in (1, 2, 3):
        app = works(make_app())
        app.declare("Work", "at start", unique_for=ONLY_WHILE_ACTIVE)
        with app.blocking() as jobs:
            found = jobs.store.find(job_name="at start")
            assert len(found) == starts
            jobs.wait(found[0].id, 10)


async def test_what_is_wrong_is_refused(jobs_app: Aether) -> None:
    async with jobs_app as app:
        with pytest.raises(InvalidOption, match=r"unique_for must come with a job_name"):
            await app.enqueue("Work", unique_for=ONLY_WHILE_ACTIVE)
        for wrong in (-1, "1h", True, float("nan"), timedelta(seconds=-1), 10**12):
            with pytest.raises(InvalidOption, match="unique_for"):
                await app.enqueue("Work", "name", unique_for=wrong)  # type: ignore[arg-type]


RACE = """
import sys, anyio
from datetime import timedelta
from aether_bg import Aether
async def main():
    async with Aether(sys.argv[1]).client() as jobs:
        sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
        for number in range(int(sys.argv[2])):
            window = {"if_exists": "keep", "unique_for": timedelta(0)}
            print(await jobs.enqueue("Nobody", f"n{number}", {"by": sys.argv[3]}, **window))
anyio.run(main)
"""


def test_processes_that_race_for_a_name(make_app: Make, path: Path, step: Any) -> None:
    """Each name was held by a job that has ended and has no window; of several enqueues one makes the new job."""
    names, app = 40, make_app(scheduler=step)

    @app.handler("Nobody")
    async def nobody(args: dict[str, str] | None = None) -> None: ...

    with app.blocking() as jobs:
        for number in range(names):
            job = jobs.enqueue("Nobody", f"n{number}")
            jobs.store.update_status(job, JobStatus.COMPLETED)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), str(names), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    answers = [racer.communicate("go\n", timeout=60)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == names
    with make_app().blocking(client=True) as client:
        for number in range(names):
            held = [job for job in client.store.find(job_name=f"n{number}") if job.holds_name]
            assert [str(job.id) for job in held] == [answers[0][number]]


steps = st.lists(
    st.tuples(
        st.sampled_from(["enqueue", "advance", "drain", "delete", "retry"]),
        st.sampled_from([None, 0, 60, 3600]), st.sampled_from(["keep", "raise", "replace"]),
        st.sampled_from(["", "bad"]), st.integers(1, 3700),
    ),
    max_size=14,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_a_name_never_has_two_active_jobs(history: list[Any]) -> None:
    """Over random histories: one holder at most, and within its window no other job of the name begins."""

    async def play() -> None:
        app = works(Aether(MemoryStore()))
        async with sandbox(app) as jobs:
            for verb, window, if_exists, payload, seconds in history:
                before = await jobs.store.find(job_name="name")
                match verb:
                    case "enqueue":
                        try:
                            made = await jobs.enqueue("Work", "name", payload, if_exists=if_exists, unique_for=window)
                        except JobConflict:
                            continue
                        if made not in {job.id for job in before} and if_exists != "replace":
                            assert not any(_held(job, window, jobs.clock.now()) for job in before if job.holds_name)
                    case "advance":
                        jobs.clock.advance(seconds=seconds)
                    case "drain":
                        await jobs.drain(raise_errors=False)
                    case _ if before:
                        with suppress(InvalidTransition, JobConflict):
                            await getattr(jobs, verb)(before[0].id)
                rows = await jobs.store.find(job_name="name")
                assert sum(job.holds_name for job in rows) <= 1
                assert sum(not job.status.terminal for job in rows) <= 1

    anyio.run(play)


def _held(job: JobInfo, window: float | None, now: Any) -> bool:
    """By the rule's words: what the caller says of the window, else what the holder says."""
    window = job.unique_for if window is None else window
    if not job.status.terminal or window is None:
        return True
    assert job.handled_time is not None
    return bool(now - job.handled_time < timedelta(seconds=window))
