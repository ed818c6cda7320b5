"""sqlite3 by hand: one connection, WAL, synchronous=FULL, and no library in between. The yardstick of every ratio.

Two tables: `plain` is the least that can be called a job queue; `alike` writes the kind of rows that aether_bg writes
(text ids, a unique name, times as text, a history row per run).
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systems import by_hand
from systems.timing import Figures, Measurement

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """The statements of one kind of queue. `claim` returns (id, …) of what it takes; `begin_run` is for history."""

    schema: str
    row: Callable[[int], Row]
    insert: str
    claim: str
    complete: str
    begin_run: str | None = None
    end_run: str | None = None
    now: Callable[[], Any] = time.time


def text_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())


def _alike_row(number: int) -> Row:
    id_, now = str(uuid.UUID(int=(time.time_ns() << 64) + number)), text_now()  # in the order of time, as UUIDv7
    return (id_, f"Noop-{id_}", "Noop", 0, now, "null", "{}", now, now, 0)


PLAIN = Table(
    schema="""
        CREATE TABLE jobs (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL, payload TEXT NOT NULL, due REAL NOT NULL,
            status INTEGER NOT NULL
        );
        CREATE INDEX jobs_due ON jobs (due) WHERE status = 0;
    """,
    row=lambda number: (number, "Noop", "null", time.time(), 0),
    insert="INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
    claim="UPDATE jobs SET status = 1 WHERE id IN (SELECT id FROM jobs WHERE status = 0 AND due <= ? "
    "ORDER BY due LIMIT ?) RETURNING id",
    complete="UPDATE jobs SET status = 2 WHERE id = ? AND status = 1",
)
ALIKE = Table(
    schema="""
        CREATE TABLE jobs (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, handler TEXT NOT NULL, status INTEGER NOT NULL, due_at TEXT,
            payload TEXT NOT NULL, metadata TEXT NOT NULL, created_at TEXT NOT NULL, modified_at TEXT NOT NULL,
            seq INTEGER NOT NULL
        );
        CREATE UNIQUE INDEX jobs_name ON jobs (name);
        CREATE INDEX jobs_due ON jobs (handler, due_at) WHERE status = 0;
        CREATE TABLE runs (
            job_id TEXT NOT NULL REFERENCES jobs(id), started_at TEXT, finished_at TEXT, outcome TEXT,
            PRIMARY KEY (job_id)
        ) WITHOUT ROWID;
    """,
    row=_alike_row,
    insert="INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    claim="UPDATE jobs SET status = 1, seq = seq + 1 WHERE id IN (SELECT id FROM jobs WHERE status = 0 AND "
    "handler = 'Noop' AND due_at <= ? ORDER BY due_at LIMIT ?) RETURNING id",
    complete="UPDATE jobs SET status = 2, due_at = NULL, seq = seq + 1 WHERE id = ? AND status = 1",
    begin_run="INSERT INTO runs (job_id, started_at) VALUES (?, ?)",
    end_run="UPDATE runs SET finished_at = ?2, outcome = 'completed' WHERE job_id = ?1",
    now=text_now,
)


class Queue:
    def __init__(self, path: Path, table: Table) -> None:
        self.db, self.table = sqlite3.connect(path, isolation_level=None), table
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(table.schema)

    def insert(self, batches: list[list[Row]]) -> None:
        """A commit each."""
        for rows in batches:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.executemany(self.table.insert, rows)
            self.db.execute("COMMIT")

    def claim(self, batch: int) -> tuple[list[Row], Any]:
        """What is due, up to a limit, and when it was taken."""
        table, db, now = self.table, self.db, self.table.now()
        db.execute("BEGIN IMMEDIATE")
        taken = db.execute(table.claim, (now, batch)).fetchall()
        if table.begin_run:
            db.executemany(table.begin_run, [(row[0], now) for row in taken])
        db.execute("COMMIT")
        return taken, now

    def drain(self, batch: int) -> None:
        """Claim a batch, commit, complete it, commit, until nothing is left."""
        table, db = self.table, self.db
        while True:
            taken, now = self.claim(batch)
            if not taken:
                return
            db.execute("BEGIN IMMEDIATE")
            db.executemany(table.complete, taken)
            if table.end_run:
                db.executemany(table.end_run, [(row[0], now) for row in taken])
            db.execute("COMMIT")


def _speed(table: Table) -> Measurement:
    def measure(size: int, folder: Path) -> Figures:
        queue = Queue(folder / "jobs.db", table)
        with closing(queue.db):
            return by_hand.speed(queue, table.row, size)

    return measure


def _latency(size: int, folder: Path) -> Figures:
    queue = Queue(folder / "jobs.db", ALIKE)
    with closing(queue.db):
        return by_hand.latency(queue, ALIKE.row, size)


FIGURES: dict[str, Measurement] = {"speed": _speed(PLAIN), "speed_alike": _speed(ALIKE), "latency": _latency}
