"""The process pool with real processes: what runs there, and what comes back."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import process_pool_work as work
import pytest
from process_pool import ProcessPool
from process_pool_tools import Make, lives, outcomes, run_one, until
from process_pool_work import Note, noted

from aether_bg import InvalidHandler, JobContext, JobStatus, RunOutcome, UnitOfWork
from aether_bg.errors import InvalidOption

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.one_loop,
    pytest.mark.skipif(os.name != "posix", reason="the tests look at POSIX processes"),
]


# -- work --------------------------------------------------------------------------------------------


async def test_runs_elsewhere_and_a_worker_is_used_again(pool_app: Make, folder: Path) -> None:
    async with pool_app() as app:
        for _ in range(3):
            assert (await run_one(app, folder)).status is JobStatus.COMPLETED
    (pid,) = set(noted(folder, "end"))
    assert pid != os.getpid()
    assert not lives(pid)


async def test_no_more_workers_than_configured(pool_app: Make, folder: Path) -> None:
    async with pool_app(workers=2) as app:
        payload = Note(str(folder), "meet")
        jobs = [await app.enqueue("Work", payload=payload, metadata={"processes": 2}) for _ in range(6)]
        for job in jobs:
            assert (await app.wait(job, timeout=30)).status is JobStatus.COMPLETED
    steps = sorted(folder.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    running, most = 0, 0
    for step in steps:
        running += 1 if step.name.startswith("begin") else -1
        most = max(most, running)
    assert (most, len(set(noted(folder, "begin")))) == (2, 2)


async def test_class_gets_its_dependencies(make_app: Make, folder: Path) -> None:
    app = make_app(plugins=[ProcessPool()])
    app.provide(str, lambda: "blue")
    app.handler("Render")(work.Render)
    async with app:
        job = await app.enqueue("Render", payload=Note(str(folder)))
        assert (await app.wait(job, timeout=30)).status is JobStatus.COMPLETED
    assert noted(folder, "blue") != [os.getpid()]


async def test_others_stay_where_they_were(make_app: Make) -> None:
    app = make_app(plugins=[ProcessPool("Work")])
    app.handler("Work")(work.work)
    pids: list[int] = []

    @app.handler("Thread")
    def in_thread() -> None:
        pids.append(os.getpid())

    @app.handler("Loop")
    async def on_loop() -> None:
        pids.append(os.getpid())

    async with app:
        for name in ("Thread", "Loop"):
            await app.wait(await app.enqueue(name), timeout=10)
    assert pids == [os.getpid()] * 2


async def test_results_come_back(make_app: Make) -> None:
    """Called as the kernel calls it: the kernel itself keeps no result."""
    pool = ProcessPool()
    app = make_app(plugins=[pool])
    ctx: Any = None
    async with app:
        for value in (None, 1, {"a": [1.5, "Ä" * 1_000_000]}):
            assert await pool._run(ctx, partial(work.answer, value)) == value
        assert await pool._run(ctx, partial(work.no_pickle)) is None


# -- errors ------------------------------------------------------------------------------------------


ERRORS = {
    "value": "ValueError: a bad value",
    "bad": "WorkerError: process_pool_work.Bad: one and two",
    "exit": "SystemExit: 3",
    "give up": "GiveUp: it is no use",
}


async def test_errors_arrive(pool_app: Make, folder: Path) -> None:
    async with pool_app() as app:
        for what, text in ERRORS.items():
            job = await run_one(app, folder, what)
            assert job.status is JobStatus.FAILED
            assert (job.last_error or "").startswith(text)
            assert "In the worker:\n" in (job.last_error or "")
            assert "process_pool_work.py" in (job.last_error or "")
        assert (await run_one(app, folder)).status is JobStatus.COMPLETED
    begun = noted(folder, "begin")
    assert (len(begun), len(set(begun))) == (5, 1)  # the worker is none the worse for it


async def test_give_up_and_snooze_mean_what_they_mean(pool_app: Make, folder: Path) -> None:
    async with pool_app(retries=3) as app:
        assert (await run_one(app, folder, "give up")).retry_count == 0
        job = await run_one(app, folder, "snooze")
        assert await outcomes(app, job) == [RunOutcome.SNOOZED, RunOutcome.COMPLETED]


async def test_a_worker_that_dies_is_a_failed_attempt(pool_app: Make, folder: Path) -> None:
    async with pool_app(retries=1) as app:
        job = await run_one(app, folder, "die")
        assert job.status is JobStatus.FAILED
        assert "process ended (exit code 7)" in (job.last_error or "")
        job = await run_one(app, folder, "die once")
        assert await outcomes(app, job) == [RunOutcome.FAILED, RunOutcome.COMPLETED]
        assert "by SIGABRT" in ((await app.store.history(job.id))[1].error or "")


async def test_a_worker_killed_from_outside(pool_app: Make, folder: Path) -> None:
    """In the middle of its work, and while it waits for some."""
    async with pool_app(retries=1) as app:
        job = await app.enqueue("Work", payload=Note(str(folder), "sleep"), metadata={"seconds": 0.5})
        await until(lambda: noted(folder, "begin"))
        os.kill(noted(folder, "begin")[0], signal.SIGKILL)
        assert (await app.wait(job, timeout=20)).status is JobStatus.COMPLETED
        assert await outcomes(app, job) == [RunOutcome.FAILED, RunOutcome.COMPLETED]
        idle = noted(folder, "end")[0]
        os.kill(idle, signal.SIGKILL)  # its main thread may be gone before the process is
        await until(lambda: os.waitid(os.P_PID, idle, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        job_after = await run_one(app, folder)
        assert await outcomes(app, job_after) == [RunOutcome.COMPLETED]


# -- at the start ------------------------------------------------------------------------------------


async def test_what_cannot_run_elsewhere_is_refused_at_the_start(make_app: Make) -> None:
    def local() -> None: ...

    async def asynchronous() -> None: ...

    for target, reason in (
        (local, "no other process can import it"),
        (lambda: None, "no other process can import it"),
        (asynchronous, "it is async"),
        (work_with_unit, "a UnitOfWork cannot be carried"),
    ):
        app = make_app(plugins=[ProcessPool("Work")])
        app.handler("Work")(target)
        with pytest.raises(InvalidHandler, match=reason):
            async with app:
                pass


def work_with_unit(uow: UnitOfWork) -> None: ...


async def test_an_argument_that_cannot_be_sent_fails_the_attempt(make_app: Make) -> None:
    app = make_app(plugins=[ProcessPool()])
    app.provide(Local, Local)
    app.handler("Work")(wants_local)
    async with app:
        job = await app.wait(await app.enqueue("Work"), timeout=20)
        assert job.status is JobStatus.FAILED
        assert "pickle" in (job.last_error or "")


class Local:
    def __init__(self) -> None:
        self.fn = lambda: None


def wants_local(*, local: Local, ctx: JobContext) -> None: ...


@pytest.mark.parametrize("workers", [0, True, -1, 1.5])
def test_wrong_options(workers: Any) -> None:
    with pytest.raises(InvalidOption, match="workers="):
        ProcessPool(workers=workers)
