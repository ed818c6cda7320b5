"""What a backlog costs: enqueue, claim, latency, start and memory with `size` jobs waiting for tomorrow."""

from __future__ import annotations

import os
import resource
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from statistics import median

import anyio
from timed_store import TimedStore

from aether_bg import Aether, SQLiteStore
from systems.timing import Figures, spread

HANDLERS = 10
SOME = 200
"""Jobs enqueued one by one, run one by one, and claimed a hundred at a time, twenty times over."""

COPY = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :size)
INSERT INTO aether_jobs ({columns})
SELECT {values} FROM n CROSS JOIN (SELECT * FROM aether_jobs WHERE id = :id)
"""


def multiply(path: Path, id_: str, size: int) -> None:
    """`size` copies of one waiting job, spread over ten handlers and over the day around its due instant."""
    with closing(sqlite3.connect(path)) as db:
        due = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', julianday(due_at) + (abs(random()) % 86400) / 86400.0)"
        new = {
            "id": "printf('%08x-0000-7000-8000-%012d', i / 1000, i)",  # in the order of time, as UUIDv7 is
            "job_name": "'waiting-' || i", "handler_name": f"'Far' || (i % {HANDLERS})",
            "due_at": due, "occurrence": due,
        }  # fmt: skip
        columns = [row[1] for row in db.execute("PRAGMA table_info(aether_jobs)")]
        values = ", ".join(new.get(name, name) for name in columns)
        db.execute("PRAGMA synchronous = OFF")
        db.execute(COPY.format(columns=", ".join(columns), values=values), {"size": size, "id": id_})
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(path, "rb+") as file:  # what is not on the disk yet would slow whatever is measured next
        os.fsync(file.fileno())


def _app(path: Path, waits: list[float]) -> tuple[Aether, TimedStore]:
    store = TimedStore(SQLiteStore(path))
    app = Aether(store, scheduler="timer")

    async def far() -> None: ...

    for number in range(HANDLERS):
        app.handler(f"Far{number}")(far)

    @app.handler("Noop")
    async def noop(began: float) -> None:
        waits.append(time.perf_counter() - began)

    return app, store


async def _measure(size: int, folder: Path) -> Figures:
    path, waits = folder.parent / f"backlog-{size}.db", list[float]()
    app, store = _app(path, waits)
    if not path.exists():  # the rounds of one run share it
        async with app.client() as jobs:
            far = await jobs.enqueue("Far0", schedule=timedelta(days=2))
        multiply(path, str(far), size)
    took = []
    for _ in range(3):
        app, store = _app(path, waits)
        began = time.perf_counter()
        async with app:
            took.append(time.perf_counter() - began)
    async with app:
        singly = []
        for _ in range(SOME):
            began = time.perf_counter()
            await app.enqueue("Far0", schedule=timedelta(days=1))
            singly.append(time.perf_counter() - began)
        for number in range(1, SOME + 1):
            await app.enqueue("Noop", payload=time.perf_counter())
            while len(waits) < number:
                await anyio.sleep(0.001)
            await anyio.sleep(0.002)
        idle = waits[:]
    async with app.client() as jobs:
        for _ in range(20):
            async with jobs.unit_of_work():
                for _ in range(100):
                    await jobs.enqueue("Noop", payload=0.0)
    store.spent.clear()
    async with app:
        await app.drain()
    full = [seconds for rows, seconds in store.spent["store_claim"] if rows >= 90]
    return {
        "start": min(took), "enqueue": median(singly) * 1000, "claim": min(full) * 1000,
        "latency": spread(idle)["p50"], "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def backlog(size: int, folder: Path) -> Figures:
    """`start` in seconds; `enqueue`, `latency`: medians in ms; `claim`: the quickest of a hundred rows, which had not
    to wait for outcomes of others, in ms; `rss`: the most, in MiB."""
    return anyio.run(_measure, size, folder)
