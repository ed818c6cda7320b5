"""Cases that need a real process: signals, kill -9, hanging stops, forks. docs/protocol.md, S3, S4, P."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, JobStatus, RunOutcome, UsageError

PROGRAM = """
import os, signal, sys, threading, time
import anyio
from aether_bg import Aether, JobContext

app = Aether(sys.argv[1], scheduler="timer", grace=float(os.environ.get("GRACE", "10")))
backend = os.environ.get("BACKEND", "asyncio")

def say(word):
    print(word, flush=True)

@app.handler("Quick")
async def quick():
    say("quick")

@app.handler("Slow")
async def slow():
    say("begun")
    await anyio.sleep(float(os.environ.get("SLOW", "0.3")))
    say("ended")

@app.handler("Thread")
def thread():
    say("begun")
    time.sleep(60)

@app.handler("Blocks")
async def blocks():
    say("begun")
    time.sleep(60)
"""

RUN = (
    PROGRAM
    + """
async def starting():
    await anyio.sleep(0)

class Says:
    from aether_bg import hookimpl
    @hookimpl
    async def lifecycle_event(self, event):
        if type(event).__name__ == "AppStarted":
            say("started")

import attrs
from aether_bg._hooks.calls import Calls
app.plugins.register(Says())
app.registration = attrs.evolve(app.registration, calls=Calls(app.plugins))
app.run(backend=backend)
say("stopped")
"""
)


class Process:
    def __init__(self, program: str, path: Path, **env: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | env, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []

    def until(self, word: str) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.append(line.strip())
            if line.strip() == word:
                return
        raise AssertionError(f"it ended without saying {word!r}: {self.lines}\n{self.child.stderr.read()}")  # type: ignore[union-attr]

    def end(self, within: float = 30) -> tuple[int, str]:
        """Its exit status, and what it wrote to stderr."""
        out, err = self.child.communicate(timeout=within)
        self.lines += out.split()
        return self.child.returncode, err


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def begin(program: str = RUN, **env: str) -> Process:
        made.append(Process(program, path, **env))
        return made[-1]

    yield begin
    for process in made:
        with suppress(ProcessLookupError):
            os.killpg(process.child.pid, signal.SIGKILL)
        process.child.communicate()


def enqueue(make_app: Callable[..., Aether], handler: str) -> Any:
    import anyio

    async def put() -> Any:
        async with make_app().client() as jobs:
            return await jobs.enqueue(handler)

    return anyio.run(put)


def look(make_app: Callable[..., Aether], job_id: Any) -> Any:
    import anyio

    async def get() -> Any:
        async with make_app().client() as jobs:
            return await jobs.store.get(job_id), await jobs.store.history(job_id), await jobs.store.stats()

    return anyio.run(get)


def released_by_the_next_start(make_app: Callable[..., Aether], job_id: Any, handler: str) -> None:
    app = make_app()
    app.handler(handler)(lambda: None)
    with app.blocking() as jobs:
        job = jobs.wait(job_id, 20)
        assert (job.status, job.crash_count, job.retry_count) == (JobStatus.COMPLETED, 0, 0)
        assert [run.outcome for run in jobs.store.history(job_id)] == [RunOutcome.COMPLETED, RunOutcome.RELEASED]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_jobs_end(make_app: Any, start: Any, backend: str, number: signal.Signals) -> None:
    job_id = enqueue(make_app, "Slow")
    process = start(BACKEND=backend)
    process.until("begun")
    process.child.send_signal(number)
    status, err = process.end()
    assert (status, process.lines[-2:]) == (0, ["ended", "stopped"]), err
    job, _, stats = look(make_app, job_id)
    assert (job.status, stats.owners) == (JobStatus.COMPLETED, 0)


def test_a_second_signal_skips_the_grace(make_app: Any, start: Any) -> None:
    job_id = enqueue(make_app, "Slow")
    process = start(SLOW="60", GRACE="60")
    process.until("begun")
    process.child.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.child.send_signal(signal.SIGTERM)
    status, err = process.end()
    assert status == 0, err
    job, runs, _ = look(make_app, job_id)
    assert (job.status, runs[0].outcome) == (JobStatus.SCHEDULED, RunOutcome.RELEASED)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", ["Thread", "Blocks"])
def test_what_hangs_is_bounded_and_run_again_by_the_next_start(
    make_app: Any, start: Any, kind: str, backend: str
) -> None:
    """docs/protocol.md, S3, S4 and S7: a thread keeps its row until the process ends; a blocked loop is ended by the
    watchdog. Neither is a crash."""
    job_id = enqueue(make_app, kind)
    process = start(GRACE="0.1", BACKEND=backend)
    process.until("begun")
    began = time.monotonic()
    process.child.send_signal(signal.SIGTERM)
    status, err = process.end()
    assert time.monotonic() - began < 15, "the handler alone takes a minute"
    if kind == "Blocks":
        assert status == 1
        assert "Where it is" in err
        assert "blocks" in err, "the stack of what hangs"
    job, _, _ = look(make_app, job_id)
    assert job.status is JobStatus.RUNNING
    released_by_the_next_start(make_app, job_id, kind)


@pytest.mark.parametrize("end", ["leave the block", "exit"])
def test_a_script_that_ends_while_a_handler_blocks_the_loop(make_app: Any, start: Any, path: Path, end: str) -> None:
    """docs/protocol.md, S7: the end of a block announces the stop; the loop is not needed for it."""
    program = PROGRAM + (
        "with app.blocking() as jobs:\n    sys.stdin.readline()\n"
        if end == "leave the block"
        else "block = app.blocking()\njobs = block.__enter__()\nsys.stdin.readline()\n"
    )
    job_id = enqueue(make_app, "Blocks")
    process = start(program, GRACE="0.1")
    process.until("begun")
    process.child.stdin.write("\n")
    process.child.stdin.flush()
    deadline = time.monotonic() + 20
    with closing(sqlite3.connect(path, timeout=30)) as conn:
        while conn.execute("SELECT stopping FROM aether_owners").fetchall() != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process.child.kill()
    process.end()
    released_by_the_next_start(make_app, job_id, "Blocks")


@pytest.mark.one_loop
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kill_9(make_app: Any, start: Any, backend: str) -> None:
    """What was acknowledged is there; what ran, runs again within a second of the next start."""
    program = (
        PROGRAM
        + """
async def main():
    async with app:
        await app.enqueue("Slow", "running")
        for number in range(20):
            await app.enqueue("Quick", f"later-{number}", schedule=__import__("datetime").timedelta(hours=1))
            say(f"acknowledged-{number}")
        await anyio.sleep_forever()

anyio.run(main, backend=backend)
"""
    )
    process = start(program, SLOW="60", BACKEND=backend)
    process.until("acknowledged-19")
    if "begun" not in process.lines:
        process.until("begun")
    process.child.send_signal(signal.SIGKILL)
    process.child.wait(10)

    ran: list[float] = []
    app = make_app()
    app.handler("Slow")(lambda: ran.append(time.monotonic()))
    app.handler("Quick")(lambda: None)
    with app.blocking(backend=backend) as jobs:
        ready = time.monotonic()
        job = jobs.wait("running", 10)
        assert (job.status, job.crash_count) == (JobStatus.COMPLETED, 0)
        assert ran[0] - ready < 1
        runs = jobs.store.history(job.id)
        assert [run.outcome for run in runs] == [RunOutcome.COMPLETED, RunOutcome.CRASHED]
        assert len({run.owner for run in runs}) == 2
        for number in range(20):
            later = jobs.store.get_by_job_name(f"later-{number}")
            assert later is not None
            assert later.status is JobStatus.SCHEDULED
        assert jobs.store.stats().owners == 1


def test_a_live_process_takes_over_from_a_dead_one(make_app: Any, start: Any, path: Path) -> None:
    """The lock tells at once; no lease has to run out (docs/protocol.md, P2, P3)."""
    ran: list[float] = []
    job_id = enqueue(make_app, "Slow")
    process = start(SLOW="60")
    process.until("begun")
    app = make_app(lease=600)
    app.handler("Slow")(lambda: ran.append(time.monotonic()))
    with app.blocking() as jobs:
        assert jobs.store.get(job_id).status is JobStatus.RUNNING
        killed = time.monotonic()
        process.child.send_signal(signal.SIGKILL)
        assert jobs.wait(job_id, 20).status is JobStatus.COMPLETED
        assert ran[0] - killed < 10, "a lease takes ten minutes"


def test_an_exit_leaves_no_noise(start: Any) -> None:
    program = (
        PROGRAM
        + """
for backend in ("asyncio", "trio"):
    with app.blocking(backend=backend) as jobs:
        print(jobs.wait(jobs.enqueue("Quick"), 10).status.name)
    other = Aether(":memory:", scheduler="timer")
    other.handler("Quick")(lambda: None)
    with other.blocking(backend=backend) as jobs:
        print(jobs.wait(jobs.enqueue("Quick"), 10).status.name)
"""
    )
    process = start(program, PYTHONWARNINGS="error", PYTHONDEVMODE="1")
    status, err = process.end()
    noise = [line for line in err.splitlines() if not re.fullmatch(r"Executing <.* took [\d.]+ seconds", line)]
    assert (status, noise) == (0, []), "a slow machine is no noise of ours"
    assert process.lines == ["quick", "COMPLETED", "COMPLETED"] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gets_an_error_and_the_parent_continues(start: Any) -> None:
    """docs/protocol.md, P2: every call in the child raises; none hangs."""
    program = (
        PROGRAM
        + """
import warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of every fork beside threads

async def main():
    async with app:
        await app.enqueue("Quick", "before")
        child = os.fork()
        if child == 0:
            held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
            assert not [name for name in held if "-owner-" in name or name.endswith("-lock")], held
            try:
                await app.enqueue("Quick", "in the child")
            except BaseException as error:
                print(type(error).__name__, flush=True)
            os._exit(0)
        await anyio.to_thread.run_sync(os.waitpid, child, 0)
        await app.wait(await app.enqueue("Quick", "after"), 10)
        print(sorted(job.job_name for job in await app.store.find()), (await app.store.stats()).owners, flush=True)
        assert not (await app.health())["problems"]

anyio.run(main)

with app.blocking() as jobs:
    child = os.fork()
    if child == 0:
        for call in (lambda: jobs.enqueue("Quick"), lambda: jobs.store.find(), lambda: jobs.health()):
            try:
                call()
            except BaseException as error:
                print("blocking", type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(jobs.wait(jobs.enqueue("Quick"), 10).status.name, flush=True)
"""
    )
    process = start(program)
    status, err = process.end()
    assert status == 0, err
    said = " ".join(" ".join(process.lines).replace("quick", " ").split())  # what two processes print may mix
    assert "ForkedProcess ['after', 'before'] 1" in said
    assert said.count("blocking ForkedProcess") == 3
    assert said.endswith("COMPLETED")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_leave_the_block(start: Any) -> None:
    """docs/protocol.md, P2: there is nothing of the app in it that could be ended, nor waited for."""
    program = (
        PROGRAM
        + """
import warnings
warnings.simplefilter("ignore")
with app.blocking() as jobs:
    child = os.fork()
    if child:
        deadline = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                say("hangs")
                break
            time.sleep(0.02)
        say(jobs.wait(jobs.enqueue("Quick"), 10).status.name)
if not child:
    say("left")
    os._exit(0)
"""
    )
    process = start(program)
    status, err = process.end()
    assert status == 0, err
    assert process.lines == ["left", "quick", "COMPLETED"]


def test_run_belongs_to_the_main_thread(app: Aether) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            app.run()
        except UsageError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    (error,) = errors
    assert "main thread" in str(error)
    assert "async with app" in str(error)


def test_run_raises_what_keeps_it_from_starting(tmp_path: Path) -> None:
    from aether_bg import StoreFolderMissing

    before = signal.getsignal(signal.SIGTERM)
    app = Aether(tmp_path / "missing" / "jobs.db", scheduler="timer")
    with pytest.raises(StoreFolderMissing):
        app.run()
    assert signal.getsignal(signal.SIGTERM) is before
