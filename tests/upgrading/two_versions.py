"""Two installed versions share one live file: `two_versions.py OLD_PYTHON NEW_PYTHON`, by `nox -s upgrade`.

As in a rolling deploy: old workers, then both, a worker killed, the new ones alone, and the old ones again.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio

from aether_bg import Aether, UnitOfWork

SCHEMA = "CREATE TABLE IF NOT EXISTS done (number INTEGER PRIMARY KEY, worker TEXT NOT NULL)"


def app_of(database: str, worker: str) -> Aether:
    app = Aether(database, scheduler="timer", concurrency=20)

    @app.handler("Add", retries=3)
    async def add(number: int, work: UnitOfWork) -> None:
        await anyio.sleep(0.01)
        work.execute("INSERT INTO done VALUES (?, ?)", [number, worker])  # a second run would violate the key

    @app.handler("Tick", schedule="@every 200ms")
    async def tick() -> None: ...

    return app


def work(database: str, worker: str) -> None:
    app_of(database, worker).run()


def produce(database: str, first: int, count: int) -> None:
    """Enqueue this many jobs and wait for all of them."""

    async def main() -> None:
        async with app_of(database, "").client() as jobs:
            async with jobs.unit_of_work() as unit:
                unit.execute(SCHEMA)
            made = [await jobs.enqueue("Add", f"add:{n}", n) for n in range(first, first + count)]
            for job in made:
                ended = await jobs.wait(job, timeout=60)
                assert ended.status.name == "COMPLETED", ended.last_error

    anyio.run(main)


def drive(old: str, new: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = str(Path(folder) / "jobs.db")
        numbers = iter(range(0, 10_000, 100))

        def start(python: str, name: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([python, __file__, "work", database, name])

        def enqueue(python: str) -> None:
            subprocess.run([python, __file__, "produce", database, str(next(numbers)), "100"], check=True)

        def stop(worker: subprocess.Popen[bytes]) -> None:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0, "a worker did not stop well"

        old_worker = start(old, "old")
        enqueue(old)
        new_worker = start(new, "new")
        enqueue(old)
        enqueue(new)
        new_worker.kill()
        new_worker.wait()
        enqueue(new)  # by the old worker alone
        new_worker = start(new, "new")
        stop(old_worker)
        enqueue(old)  # by the new worker alone
        stop(new_worker)
        old_worker = start(old, "old again")  # a deploy that is taken back
        enqueue(old)
        stop(old_worker)
        for python in (old, new):
            subprocess.run([python, "-m", "aether_bg.cli", "list", database], check=True, stdout=subprocess.DEVNULL)
        with sqlite3.connect(database) as rows:
            by_worker = dict(rows.execute("SELECT worker, count(*) FROM done GROUP BY worker"))
        rows.close()
        assert sum(by_worker.values()) == 600, by_worker
        assert by_worker.keys() == {"old", "new", "old again"}, by_worker


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", database, worker]:
            work(database, worker)
        case ["produce", database, first, count]:
            produce(database, int(first), int(count))
        case [old, new]:
            drive(old, new)
