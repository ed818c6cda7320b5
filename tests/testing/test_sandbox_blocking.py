"""The sandbox for tests that are not async; and without pytest."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from shop import FakeMailer, Mail, Mailer

from aether_bg import Aether, AlreadyStarted, InvalidOption, NotStarted, UsageError, WaitTimeout
from aether_bg.testing import FakeClock, JobFailed, sandbox, still


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_everything_as_plain_functions(app: Aether, mailer: FakeMailer, backend: Literal["asyncio", "trio"]) -> None:
    before = dict(vars(app))
    with sandbox(app, override={Mailer: mailer}).blocking(backend=backend) as jobs:
        job = jobs.enqueue("SendEmail", "mail", Mail("ada"))
        jobs.enqueue("Print", "later", "text", timedelta(hours=2))
        (found,) = jobs.assert_enqueued("SendEmail", payload={"to": "ada"})
        assert found.id == job
        assert mailer.sent == []
        assert [ran.job_name for ran in jobs.drain()] == ["mail"]
        assert jobs.wait(job).status.name == "COMPLETED"
        assert [ran.job_name for ran in jobs.advance(days=1)] == ["later", "Report"]
        assert [job.job_name for job in jobs.completed()] == ["mail", "later"]
        assert [job.job_name for job in jobs.pending()] == ["Report"]
        assert jobs.failed() == []
        assert jobs.store.stats().completed == 2
        with jobs.unit_of_work():
            jobs.enqueue("Print", "joined", "text")
            jobs.assert_not_enqueued("Print", "joined")
        jobs.assert_enqueued("Print", "joined")
        with pytest.raises(AssertionError, match="Print 'joined'"):
            jobs.assert_enqueued("Print", "nothing")
    assert vars(app) == before


def test_a_failure_is_raised_with_its_cause(app: Aether) -> None:
    with sandbox(app, override={Mailer: FakeMailer(OSError("no route"))}).blocking() as jobs:
        jobs.enqueue("SendEmail", "mail", Mail("ada"))
        with pytest.raises(JobFailed, match="no route") as caught:
            jobs.drain()
        assert isinstance(caught.value.__cause__, OSError)
        assert len(jobs.advance(minutes=5)) == 1


def test_from_any_thread(app: Aether) -> None:
    with sandbox(app).blocking() as jobs:
        jobs.enqueue("Print", "page", "text")
        names: list[str] = []
        thread = threading.Thread(target=lambda: names.extend(ran.job_name for ran in jobs.drain()))
        thread.start()
        thread.join(20)
        assert names == ["page"]


def test_a_service_that_runs_the_app_in_another_thread(app: Aether, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the test client of a web framework does."""
    up, leave = threading.Event(), threading.Event()

    async def service() -> None:
        async with app:
            await app.enqueue("Print", "page", "text")
            up.set()
            while not leave.is_set():
                await anyio.sleep(0.01)

    with sandbox(app).blocking(start=False) as jobs:
        thread = threading.Thread(target=anyio.run, args=[service])
        thread.start()
        try:
            assert up.wait(20)
            jobs.assert_enqueued("Print", payload="text")
            assert [ran.job_name for ran in jobs.drain()] == ["page"]
            job = jobs.enqueue("Print", "second", "text")
            assert [ran.job_name for ran in jobs.advance(hours=4)] == ["second", "Report"]
            assert len(jobs.store.history(job)) == 1
            with jobs.unit_of_work():
                jobs.enqueue("Print", "in a unit", "text")
            assert [ran.job_name for ran in jobs.drain()] == ["in a unit"]
        finally:
            leave.set()
            thread.join(20)
        monkeypatch.setattr(still, "_SOON", 0.05)
        with pytest.raises(NotStarted):
            jobs.enqueue("Print", "third", "text")


def test_after_the_block_it_says_so(app: Aether) -> None:
    with sandbox(app).blocking() as jobs:
        pass
    before = time.monotonic()
    with pytest.raises(NotStarted, match="Use it inside of its block"):
        jobs.enqueue("Print", "page", "text")
    assert time.monotonic() - before < still._SOON, "it waited for a start that cannot come"


WITHOUT_PYTEST = """
import sys, unittest
from aether_bg import Aether
from aether_bg.testing import sandbox

app = Aether("production/jobs.db", scheduler="timer")
hellos = []

@app.handler("Hello")
def hello(name: str) -> None:
    hellos.append(name)

class HelloTest(unittest.TestCase):
    def setUp(self):
        hellos.clear()
        self.jobs = self.enterContext(sandbox(app).blocking())

    def test_hello(self):
        self.jobs.enqueue("Hello", payload="Ada")
        self.jobs.assert_enqueued(hello)
        self.jobs.drain()
        self.assertEqual(hellos, ["Ada"])
        assert "pytest" not in sys.modules

class AsyncTest(unittest.IsolatedAsyncioTestCase):
    async def test_hello(self):
        jobs = await self.enterAsyncContext(sandbox(app))
        await app.enqueue("Hello", payload="Bob")
        await jobs.drain()
        self.assertEqual(hellos[-1], "Bob")

unittest.main()
"""


def test_unittest_alone(tmp_path: Path) -> None:
    (tmp_path / "test_hello.py").write_text(WITHOUT_PYTEST, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "test_hello.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


@pytest.mark.parametrize(
    "call",
    [
        lambda jobs: jobs.enqueue("Print", "page", "text"),
        lambda jobs: jobs.wait("page"),
        lambda jobs: jobs.drain(),
        lambda jobs: jobs.advance(days=1),
        lambda jobs: jobs.pending(),
        lambda jobs: jobs.completed(),
        lambda jobs: jobs.failed(),
        lambda jobs: jobs.assert_enqueued("Print"),
        lambda jobs: jobs.assert_not_enqueued("Print"),
    ],
)
def test_a_coroutine_that_cannot_be_awaited_is_refused(app: Aether, call: Callable[[Any], Any]) -> None:
    """`.blocking()` forgotten: the test would pass, whatever it says."""
    with sandbox(app) as jobs, pytest.raises(UsageError, match=r"sandbox\(app\)\.blocking\(\) as jobs"):
        call(jobs)


def test_a_timedelta_for_advance(app: Aether) -> None:
    clock = FakeClock()
    before = clock.now()
    with sandbox(app, clock=clock).blocking() as jobs:
        jobs.enqueue("Print", "later", "text", timedelta(hours=2))
        assert [ran.job_name for ran in jobs.advance(timedelta(hours=1), hours=1)] == ["later"]
        for wrong in (timedelta(-1), 3):
            with pytest.raises(InvalidOption, match="advance"):
                jobs.advance(wrong)
    assert clock.now() - before == timedelta(hours=2)
    assert clock.advance(timedelta(days=3)) - before == timedelta(days=3, hours=2)
    assert clock.monotonic() == timedelta(days=3, hours=2).total_seconds()
    with pytest.raises(InvalidOption, match="must be a timedelta, or its arguments by name"):
        clock.advance(3)  # type: ignore[arg-type]


def test_what_the_app_says_gets_a_word_about_the_sandbox(app: Aether) -> None:
    async def started_twice() -> None:
        async with sandbox(app), app:
            pass

    async def waited() -> None:
        async with sandbox(app):
            await app.wait(await app.enqueue("Print", payload="text"), timeout=0.05)

    def waited_blocking() -> None:
        with sandbox(app).blocking() as jobs:
            jobs.wait(jobs.enqueue("Print", payload="text"), timeout=0.05)

    for run, error, said in (
        (partial(anyio.run, started_twice), AlreadyStarted, "blocking(start=False)"),
        (partial(anyio.run, waited), WaitTimeout, "`jobs.drain()` before the wait"),
        (waited_blocking, WaitTimeout, "`jobs.drain()` before the wait"),
    ):
        with pytest.raises(error) as caught:
            run()
        assert said in caught.value.__notes__[0]
