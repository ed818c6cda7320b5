"""psycopg by hand: one connection, prepared statements, no library in between. The yardstick on PostgreSQL.

Two tables: `plain` is the least that can be called a job queue; `alike` is the table of aether_bg itself, with its
indexes and a history row per run. Both send a batch as one array for each column, which is the fastest way there is but
for COPY.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from aether_bg.plugins.postgres.schema import Schema, steps_sql
from systems import by_hand
from systems.timing import Figures, Measurement

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The statements of one kind of queue. `columns`: of a row, each with its type, all written as text."""

    schema: str
    columns: dict[str, str]
    row: Callable[[int], Row]
    claim: str
    complete: str
    name: str

    @property
    def insert(self) -> str:
        arrays = ", ".join(f"%s::{kind}[]" for kind in self.columns.values())
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) SELECT * FROM unnest({arrays})"


PLAIN = Table(
    name="queue",
    schema="""
        CREATE TABLE queue (
            id bigint PRIMARY KEY, due timestamptz NOT NULL, status smallint NOT NULL, seq integer NOT NULL DEFAULT 0,
            payload json NOT NULL
        );
        CREATE INDEX queue_due ON queue (due) WHERE status = 0;
    """,
    columns={"id": "bigint", "due": "timestamptz", "status": "smallint", "payload": "json"},
    row=lambda number: (str(number), "-infinity", "0", "null"),
    claim="""
        UPDATE queue SET status = 1, seq = seq + 1 WHERE id = ANY(ARRAY(
            SELECT id FROM queue WHERE status = 0 AND due <= now() ORDER BY due LIMIT %s FOR UPDATE SKIP LOCKED
        )) RETURNING id, seq, payload
    """,
    complete="""
        UPDATE queue SET status = 2 FROM unnest(%s::bigint[], %s::bigint[]) AS v(id, seq)
        WHERE queue.id = v.id AND queue.seq = v.seq
    """,
)
_NOW = "2026-01-01 00:00:00+00"
_VALUES = {
    "id": ("uuid", ""), "job_name": ("text", ""), "handler_name": ("text", "Noop"), "payload": ("json", "null"),
    "expression_value": ("text", "@once"), "timezone": ("text", "UTC"), "extra_properties": ("json", "{}"),
    "status": ("smallint", "0"), "seq": ("bigint", "0"), "schedule_rev": ("bigint", "0"), "armed_seq": ("bigint", "-1"),
    "misfire": ("text", "once"), "misfire_grace": ("float8", "10"), "jitter": ("float8", "0"),
    "created_by": ("text", "bench"),
    "modified_by": ("text", "bench"), "holds_name": ("boolean", "t"),
    **dict.fromkeys(("due_at", "occurrence", "created_at", "modified_at", "anchor"), ("timestamptz", _NOW)),
    **dict.fromkeys(
        ("priority", "occurrences", "attempt", "retry_count", "crash_count", "waits_for", "parents"), ("integer", "0")
    ),
    **dict.fromkeys(("paused", "manual", "off_schedule", "trigger_pending", "declared", "after_any"), ("boolean", "f")),
}  # fmt: skip


def _alike_row(number: int) -> Row:
    id_ = str(uuid.UUID(int=(time.time_ns() << 64) + number))  # in the order of time, as UUIDv7
    return tuple({"id": id_, "job_name": f"Noop-{id_}"}.get(name, value) for name, (_, value) in _VALUES.items())


ALIKE = Table(
    name="aether_bg.jobs",
    schema=steps_sql(Schema("aether_bg")),
    columns={name: kind for name, (kind, _) in _VALUES.items()},
    row=_alike_row,
    claim="""
        WITH picked AS MATERIALIZED (
            SELECT id FROM aether_bg.jobs WHERE status = 0 AND waits_for = 0 AND (NOT paused OR manual)
            AND handler_name = 'Noop' AND priority = 0 AND due_at <= now() ORDER BY due_at LIMIT %s
            FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE aether_bg.jobs AS j SET status = 1, seq = seq + 1, attempt = attempt + 1, started_at = now(),
                modified_at = now() FROM picked WHERE j.id = picked.id RETURNING j.*
        ), begun AS (
            INSERT INTO aether_bg.runs (job_id, token, gap, attempt, occurrence, started_at, count)
            SELECT id, seq, 0, attempt, occurrence, started_at, 1 FROM taken
        )
        SELECT id, seq, taken.* FROM taken
    """,
    complete="""
        WITH ended AS (
            UPDATE aether_bg.jobs AS j SET status = 2, seq = j.seq + 1, due_at = NULL, handled_time = now(),
                modified_at = now()
            FROM unnest(%s::uuid[], %s::bigint[]) AS v(id, seq) WHERE j.id = v.id AND j.seq = v.seq
            RETURNING v.id, v.seq
        )
        UPDATE aether_bg.runs SET outcome = 'completed', finished_at = now() FROM ended
        WHERE job_id = ended.id AND token = ended.seq AND gap = 0
    """,
)


class Queue:
    def __init__(self, url: str, table: Table) -> None:
        self.db, self.table = psycopg.connect(url, autocommit=True, prepare_threshold=0), table
        self.db.execute(table.schema.encode(), prepare=False)
        for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_hashjoin = off",
                        "enable_mergejoin = off", "jit = off"):  # fmt: skip
            self.db.execute(f"SET {setting}".encode())
        self._insert, self._claim, self._complete = (
            sql.encode() for sql in (table.insert, table.claim, table.complete)
        )

    def insert(self, batches: list[list[Row]]) -> None:
        """A commit each."""
        for rows in batches:
            self.db.execute(self._insert, [_array(column) for column in zip(*rows, strict=True)])

    def claim(self, batch: int) -> list[tuple[Any, ...]]:
        return self.db.execute(self._claim, [batch], binary=True).fetchall()

    def drain(self, batch: int) -> None:
        """Claim a batch, commit, complete it, commit, until nothing is left."""
        while taken := self.claim(batch):
            ids, tokens = _array(str(row[0]) for row in taken), _array(str(row[1]) for row in taken)
            self.db.execute(self._complete, [ids, tokens])


def _array(texts: Any) -> str:
    quoted = '","'.join(texts)
    return f'{{"{quoted}"}}'


def _speed(table: Table) -> Measurement:
    def measure(size: int, folder: Path, url: str) -> Figures:
        queue = Queue(url, table)
        with closing(queue.db):
            return by_hand.speed(queue, table.row, size)

    return measure


def _latency(size: int, folder: Path, url: str) -> Figures:
    queue = Queue(url, ALIKE)
    with closing(queue.db):
        return by_hand.latency(queue, ALIKE.row, size)


FIGURES: dict[str, Measurement] = {"speed": _speed(PLAIN), "speed_alike": _speed(ALIKE), "latency": _latency}
