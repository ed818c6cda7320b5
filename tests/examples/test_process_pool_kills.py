"""Processes that are really killed: by the app, and with the app."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process_pool import ProcessPool
from process_pool_tools import Make, lives, outcomes, run_one, until
from process_pool_work import Note, noted, work

from aether_bg import JobStatus, RunOutcome

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.one_loop,
    pytest.mark.skipif(os.name != "posix", reason="the tests look at POSIX processes"),
]
PROGRAM = Path(__file__).with_name("process_pool_program.py")


async def test_killed_at_the_timeout(make_app: Make, folder: Path) -> None:
    app = make_app(plugins=[ProcessPool(workers=1)])
    app.handler("Work", timeout=0.3)(work)
    app.handler("Patient")(work)  # starts a worker, which a busy machine does not do within that timeout
    async with app:
        for what in ("spin", "loop"):
            assert (await run_one(app, folder, handler="Patient")).status is JobStatus.COMPLETED
            job = await run_one(app, folder, what)
            assert job.status is JobStatus.FAILED
            assert await outcomes(app, job) == [RunOutcome.TIMED_OUT]
            assert not lives(noted(folder, "end")[-1])
        assert (await run_one(app, folder, handler="Patient")).status is JobStatus.COMPLETED
    assert len(set(noted(folder, "end"))) == 3


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
        for _ in range(4):
            await run_one(app, folder, "die")
        assert descriptors() < before + 8  # each worker has four; the store opens some of its own now and then
        for number in range(6, 8):
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


def test_a_program_without_a_main_guard_gets_an_error(start: Start, tmp_path: Path) -> None:
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
