"""The process pool with real processes, really killed: by the app, by others, and with the app."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import process_pool_work as work
import pytest
from process_pool import ProcessPool
from process_pool_work import Note, noted

from aether_bg import Aether, Backoff, InvalidHandler, JobContext, JobInfo, JobStatus, RunOutcome, UnitOfWork
from aether_bg.errors import InvalidOption

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name != "posix", reason="the tests look at POSIX processes")]
Make = Callable[..., Aether]
PROGRAM = Path(work.__file__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where handlers leave their notes."""
    made = tmp_path / "notes"
    made.mkdir()
    return made


@pytest.fixture
def pool_app(make_app: Make) -> Make:
    """`pool_app(**handler options)`: an app whose handler Work runs in one worker."""

    def make(*, workers: int = 1, grace: float = 2, **options: Any) -> Aether:
        app = make_app(plugins=[ProcessPool("Work", workers=workers)], grace=grace)
        app.handler("Work", backoff=Backoff(first=0.01), **options)(work.work)
        return app

    return make


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


async def until(true: Callable[[], Any], within: float = 20) -> None:
    with anyio.fail_after(within):
        while not true():
            await anyio.sleep(0.01)


async def run_one(app: Aether, folder: Path, what: str = "", **metadata: Any) -> JobInfo:
    job = await app.enqueue("Work", payload=Note(str(folder), what), metadata=metadata)
    return await app.wait(job, timeout=30)


async def outcomes(app: Aether, job: JobInfo | UUID) -> list[RunOutcome | None]:
    history = await app.store.history(job.id if isinstance(job, JobInfo) else job)
    return [run.outcome for run in reversed(history)]


# -- work --------------------------------------------------------------------------------------------


async def test_runs_elsewhere_and_a_worker_is_used_again(pool_app: Make, folder: Path) -> None:
    async with pool_app() as app:
        for _ in range(3):
            assert (await run_one(app, folder)).status is JobStatus.COMPLETED
    (pid,) = set(noted(folder, "end"))
    assert pid != os.getpid()
    assert not lives(pid)


async def test_at_most_so_many_at_a_time(pool_app: Make, folder: Path) -> None:
    async with pool_app(workers=2) as app:
        jobs = [
            await app.enqueue("Work", payload=Note(str(folder), "sleep"), metadata={"seconds": 0.2}) for _ in range(6)
        ]
        for job in jobs:
            assert (await app.wait(job, timeout=30)).status is JobStatus.COMPLETED
    steps = sorted(folder.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    running, most = 0, 0
    for step in steps:
        running += 1 if step.name.startswith("begin") else -1
        most = max(most, running)
    assert (most, len(set(noted(folder, "begin")))) == (2, 2)


async def test_a_class_with_what_it_wants(make_app: Make, folder: Path) -> None:
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


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("value", "ValueError: a bad value"),
        ("bad", "WorkerError: process_pool_work.Bad: one and two"),
        ("exit", "SystemExit: 3"),
        ("give up", "GiveUp: it is no use"),
    ],
)
async def test_errors_arrive(pool_app: Make, folder: Path, what: str, text: str) -> None:
    async with pool_app() as app:
        job = await run_one(app, folder, what)
        assert job.status is JobStatus.FAILED
        assert (job.last_error or "").startswith(text)
        assert "In the worker:\n" in (job.last_error or "")
        assert "process_pool_work.py" in (job.last_error or "")
        assert (await run_one(app, folder)).status is JobStatus.COMPLETED
    assert len(set(noted(folder, "begin"))) == 1  # the worker is none the worse for it


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
        os.kill(idle, signal.SIGKILL)
        await until(lambda: not lives(idle))
        job_after = await run_one(app, folder)
        assert await outcomes(app, job_after) == [RunOutcome.COMPLETED]


# -- killing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["spin", "loop"])
async def test_killed_at_the_timeout(pool_app: Make, folder: Path, what: str) -> None:
    async with pool_app(timeout=3) as app:
        job = await run_one(app, folder, what)
        assert job.status is JobStatus.FAILED
        assert await outcomes(app, job) == [RunOutcome.TIMED_OUT]
        (pid,) = noted(folder, "begin")
        assert not lives(pid)
        assert (await run_one(app, folder)).status is JobStatus.COMPLETED
    assert len(set(noted(folder, "begin"))) == 2


async def test_killed_when_deleted(pool_app: Make, folder: Path) -> None:
    async with pool_app() as app:
        job = await app.enqueue("Work", payload=Note(str(folder), "spin"))
        await until(lambda: noted(folder, "begin"))
        assert await app.delete(job)
        await until(lambda: not lives(noted(folder, "begin")[0]))
        assert (await app.wait(job, timeout=10)).status is JobStatus.CANCELLED


async def test_killed_at_the_stop_and_released(pool_app: Make, folder: Path, make_app: Make) -> None:
    async with pool_app(grace=0.1) as app:
        job = await app.enqueue("Work", payload=Note(str(folder), "spin"))
        await until(lambda: noted(folder, "begin"))
    assert not lives(noted(folder, "begin")[0])
    async with make_app().client() as jobs:
        row = await jobs.store.get(job)
        assert row is not None
        assert (row.status, row.retry_count, row.crash_count) == (JobStatus.SCHEDULED, 0, 0)


async def test_a_client_that_leaves_takes_no_worker_along(pool_app: Make, folder: Path) -> None:
    async with pool_app() as app:
        await run_one(app, folder)
        async with app.client():
            pass
        assert lives(noted(folder, "end")[0])
        await run_one(app, folder)
    assert len(set(noted(folder, "end"))) == 1


async def test_nothing_is_left_open_after_many_kills(pool_app: Make, folder: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with pool_app() as app:
        await run_one(app, folder, "die")
        before = descriptors()
        for _ in range(8):
            await run_one(app, folder, "die")
        assert descriptors() < before + 8  # each worker has four; the store opens some of its own now and then
        for number in range(10, 14):
            job = await app.enqueue("Work", payload=Note(str(folder), "loop"))
            await until(lambda: len(noted(folder, "begin")) == number)  # noqa: B023
            await app.delete(job)
        await until(lambda: descriptors() < before + 8)


# -- the app dies ------------------------------------------------------------------------------------


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*arguments)`: the program in a process group of its own, killed at the end."""
    started: list[subprocess.Popen[str]] = []
    paths = os.pathsep.join([str(PROGRAM.parent), *sys.path])

    def begin(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def children(pid: int) -> set[int]:
    """The workers of an app, and multiprocessing's own helper."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == pid:
            found.add(int(name.split()[0]))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_no_orphan_of_an_app_killed_with_9(start: Start, tmp_path: Path, folder: Path) -> None:
    app = start(PROGRAM, "main", tmp_path / "jobs.db", folder)
    assert app.stdout is not None
    assert app.stdout.readline() == "ready\n", app.communicate()[1]
    family = children(app.pid)
    assert family >= set(noted(folder, "begin"))
    assert len(set(noted(folder, "begin"))) == 2
    app.kill()
    app.wait()
    deadline = time.monotonic() + 10
    try:
        while left := {pid for pid in family if lives(pid)}:
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
    finally:
        for pid in filter(lives, family):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_lets_workers_finish(start: Start, tmp_path: Path, folder: Path) -> None:
    """The signal goes to the whole group, as from a terminal."""
    app = start(PROGRAM, "serve", tmp_path / "jobs.db", folder)
    deadline = time.monotonic() + 20
    while not noted(folder, "begin"):
        assert time.monotonic() < deadline, app.communicate(timeout=1)
        time.sleep(0.02)
    os.killpg(app.pid, signal.SIGINT)
    _, errors = app.communicate(timeout=20)
    assert noted(folder, "end"), errors
    assert "Traceback" not in errors


def test_a_program_without_a_guard_is_told(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "unguarded.py"
    program.write_text("""
from aether_bg import Aether
from process_pool import ProcessPool

app = Aether("jobs.db", scheduler="timer", plugins=[ProcessPool()])

@app.handler("Work")
def work() -> None: ...

with app.blocking() as jobs:
    print(jobs.wait(jobs.enqueue(work), timeout=20).last_error)
""")
    out, errors = start(program).communicate(timeout=40)
    assert "process ended (exit code 1)" in out, errors
    assert 'Start it under `if __name__ == "__main__":`.' in errors


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
