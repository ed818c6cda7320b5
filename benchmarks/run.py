"""aether_bg beside raw sqlite3 doing the same durable work, in one run: `nox -s bench`, or `python benchmarks/run.py`.

Machines differ and are noisy, so every figure is also a ratio. Each part runs in a process of its own. Prints a table
and writes benchmarks/results/latest.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio

RESULTS = Path(__file__).parent / "results"
BATCH = 100

RAW_SCHEMA = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, name TEXT NOT NULL, handler TEXT NOT NULL, status INTEGER NOT NULL,
    due_at TEXT, payload TEXT NOT NULL, created_at TEXT NOT NULL, handled_at TEXT, seq INTEGER NOT NULL);
CREATE UNIQUE INDEX jobs_name ON jobs (name);
CREATE INDEX jobs_due ON jobs (due_at) WHERE status = 0;
CREATE TABLE runs (job_id TEXT NOT NULL, seq INTEGER NOT NULL, started_at TEXT, finished_at TEXT, outcome TEXT,
    PRIMARY KEY (job_id, seq)) WITHOUT ROWID;
"""


class Raw:
    """What a careful author would write by hand: one connection, full synchronous WAL, a history row per run."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(RAW_SCHEMA)

    def rows(self, n: int) -> list[tuple[object, ...]]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        made = [str(uuid.uuid4()) for _ in range(n)]
        return [(i, f"Noop-{i}", "Noop", 0, now, "null", now, None, 0) for i in made]

    def insert(self, rows: list[tuple[object, ...]]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.db.execute("COMMIT")

    def drain(self) -> int:
        done = 0
        while True:
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
            self.db.execute("BEGIN IMMEDIATE")
            taken = self.db.execute(
                "UPDATE jobs SET status = 1, seq = seq + 1 WHERE id IN (SELECT id FROM jobs WHERE status = 0 AND "
                "due_at <= ? ORDER BY due_at LIMIT ?) RETURNING id, seq, payload", (now, BATCH)
            ).fetchall()  # fmt: skip
            self.db.executemany("INSERT INTO runs VALUES (?, ?, ?, NULL, NULL)", [(i, s, now) for i, s, _ in taken])
            self.db.execute("COMMIT")
            if not taken:
                return done
            self.db.execute("BEGIN IMMEDIATE")
            self.db.executemany(
                "UPDATE jobs SET status = 2, due_at = NULL, handled_at = ? WHERE id = ? AND seq = ?",
                [(now, i, s) for i, s, _ in taken],
            )
            self.db.executemany(
                "UPDATE runs SET finished_at = ?, outcome = 'completed' WHERE job_id = ? AND seq = ?",
                [(now, i, s) for i, s, _ in taken],
            )
            self.db.execute("COMMIT")
            done += len(taken)


def per_second(n: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return n / (time.perf_counter() - began)


def raw(scale: float) -> dict[str, float]:
    one, many = int(3000 * scale), int(200 * scale)
    with tempfile.TemporaryDirectory() as folder:
        store = Raw(Path(folder) / "raw.db")
        rows = store.rows(one)
        singly = per_second(one, lambda: [store.insert([row]) for row in rows])
        batches = [store.rows(BATCH) for _ in range(many)]
        batched = per_second(many * BATCH, lambda: [store.insert(batch) for batch in batches])
        total = one + many * BATCH
        drained = per_second(total, store.drain)
        store.db.close()
    return {"enqueue_one": singly, "enqueue_batch": batched, "drain": drained}


async def _aether(scale: float) -> dict[str, float]:
    from aether_bg import Aether

    one, each, target = int(2000 * scale), int(150 * scale), int(15_000 * scale)
    with tempfile.TemporaryDirectory() as folder:
        app = Aether(Path(folder) / "jobs.db", scheduler="timer")
        latencies: list[float] = []
        finished = anyio.Event()
        done = 0

        @app.handler("Far")
        async def far() -> None: ...

        @app.handler("Latency")
        async def latency(began: float) -> None:
            latencies.append(time.perf_counter() - began)

        @app.handler("Noop")
        async def noop() -> None:
            nonlocal done
            done += 1
            if done == target:
                finished.set()

        later = timedelta(days=1)
        async with app:
            began = time.perf_counter()
            for _ in range(one):
                await app.enqueue("Far", schedule=later)
            singly = one / (time.perf_counter() - began)

            async def some() -> None:
                for _ in range(each):
                    await app.enqueue("Far", schedule=later)

            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(64):
                    group.start_soon(some)
            together = 64 * each / (time.perf_counter() - began)
            for _ in range(300):
                await app.enqueue("Latency", payload=time.perf_counter())
                await anyio.sleep(0.004)
        async with app.client() as jobs:

            async def fill() -> None:
                for _ in range(-(-target // 64)):
                    await jobs.enqueue("Noop")

            async with anyio.create_task_group() as group:
                for _ in range(64):
                    group.start_soon(fill)
        began = time.perf_counter()
        async with app:
            await finished.wait()
            drained = target / (time.perf_counter() - began)
    latencies.sort()
    return {
        "enqueue_one": singly,
        "enqueue_64": together,
        "drain": drained,
        "latency_p50_ms": latencies[len(latencies) // 2] * 1000,
        "latency_p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


def part(name: str, scale: float) -> dict[str, float]:
    """One part, in a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--scale", str(scale)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="size of the run; 0.2 for a quick look")
    parser.add_argument("--part", choices=["raw", "aether_bg"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        figures = raw(asked.scale) if asked.part == "raw" else anyio.run(_aether, asked.scale)
        print(json.dumps(figures))
        return
    found: dict[str, dict[str, float]] = {}
    for name in ("raw", "aether_bg"):
        print(f"{name} …", file=sys.stderr, flush=True)
        found[name] = part(name, asked.scale)
    ours, theirs = found["aether_bg"], found["raw"]
    rows = [
        ("enqueue, one at a time", ours["enqueue_one"], theirs["enqueue_one"], "raw, one commit each"),
        ("enqueue, 64 concurrent", ours["enqueue_64"], theirs["enqueue_batch"], "raw, 100 per commit"),
        ("drain, async no-op", ours["drain"], theirs["drain"], "raw, 100 per commit"),
    ]
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, synchronous=FULL")
    for what, us, them, whom in rows:
        print(f"{what:24} {us:9,.0f}/s   {us / them:5.2f} × {whom} ({them:,.0f}/s)")
    print(f"{'idle latency':24} p50 {ours['latency_p50_ms']:.2f} ms, p99 {ours['latency_p99_ms']:.2f} ms")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
