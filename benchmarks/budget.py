"""CPU time per job by thread: the event loop's, the writer's, and what else the process takes.

    nox -s bench -- --layers, or python benchmarks/budget.py [--jobs 10000] [--json]

Wall time on a busy machine says little; CPU time of each thread says what a job costs. Beside it the floor: bare
asyncio and sqlite3, two threads as here, which write the same rows in the same batches.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aether_bg import Aether

BATCH = 100
TOGETHER = 64


class Spent:
    """µs per job, once the block has ended. CPU of threads that ended meanwhile counts as `rest`."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Spent:
        self._began, self._cpu, self._threads = time.perf_counter(), time.process_time(), _threads()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu, threads = time.perf_counter() - self._began, time.process_time() - self._cpu, _threads()
        spent = {name: threads[name] - self._threads.get(name, 0.0) for name in threads}
        rest = cpu - sum(spent.values())
        found = {"wall": wall, "cpu": cpu, **spent, "rest": rest}
        self.figures = {name: seconds / self._jobs * 1e6 for name, seconds in found.items()}


def _threads() -> dict[str, float]:
    """CPU seconds of the loop's thread (this one) and of the writers'."""
    writers = [thread for thread in threading.enumerate() if "writer" in thread.name and thread.ident]
    found = {"loop": time.thread_time(), "writer": 0.0}
    for thread in writers:
        assert thread.ident is not None
        with contextlib.suppress(OSError):
            found["writer"] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return found


def noop_app(path: Path) -> Aether:
    app = Aether(path, scheduler="timer")

    @app.handler("Noop")
    async def noop() -> None: ...

    return app


async def fill(app: Aether, jobs: int) -> None:
    async with app.client() as client:
        for start in range(0, jobs, 500):
            async with client.unit_of_work():
                for _ in range(min(500, jobs - start)):
                    await client.enqueue("Noop")


async def drain(path: Path, jobs: int) -> Spent:
    app, left = Aether(path, scheduler="timer"), jobs + 500
    warm, done = asyncio.Event(), asyncio.Event()

    @app.handler("Noop")
    async def noop() -> None:
        nonlocal left
        left -= 1
        if left == jobs:
            warm.set()
        elif left == 0:
            done.set()

    await fill(app, jobs + 500)
    async with app:
        await warm.wait()
        with Spent(jobs) as spent:
            await done.wait()
    return spent


async def together(path: Path, jobs: int) -> Spent:
    """64 tasks, each enqueueing one job after the other; a client, so that nothing runs beside it."""

    async def some(count: int) -> None:
        for _ in range(count):
            await client.enqueue("Noop")

    async with noop_app(path).client() as client:
        await asyncio.gather(*(some(2) for _ in range(TOGETHER)))
        with Spent(jobs // TOGETHER * TOGETHER) as spent:
            await asyncio.gather(*(some(jobs // TOGETHER) for _ in range(TOGETHER)))
    return spent


async def singly(path: Path, jobs: int) -> Spent:
    async with noop_app(path).client() as client:
        for _ in range(50):
            await client.enqueue("Noop")
        with Spent(jobs) as spent:
            for _ in range(jobs):
                await client.enqueue("Noop")
    return spent


async def idle(path: Path, seconds: int) -> Spent:
    """µs per second of an app that has nothing to do."""
    async with noop_app(path):
        await asyncio.sleep(1.5)
        with Spent(seconds) as spent:
            await asyncio.sleep(seconds)
    return spent


# -- the floor -------------------------------------------------------------------------------------


class Bare:
    """A writer thread with a queue of functions; each is a transaction, answered on the loop."""

    def __init__(self, path: Path) -> None:
        self._loop, self._queue = asyncio.get_running_loop(), queue.SimpleQueue[Any]()
        self._conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        for pragma in ("synchronous = FULL", "wal_autocheckpoint = 0", "foreign_keys = ON"):
            self._conn.execute(f"PRAGMA {pragma}")
        threading.Thread(target=self._main, name="bare writer", daemon=True).start()

    def _main(self) -> None:
        while (work := self._queue.get()) is not None:
            waiting = [work]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            self._conn.execute("BEGIN IMMEDIATE")
            answers = [(done, run(self._conn)) for run, done in waiting if run is not None]
            self._conn.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._answer, answers)

    def _answer(self, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for done, answer in answers:
            done.set_result(answer)

    def write(self, run: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        done = self._loop.create_future()
        self._queue.put((run, done))
        return done


TAKE = """UPDATE aether_jobs SET status = 1, seq = seq + 1, attempt = attempt + 1, owner = 'bare', started_at = :now,
    modified_at = :now WHERE rowid IN (SELECT value FROM json_each(:ids))"""
BEGIN = """INSERT INTO aether_runs (job_id, token, gap, attempt, occurrence, started_at, owner, count)
    SELECT id, seq, 0, attempt, occurrence, :now, owner, 1 FROM aether_jobs
    WHERE rowid IN (SELECT value FROM json_each(:ids))"""
DUE = """SELECT json_group_array(rowid) FROM (SELECT rowid FROM aether_jobs WHERE status = 0
    AND (paused = 0 OR manual = 1) AND handler_name = 'Noop' AND due_at <= ? ORDER BY due_at LIMIT 100)"""
ENDED = """UPDATE aether_jobs SET status = 2, seq = seq + 1, due_at = NULL, owner = NULL, handled_time = :now,
    last_occurrence = occurrence, occurrences = occurrences + 1, modified_at = :now
    WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 1"""
END = """UPDATE aether_runs SET outcome = 'completed', finished_at = :now WHERE (job_id, token) IN
    (SELECT id, seq - 1 FROM aether_jobs WHERE id IN (SELECT value FROM json_each(:ids)))"""
ROWS = "SELECT json_group_array(json_array(id, handler_name, payload, seq, attempt, due_at)) FROM aether_jobs"
_NOW = "2999-01-01T00:00:00.000000Z"


async def bare_drain(path: Path, jobs: int) -> Spent:
    await fill(noop_app(path), jobs + BATCH)
    bare, left, loop = Bare(path), jobs, asyncio.get_running_loop()

    def claim(conn: sqlite3.Connection) -> str:
        taken: str = conn.execute(DUE, [_NOW]).fetchone()[0]
        values = {"now": _NOW, "ids": taken}
        conn.execute(TAKE, values)
        conn.execute(BEGIN, values)
        rows: str = conn.execute(f"{ROWS} WHERE rowid IN (SELECT value FROM json_each(?))", [taken]).fetchone()[0]
        return rows

    def record(done: list[str]) -> Callable[[sqlite3.Connection], None]:
        values = {"now": _NOW, "ids": json.dumps(done)}

        def run(conn: sqlite3.Connection) -> None:
            conn.execute(ENDED, values)
            conn.execute(END, values)

        return run

    async def attempt(row: list[Any]) -> None:
        done.append(row[0])

    done: list[str] = []
    await bare.write(claim)
    with Spent(jobs) as spent:
        claimed = bare.write(claim)
        while left > 0:
            rows = json.loads(await claimed)
            for task in [loop.create_task(attempt(row)) for row in rows]:
                await task
            left -= len(rows)
            bare.write(record(done))
            claimed, done = bare.write(claim), []
        await claimed
    bare._queue.put(None)
    return spent


async def bare_insert(path: Path, jobs: int, together: int) -> Spent:
    """Rows as an enqueue makes them, already converted: by that many tasks."""
    async with noop_app(path).client() as client:
        await client.enqueue("Noop")
    with contextlib.closing(sqlite3.connect(path)) as conn:
        cursor = conn.execute("SELECT * FROM aether_jobs")
        row, names = list(cursor.fetchone()), [column[0] for column in cursor.description]
    place, bare, numbers = names.index("id"), Bare(path), iter(range(10**9))
    name = names.index("job_name")
    insert = f"INSERT INTO aether_jobs VALUES ({', '.join('?' * len(row))})"

    def made() -> list[Any]:
        mine = row.copy()
        mine[place] = mine[name] = f"{next(numbers):032}-bare"
        return mine

    async def some(count: int) -> None:
        for _ in range(count):
            mine = made()
            await bare.write(lambda conn, mine=mine: conn.execute(insert, mine))

    with Spent(jobs) as spent:
        await asyncio.gather(*(some(jobs // together) for _ in range(together)))
    bare._queue.put(None)
    return spent


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "jobs.db"


def measured(jobs: int) -> dict[str, dict[str, float]]:
    """All of it, in µs per job (idle: per second)."""
    parts: dict[str, Callable[[Path], Any]] = {
        "drain": lambda path: drain(path, jobs),
        "drain, floor": lambda path: bare_drain(path, jobs),
        "64 at once": lambda path: together(path, jobs),
        "64 at once, floor": lambda path: bare_insert(path, jobs, TOGETHER),
        "one at a time": lambda path: singly(path, jobs // 5),
        "one at a time, floor": lambda path: bare_insert(path, jobs // 5, 1),
        "idle, a second": lambda path: idle(path, 5),
    }
    found = {}
    for name, part in parts.items():
        with folder() as path:
            found[name] = asyncio.run(part(path)).figures
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    lines = [f"{'µs per job':24}{'wall':>9}{'CPU':>9}{'loop':>9}{'writer':>9}{'rest':>9}"]
    for name, spent in found.items():
        lines.append(
            f"{name:24}" + "".join(f"{spent[part]:9.1f}" for part in ("wall", "cpu", "loop", "writer", "rest"))
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="print figures for a program")
    asked = parser.parse_args()
    found = measured(asked.jobs)
    print(json.dumps(found) if asked.json else table(found))
