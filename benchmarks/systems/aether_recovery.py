"""From `kill -9` of the process that runs a job to the start of that job in another process on the same store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import anyio

from aether_bg import Aether
from systems.timing import Figures

WORKER = "import sys; from systems.aether_recovery import worker; worker(*sys.argv[1:])"


def worker(folder: str, url: str | None = None) -> None:
    """Runs jobs until it is killed; tells of each start."""
    app = Aether(url or Path(folder) / "jobs.db", scheduler="timer")
    parent = os.getppid()

    def follow() -> None:
        """The measuring process may be killed: nothing may stay behind."""
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

    @app.handler("Sleep", retries=100)  # crashes have a cap, of five or of the retries
    async def sleep() -> None:
        with open(Path(folder) / "starts", "a", encoding="ascii") as file:
            file.write(f"{os.getpid()} {time.time()}\n")
        await anyio.sleep(3600)

    app.run()


def _starts(folder: Path, count: int) -> list[tuple[int, float]]:
    """Waits until that many have run."""
    deadline = time.monotonic() + 30
    while True:
        lines = (folder / "starts").read_text().splitlines() if (folder / "starts").exists() else []
        if len(lines) >= count:
            return [(int(pid), float(at)) for pid, at in (line.split() for line in lines)]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(lines)} of {count} starts within 30 s")
        time.sleep(0.01)


def recovery(size: int, folder: Path, url: str | None = None) -> Figures:
    """Seconds, of `size` kills, with one other process waiting."""
    app = Aether(url or folder / "jobs.db")

    async def put() -> None:
        async with app.client() as jobs:
            await jobs.enqueue("Sleep")

    anyio.run(put)
    took: list[float] = []
    with ExitStack() as stack:
        running: dict[int, subprocess.Popen[bytes]] = {}

        def start() -> None:
            made = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(folder), *filter(None, [url])], cwd=Path(__file__).parents[1]
            )
            stack.callback(made.wait)
            stack.callback(made.kill)
            running[made.pid] = made

        start()
        start()
        for number in range(1, size + 1):
            pid, _ = _starts(folder, number)[-1]
            time.sleep(1.0)  # the other one has started, and looks
            killed = time.time()
            os.kill(pid, signal.SIGKILL)
            took.append(_starts(folder, number + 1)[-1][1] - killed)
            running.pop(pid).wait()
            start()
    return {"longest": max(took), "median": sorted(took)[len(took) // 2]}
