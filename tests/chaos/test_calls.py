"""Row 39: verbs from foreign threads, loops, forks, signal handlers, at exit and from web views: served, or an error at
once; nothing hangs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """
import asyncio, atexit, contextlib, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from aether_bg import *

app = Aether(sys.argv[1], scheduler="timer", grace=1)
app.handler("Work")(lambda args=None: None)
seen = []

def tried(fn):
    began = time.monotonic()
    try:
        fn()
        said = "served"
    except AetherError as error:
        said = type(error).__name__
    assert time.monotonic() - began < 5, f"{said} after {time.monotonic() - began:.1f} s"
    return said
"""

SCRIPTS = {
    "threads": """
        async def main():
            async with app:
                def use(n):
                    assert tried(lambda: asyncio.run(app.enqueue("Work"))) == "WrongLoop"
                    return app.sync.wait(app.sync.enqueue("Work", f"job-{n}"), 30).status.name
                with ThreadPoolExecutor(16) as pool:
                    loop = asyncio.get_running_loop()
                    got = await asyncio.gather(*(loop.run_in_executor(pool, use, n) for n in range(64)))
                assert got == ["COMPLETED"] * 64, got
        asyncio.run(main())
        """,
    "fork": """
        with app.blocking() as jobs:
            jobs.wait(jobs.enqueue("Work"), 30)
            pid = os.fork()
            if pid == 0:
                calls = (lambda: jobs.enqueue("Work"), lambda: app.sync.store.find(), lambda: asyncio.run(app.health()))
                os._exit(0 if [tried(call) for call in calls] == ["ForkedProcess"] * 3 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            jobs.wait(jobs.enqueue("Work"), 30)
        """,
    "signal": """
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(tried(lambda: app.sync.enqueue("Work"))))
        async def main():
            async with app:
                for _ in range(20):
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await asyncio.sleep(0.001)
        asyncio.run(main())
        assert set(seen) == {"WrongLoop"}, seen
        seen.clear()
        with app.blocking() as jobs:
            for _ in range(20):
                os.kill(os.getpid(), signal.SIGUSR1)
                jobs.enqueue("Work")
        assert set(seen) == {"served"}, seen
        """,
    "exit": """
        atexit.register(lambda: print(tried(lambda: app.sync.enqueue("Work"))))
        async def main():
            async with app:
                await app.wait(await app.enqueue("Work"), 30)
        asyncio.run(main())
        block = app.blocking()
        block.__enter__()
        """,
    "end of the loop": """
        def waits():
            seen.append(tried(lambda: app.sync.wait("never", 4)))
        async def main():
            async with app:
                await app.enqueue("Work", "never", schedule="@every 1h", repeats=1)
                for thread in threads:
                    thread.start()
                await asyncio.sleep(0.2)
        threads = [threading.Thread(target=waits) for _ in range(16)]
        asyncio.run(main())
        for thread in threads:
            thread.join(20)
        assert seen == ["NotStarted"] * 16, seen
        """,
    "fastapi": """
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        @contextlib.asynccontextmanager
        async def lifespan(_):
            async with app:
                yield

        service = FastAPI(lifespan=lifespan)

        @service.post("/plain/{n}")
        def plain(n: int) -> str:
            return app.sync.wait(app.sync.enqueue("Work", f"job-{n}"), 30).status.name

        @service.post("/wrong")
        async def wrong() -> str:
            return tried(lambda: app.sync.enqueue("Work"))

        with TestClient(service) as client, ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda n: client.post(f"/plain/{n}").json(), range(32)))
            assert got == ["COMPLETED"] * 32, got
            assert client.post("/wrong").json() == "WrongLoop"
        """,
    "flask": """
        from flask import Flask

        service = Flask("service")

        @service.post("/<int:n>")
        def view(n):
            with app.sync.unit_of_work():
                job = app.sync.enqueue("Work", f"job-{n}")
            return app.sync.wait(job, 30).status.name

        with app.blocking(), ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda n: service.test_client().post(f"/{n}").text, range(32)))
            assert got == ["COMPLETED"] * 32, got
        """,
}


@pytest.mark.row(39, small=1, full=20)
@pytest.mark.parametrize("name", SCRIPTS)
def test_verbs_from_elsewhere(tmp_path: Path, count: int, name: str, note: Callable[[str], None]) -> None:
    if name in ("fastapi", "flask"):
        pytest.importorskip(name)
    for number in range(count):
        command = [sys.executable, "-c", HEAD + textwrap.dedent(SCRIPTS[name]), str(tmp_path / f"{number}.db")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
    note(f"{count} without a hang")
