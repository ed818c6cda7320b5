"""A page of a listing costs about the same among many rows, however old or rare those that it shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from uuid import UUID

import attrs
import pytest

from aether_bg.model import Failures, JobStatus, Query, Runs
from aether_bg.plugins.sqlite import listing, queries
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS, write_job
from aether_bg.plugins.sqlite.schema import MAKE_LISTING_INDEXES, migrate
from aether_bg.testing.contracts.values import a_job, ago

ROWS, MOST = 20_000, 150
"""Jobs, and thousands of SQLite's steps for one page of 50 of them; each row of a walk through all takes about 15."""
END = "printf('2026-01-01T%02d:%02d:%02d.000000Z', n / 3600, n / 60 % 60, n % 60)"
QUERIES = (
    Query(), Query(handler_name="Rare"), Query(status=(JobStatus.SCHEDULED,)), Query(status=(JobStatus.RUNNING,)),
    Query(status=(JobStatus.SCHEDULED,), handler_name="Rare"), Query(paused=True), Query(recurring=True),
    Query(paused=True, handler_name="Common"), Query(recurring=True, status=(JobStatus.FAILED,)),
    Query(status=(JobStatus.FAILED, JobStatus.CANCELLED)), Query(status=(JobStatus.SCHEDULED, JobStatus.RUNNING)),
)  # fmt: skip
ENDED = (
    Query(status=(JobStatus.FAILED,)), Query(status=(JobStatus.COMPLETED,)), Query(status=(JobStatus.CANCELLED,)),
    Query(status=(JobStatus.FAILED,), handler_name="Common"),
)  # fmt: skip


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Completed jobs of one handler, after ten old ones of every other kind."""
    path = tmp_path_factory.mktemp("many") / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        migrate(conn, path)
        columns = ", ".join(JOB_COLUMNS)
        insert = f"INSERT INTO aether_jobs ({columns}) VALUES ({', '.join('?' * len(JOB_COLUMNS))})"
        ended = {"due_at": None, "handled_time": ago(9000)}
        kinds: list[dict[str, object]] = [
            {"handler_name": "Rare"}, {"paused": True}, {"expression_value": "@daily"},
            {"status": JobStatus.FAILED, **ended}, {"status": JobStatus.CANCELLED, **ended},
        ]  # fmt: skip
        conn.execute("BEGIN")
        for number, kind in enumerate(kinds * 10):
            conn.execute(insert, write_job(a_job(f"old{number}", id=UUID(int=number + 1), **kind)))
        done = a_job(
            "done", status=JobStatus.COMPLETED, due_at=None, handled_time=datetime.now(UTC), handler_name="Common"
        )
        conn.execute(insert, write_job(done))
        made = {"id": "printf('f%07d-0000-7000-8000-000000000000', n)", "job_name": "'many' || n", "handled_time": END}
        many = ", ".join(made.get(name, name) for name in JOB_COLUMNS)
        conn.execute(
            f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {ROWS})"
            f"INSERT INTO aether_jobs ({columns}) SELECT {many} FROM c, aether_jobs WHERE job_name = 'done'"
        )
        conn.execute("COMMIT")
        for make in MAKE_LISTING_INDEXES:
            conn.execute(make)
        yield conn


def thousands_of_steps(conn: sqlite3.Connection, query: Query | Runs | Failures) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    conn.set_progress_handler(count, 1000)
    try:
        match query:
            case Runs():
                listing.runs(conn, query)
            case Failures():
                listing.failures(conn, query)
            case _:
                queries.find(conn, query)
    finally:
        conn.set_progress_handler(None, 0)
    return steps


def test_a_page_costs_little_among_many(conn: sqlite3.Connection) -> None:
    asked: list[Query | Runs | Failures] = [attrs.evolve(query, order="newest", limit=50) for query in QUERIES]
    asked += [attrs.evolve(query, order="ended", limit=50) for query in ENDED]
    asked += [Query(children_of=UUID(int=1), limit=50), Query(parents_of=UUID(int=1), limit=50), Runs(), Failures()]
    spent = {str(query): thousands_of_steps(conn, query) for query in asked}
    assert {query: steps for query, steps in spent.items() if steps > MOST} == {}
    assert thousands_of_steps(conn, Query(error_line="none", order="newest")) > MOST  # nothing helps there
