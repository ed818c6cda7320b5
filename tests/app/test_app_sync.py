"""Verbs from elsewhere: `app.sync` for the other threads of a running app; elsewhere an error, never a hang."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from aether_bg import Aether, ForkedProcess, JobStatus, NotAnOwner, NotStarted, UnitOfWork, WrongLoop

pytestmark = pytest.mark.anyio

SOON = 2.0
"""Seconds within which an error counts as raised at once, on a machine under load."""


@pytest.fixture
def work(app: Aether) -> Aether:
    app.handler("Work")(lambda args=None: None)
    return app


VERBS: dict[str, Callable[[Any], Any]] = {
    "enqueue": lambda app: app.enqueue("Work"),
    "wait": lambda app: app.wait("job"),
    "explain": lambda app: app.explain("job"),
    "update": lambda app: app.update("job", "@daily"),
    "delete": lambda app: app.delete("job"),
    "retry": lambda app: app.retry("job"),
    "trigger": lambda app: app.trigger("job"),
    "pause": lambda app: app.pause("job"),
    "resume": lambda app: app.resume("job"),
    "drain": lambda app: app.drain(),
    "health": lambda app: app.health(),
    "store.get_by_job_name": lambda app: app.store.get_by_job_name("job"),
    "store.get_active": lambda app: app.store.get_active(),
    "store.find": lambda app: app.store.find(),
    "store.stats": lambda app: app.store.stats(),
    "store.purge": lambda app: app.store.purge(),
    "unit_of_work": lambda app: _inside(app),
    "aexit": lambda app: app.__aexit__(None, None, None),
}


async def _inside(app: Any) -> None:
    async with app.unit_of_work():
        pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_a_verb_on_another_loop_raises_at_once(work: Aether, backend: Any) -> None:
    async with work:
        await work.wait(await work.enqueue("Work", "job"), 10)
        for name, verb in VERBS.items():

            def elsewhere(verb: Callable[[Any], Any] = verb) -> None:
                async def call() -> None:
                    await verb(work)

                anyio.run(call, backend=backend)

            began = time.monotonic()
            with pytest.raises(WrongLoop, match=r"app\.sync") as caught:
                await anyio.to_thread.run_sync(elsewhere)
            assert "not running" not in str(caught.value)
            assert "client=True" in str(caught.value), name
            assert time.monotonic() - began < SOON, name
        assert (await work.health())["ok"]


async def test_a_view_of_the_store_knows_its_loop(work: Aether) -> None:
    async with work:
        view = work.store
        with pytest.raises(WrongLoop):
            await anyio.to_thread.run_sync(lambda: asyncio.run(view.find()))
        with pytest.raises(WrongLoop):  # a coroutine driven by hand, on no loop at all
            await anyio.to_thread.run_sync(lambda: work.enqueue("Work").send(None))


async def test_a_client_on_another_loop(work: Aether) -> None:
    async with work.client() as jobs:
        with pytest.raises(WrongLoop, match="client=True"):
            await anyio.to_thread.run_sync(lambda: asyncio.run(jobs.enqueue("Work")))


async def test_a_coroutine_made_in_a_thread_runs_on_the_right_loop(work: Aether, anyio_backend: str) -> None:
    """`run_coroutine_threadsafe(app.enqueue(…), loop)` and `from_thread.run(app.enqueue, …)` are right as they are."""
    async with work:
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(work.enqueue, "Work"))
        if anyio_backend == "asyncio":
            loop = asyncio.get_running_loop()
            await anyio.to_thread.run_sync(
                lambda: asyncio.run_coroutine_threadsafe(work.enqueue("Work"), loop).result(10)
            )


async def test_sync_serves_sixteen_threads(work: Aether) -> None:
    async with work:

        def use(number: int) -> None:
            jobs = work.sync
            job_id = jobs.enqueue("Work", f"{number}", {"n": number})
            assert jobs.wait(job_id, 20).status is JobStatus.COMPLETED
            assert jobs.store.get(job_id) is not None
            later = jobs.enqueue("Work", f"{number}-later", schedule="@daily")
            jobs.pause(later)
            jobs.resume(later)
            assert "SCHEDULED" in jobs.explain(later)
            assert jobs.delete(later)

        def all_at_once() -> None:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(use, range(16)))

        await anyio.to_thread.run_sync(all_at_once)
        assert (await work.store.stats()).completed == 16


async def test_sync_on_the_loop_itself_raises_at_once(work: Aether) -> None:
    async with work:
        with pytest.raises(WrongLoop, match="await"):
            work.sync.enqueue("Work")
        with pytest.raises(WrongLoop, match="await"):
            work.sync.store.find()
        with pytest.raises(WrongLoop, match="await"), work.sync.unit_of_work():
            pass
        jobs = work.sync
    with pytest.raises(NotStarted):
        jobs.enqueue("Work")


async def test_plain_handlers_enqueue(work: Aether) -> None:
    @work.handler("Plain")
    def plain() -> None:
        work.sync.enqueue("Work", "child")

    @work.handler("Unit")
    def unit(uow: UnitOfWork) -> None:
        work.sync.enqueue("Work", "joined")
        assert work.sync.store.get_by_job_name("joined") is None, "with the outcome, not before"

    async with work:
        for name in ("Plain", "Unit"):
            assert (await work.wait(await work.enqueue(name), 10)).status is JobStatus.COMPLETED
        for name in ("child", "joined"):
            assert (await work.wait(name, 10)).status is JobStatus.COMPLETED


async def test_a_unit_of_work_in_a_thread(work: Aether) -> None:
    async with work:

        def use() -> None:
            with pytest.raises(ZeroDivisionError), work.sync.unit_of_work():  # noqa: PT012
                work.sync.enqueue("Work", "dropped")
                raise ZeroDivisionError
            with work.sync.unit_of_work() as uow:
                uow.execute("CREATE TABLE notes (text TEXT)")
                work.sync.enqueue("Work", "kept")
                assert work.sync.store.get_by_job_name("kept") is None

        await anyio.to_thread.run_sync(use)
        assert await work.store.get_by_job_name("dropped") is None
        assert (await work.wait("kept", 10)).status is JobStatus.COMPLETED


async def test_a_call_ends_when_the_app_or_its_loop_does(make_app: Callable[..., Aether]) -> None:
    app = make_app(grace=0)
    app.handler("Work")(lambda: None)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            app.sync.wait("later")
        except BaseException as error:
            raised.append(error)

    async def main() -> None:
        async with app:
            await app.enqueue("Work", "later", schedule=timedelta(days=1))
            thread.start()
            await anyio.sleep(0.2)

    thread = threading.Thread(target=wait)
    await anyio.to_thread.run_sync(lambda: anyio.run(main))
    await anyio.to_thread.run_sync(thread.join, 20)
    assert not thread.is_alive()
    assert isinstance(raised[0], NotStarted)


def test_a_loop_that_has_stopped(app: Aether) -> None:
    """An app that was never left: its loop is there, and does not run."""
    app.handler("Work")(lambda: None)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(app.__aenter__())
    try:
        began = time.monotonic()
        with pytest.raises(NotStarted, match="event loop"):
            app.sync.enqueue("Work")
        with ThreadPoolExecutor(1) as pool, pytest.raises(NotStarted, match="event loop"):
            pool.submit(app.sync.enqueue, "Work").result(10)
        assert time.monotonic() - began < SOON
    finally:
        loop.run_until_complete(app.__aexit__(None, None, None))
        loop.close()


async def test_a_client_in_a_script(work: Aether, path: Path) -> None:
    producer = Aether(path, scheduler="timer")
    async with work:

        def use() -> None:
            with producer.blocking(client=True) as jobs:
                job_id = jobs.enqueue("Work", "made by a client")
                assert jobs.wait(job_id, 20).status is JobStatus.COMPLETED
                assert jobs.store.get(job_id) is not None
                with jobs.unit_of_work():
                    jobs.enqueue("Work", "in a unit")
                assert "COMPLETED" in jobs.explain(job_id)
                with pytest.raises(NotAnOwner):
                    jobs.delete(job_id)  # type: ignore[attr-defined]

        await anyio.to_thread.run_sync(use)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child(work: Aether) -> None:
    async with work:

        def fork() -> int:
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            code = 1
            try:
                work.sync.enqueue("Work")
            except ForkedProcess:
                code = 0
            finally:
                os._exit(code)

        assert await anyio.to_thread.run_sync(fork) == 0


async def test_fastapi_def_endpoints(work: Aether, anyio_backend: str) -> None:
    if anyio_backend == "trio":
        pytest.skip("the test client has a backend of its own; once is enough")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with work:
            yield

    service = FastAPI(lifespan=lifespan)

    @service.post("/orders/{number}")
    def order(number: int) -> str:
        return work.sync.wait(work.sync.enqueue("Work", f"order-{number}"), 20).status.name

    @service.post("/wrong")
    async def wrong() -> str:
        return str(work.sync.enqueue("Work"))

    def use() -> None:
        with TestClient(service) as client:
            for number in range(5):
                assert client.post(f"/orders/{number}").json() == "COMPLETED"
            with pytest.raises(WrongLoop):
                client.post("/wrong")

    await anyio.to_thread.run_sync(use)


def test_flask_views(work: Aether) -> None:
    from flask import Flask

    service = Flask(__name__)

    @service.post("/orders/<int:number>")
    def order(number: int) -> str:
        return work.sync.wait(work.sync.enqueue("Work", f"order-{number}"), 20).status.name

    with work.blocking(), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: service.test_client().post(f"/orders/{number}").text, range(16)))
    assert answers == ["COMPLETED"] * 16


def test_a_stop_during_a_claim_leaves_nothing_running(work: Aether, caplog: pytest.LogCaptureFixture) -> None:
    """The claim is on its way when the stop begins: it is run or put back, and never counted as a crash."""
    for number in range(20):
        with work.blocking() as jobs:
            jobs.enqueue("Work", f"job-{number}")
    with work.blocking(client=True) as client:
        left = client.store.find(status=[JobStatus.RUNNING])
    assert (left, caplog.messages) == ([], [])


def test_a_signal_handler(work: Aether) -> None:
    """On the loop's own thread an error; where the loop is another thread's, it is served."""
    seen: list[Any] = []

    def on_signal(*_: object) -> None:
        try:
            seen.append(work.sync.enqueue("Work"))
        except WrongLoop as error:
            seen.append(error)

    async def main() -> None:
        async with work:
            os.kill(os.getpid(), signal.SIGUSR1)
            await anyio.sleep(0.1)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        anyio.run(main)
        assert isinstance(seen.pop(), WrongLoop)
        with work.blocking() as jobs:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert jobs.wait(seen.pop(), 10).status is JobStatus.COMPLETED
    finally:
        signal.signal(signal.SIGUSR1, before)


def script(path: Path, body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script with `app` on `path`; a hang is an error."""
    head = "import atexit, asyncio, threading\nfrom aether_bg import *\n"
    head += f"app = Aether({str(path)!r}, scheduler='timer')\n"
    head += "app.handler('Work')(lambda: None)\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(body)],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


def test_at_exit(path: Path) -> None:
    ended = script(
        path,
        """
        def late():
            try:
                app.sync.enqueue("Work")
            except NotStarted as error:
                print("NotStarted")
        atexit.register(late)
        async def main():
            async with app:
                await app.enqueue("Work")
        asyncio.run(main())
        with app.blocking() as jobs:
            jobs.enqueue("Work")
        """,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "NotStarted\n", "")


def test_keyboard_interrupt_reaches_a_waiting_call(path: Path) -> None:
    ended = script(
        path,
        """
        import os, signal
        from datetime import timedelta
        with app.blocking() as jobs:
            jobs.enqueue("Work", "later", schedule=timedelta(days=1))
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                jobs.wait("later")
            except KeyboardInterrupt:
                print("interrupted", jobs.store.stats().scheduled)
        """,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted 1\n", "")


def test_a_blocking_app_left_open_at_exit(path: Path) -> None:
    ended = script(
        path,
        """
        block = app.blocking()
        jobs = block.__enter__()
        atexit.register(lambda: print(jobs.enqueue("Work", "at exit")))
        """,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.split()) == 1


def test_python_m_asyncio_ends(path: Path) -> None:
    """The loop of the REPL is stopped, never closed: no thread of ours may keep the interpreter."""
    typed = textwrap.dedent(
        f"""
        from aether_bg import Aether
        app = Aether({str(path)!r}, scheduler="timer")
        _ = app.handler("Work")(lambda: None)
        _ = await app.__aenter__()
        (await app.wait(await app.enqueue("Work"), 10)).status.name
        (await app.store.stats()).completed
        exit()
        """
    )
    ended = subprocess.run(
        [sys.executable, "-m", "asyncio"], input=typed, capture_output=True, text=True, timeout=60, check=False
    )
    assert "COMPLETED" in ended.stdout, ended
