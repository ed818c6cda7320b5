"""Jobs whose handler or schedule this process does not know wait for one that does (docs/protocol.md, C7 and C8)."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, InvalidSchedule, JobInfo, JobStatus, RunOutcome, hookimpl
from aether_bg import schedule as language
from aether_bg._kernel.timings import Timings
from aether_bg.model import Fired
from aether_bg.protocols import Kernel
from aether_bg.schedule import Schedule
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


class Lunch:
    """A plugin's word."""

    def __init__(self, word: str = "@lunch", means: str = "@every 1h") -> None:
        self.word, self.means, self.failing = word, means, False

    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> Schedule | None:
        if text != self.word:
            return None
        if self.failing:
            raise ConnectionError("the calendar is away")
        import attrs

        return attrs.evolve(language.parse(self.means, timezone), text=text)


class Push:
    """A push scheduler that the test works by hand."""

    kernel: Kernel

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        return True

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.kernel = kernel
        await anyio.sleep_forever()


def make_due(path: Path, handler: str = "Work") -> None:
    with closing(sqlite3.connect(path, timeout=30)) as conn, conn:
        when = "2020-01-01T00:00:00.000000Z"
        conn.execute("UPDATE aether_jobs SET due_at = ?, occurrence = ?, anchor = ? WHERE handler_name = ?",
                     [when, when, when, handler])  # fmt: skip


async def put(app: Aether, handler: str = "Work", name: str = "one", **how: Any) -> JobInfo:
    async with app.client() as jobs:
        await jobs.enqueue(handler, name, **how)
        return await look(jobs, name)


async def look(app: Any, name: str = "one") -> JobInfo:
    job = await app.store.get_by_job_name(name)
    assert job is not None
    return job  # type: ignore[no-any-return]


async def until_ended(app: Aether, name: str) -> JobInfo:
    with anyio.fail_after(20):
        while not (runs := await app.store.history((await look(app, name)).id)) or runs[0].outcome is None:
            await anyio.sleep(0.02)
    return await look(app, name)


@pytest.mark.parametrize("schedule", ["@once", "@every 1h"])
async def test_a_job_without_handler_waits_and_is_named(
    make_app: Make, path: Path, clock: FakeClock, schedule: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = await put(make_app(), "Missing", schedule=schedule)
    make_due(path, "Missing")
    quick = Timings(look=0.02, nap=0.02)
    app, there = make_app(clock=clock, timings=quick), make_app(clock=clock, timings=quick)
    app.handler("Work")(lambda: None)
    there.handler("Missing")(lambda: None)
    async with app:
        with caplog.at_level(logging.WARNING, "aether_bg"):
            for _ in range(6):
                await anyio.sleep(0.1)
                clock.advance(seconds=70)  # a minute of missing was the end of it once
            health = await app.health()
            told = json.dumps(health["problems"])
            assert "'Missing' since 2020-01-01" in told, told
            assert health["ok"] is True, "this process is well"
            said = await app.explain("one")
            assert "It waits for a process that has the handler 'Missing'" in said
            assert "since 2020-01-01" in said
            assert [r for r in caplog.records if "'Missing' since" in r.getMessage()][1:] == []
            assert any("'Missing' since 2020-01-01" in r.getMessage() for r in caplog.records)
            for _ in range(4):
                clock.advance(hours=0.4)
                await anyio.sleep(0.2)
            assert len([r for r in caplog.records if "'Missing' since" in r.getMessage()]) == 2, "once an hour"
        job = await look(app)
        assert (job.status, job.seq, job.attempt) == (JobStatus.SCHEDULED, before.seq, 0)
        assert await app.store.history(job.id) == []
        async with there:
            wanted = JobStatus.COMPLETED if schedule == "@once" else JobStatus.SCHEDULED
            with anyio.fail_after(20):  # the next occurrence may be due as well, and running
                while (await until_ended(there, "one")).status is not wanted:
                    await anyio.sleep(0.02)
            with anyio.fail_after(10):
                while "handlers" in (await app.health())["problems"]:
                    await anyio.sleep(0.05)


@pytest.mark.parametrize("kind", ["word", "zone", "grammar"])
async def test_a_job_with_an_unreadable_schedule_waits_for_one_that_reads_it(
    make_app: Make, path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    lunch = Lunch()
    quick = Timings(look=0.05, settling=0.3)
    knows = make_app(plugins=[lunch], timings=quick)
    for app in (knows, cannot := make_app(timings=quick)):
        app.handler("Work")(lambda: None)
        app.handler("Quick")(lambda: None)
    async with knows.client() as jobs:
        for name in ("one", "two"):
            await jobs.enqueue("Work", name, schedule="@lunch")
    if kind != "word":
        text, zone = ("@every 1h", "Mars/Base") if kind == "zone" else ("0 3 * * * * * * 2030", None)
        lunch.word = text
        with closing(sqlite3.connect(path, timeout=30)) as conn, conn:
            conn.execute("UPDATE aether_jobs SET expression_value = ?, timezone = ?", [text, zone])
    make_due(path)
    async with cannot:
        with caplog.at_level(logging.WARNING, "aether_bg"):
            with anyio.fail_after(20):
                while not (caplog.records and "schedules" in (await cannot.health())["problems"]):
                    await anyio.sleep(0.05)
        told = (await cannot.health())["problems"]["schedules"]
        assert lunch.word in told
        assert "since 2020-01-01" in told
        assert [r.getMessage() for r in caplog.records if r.levelno > logging.WARNING] == []
        seqs = [(await look(cannot, name)).seq for name in ("one", "two")]
        await cannot.wait(await cannot.enqueue("Quick"), 10)
        await anyio.sleep(0.5)
        assert [(await look(cannot, name)).seq for name in ("one", "two")] == seqs, "claimed once, not again and again"
        for name in ("one", "two"):
            job = await look(cannot, name)
            assert (job.status, job.attempt, job.crash_count) == (JobStatus.SCHEDULED, 0, 0)
            assert len(await cannot.store.history(job.id)) <= 1
        said = await cannot.explain("one")
        assert "It waits for a process that can read its schedule" in said
        assert "since 2020-01-01" in said
        if kind == "zone":
            return
        async with knows:
            for name in ("one", "two"):
                with anyio.fail_after(20):
                    while (await look(cannot, name)).occurrences == 0:
                        await anyio.sleep(0.02)
                job = await look(cannot, name)
                assert job.status is JobStatus.SCHEDULED, "a recurring job goes on"


async def test_a_crash_of_a_job_with_an_unreadable_schedule_does_not_end_it(make_app: Make, path: Path) -> None:
    knows = make_app(plugins=[Lunch()])
    await put(knows, schedule="@lunch")
    with closing(sqlite3.connect(path, timeout=30)) as conn, conn:
        conn.execute("UPDATE aether_jobs SET status = 1, seq = 1, attempt = 6, owner = ?, crash_count = 6",
                     ["00000000-0000-7000-8000-000000000001"])  # fmt: skip
    cannot = make_app()
    cannot.handler("Work")(lambda: None)
    async with cannot:
        job = await look(cannot)
        assert (job.status, job.crash_count) == (JobStatus.SCHEDULED, 7)


async def test_an_update_to_an_unreadable_schedule_puts_the_run_back(make_app: Make) -> None:
    begun, go = anyio.Event(), anyio.Event()
    app, knows = make_app(), make_app(plugins=[Lunch()], scheduler=Push())

    @app.handler("Work")
    async def work() -> None:
        begun.set()
        await go.wait()

    knows.handler("Work")(lambda: None)
    async with app, knows:
        job_id = await app.enqueue("Work", "one", schedule="@every 1h")
        await app.trigger(job_id)
        with anyio.fail_after(10):
            await begun.wait()
        await knows.update(job_id, "@lunch")
        go.set()
        job = await until_ended(app, "one")
        assert job.status is JobStatus.SCHEDULED
        assert [run.outcome for run in await app.store.history(job_id)] == [RunOutcome.RELEASED]


async def test_a_trigger_of_an_unreadable_schedule_comes_again(make_app: Make, path: Path) -> None:
    push = Push()
    await put(make_app(plugins=[Lunch()]), schedule="@lunch")
    make_due(path)
    app = make_app(scheduler=push)
    app.handler("Work")(lambda: None)
    async with app:
        job = await look(app)
        assert job.occurrence is not None
        for _ in range(3):
            answer = await push.kernel.fire(push.kernel.store_id, job.id, job.seq, job.occurrence)
            assert answer is Fired.RETRY
        after = await look(app)
        assert (after.status, after.seq, after.attempt) == (JobStatus.SCHEDULED, job.seq, 0)


async def test_a_schedule_plugin_that_fails_for_a_while(make_app: Make, path: Path) -> None:
    lunch = Lunch(means="@once")
    app = make_app(plugins=[lunch], timings=Timings(sweep=0.2))
    app.handler("Work")(lambda: None)
    await put(app, schedule="@lunch")
    lunch.failing = True
    async with app:
        await anyio.sleep(1)
        assert (await look(app)).status is JobStatus.SCHEDULED
        with pytest.raises(InvalidSchedule):
            await app.update("one", "@lunch")
        lunch.failing = False
        job = await app.wait("one", 20)
        assert job.status is JobStatus.COMPLETED


async def test_waiting_for_a_job_that_another_process_runs(make_app: Make) -> None:
    knows, cannot = make_app(plugins=[Lunch(means="@once")]), make_app(scheduler=Push())
    for app in (knows, cannot):
        app.handler("Work")(lambda: None)
    async with cannot, knows:
        await knows.enqueue("Work", "one", schedule="@lunch", start=knows.options.clock.now() + timedelta(seconds=0.5))
        assert (await cannot.wait("one", 20)).status is JobStatus.COMPLETED
