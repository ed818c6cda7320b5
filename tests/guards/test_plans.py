"""Each statement that the kernel issues finds its rows by an index, and works no harder among many jobs."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from aether_bg.testing import FakeClock
from guards.recorded import Statement, kinds, recording
from guards.scenario import play

MANY = 5_000
HANDLED = "strftime('%Y-%m-%dT%H:%M:%f000Z', '2029-01-01', '+' || i || ' seconds')"
JUSTIFIED = {
    r"FROM aether_owners\b": "a row per process; with it, the rows of jobs that run now, which are at most as many "
        "as may run",
    r"^SELECT handler_name, count\(\*\) FROM aether_jobs WHERE status = 1": "limits: the rows of jobs that run now",
    r"^SELECT handler_name, 0, count": "stats: an operator's question, on a reader",
    r"^SELECT count\(\*\) FROM aether_(jobs|runs)": "stats",
    r"^SELECT count\(\*\) FROM \(SELECT 1 FROM \(SELECT 1 FROM aether_jobs INDEXED BY": "a listing asks whether few "
        "rows have that status: it counts no more than the rows it would sort",
    r"^SELECT min\(due_at\) FROM aether_jobs": "stats",
    r"json_each\(extra_properties\)": "metadata has no index: a search reads row by row",
    r"FROM aether_jobs (WHERE (created_at|handler_name|status IN).*)?ORDER BY id LIMIT": "a page of a listing: read "
        "in the order of ids until it is full",
    r"declared = 1 AND status < 2 ORDER BY id": "declared jobs, asked for at the start: an index of just these rows",
    r"AND status = 1 ORDER BY \+id": "what runs now: an index of just these rows",
    r"ORDER BY id DESC LIMIT": "a page of a listing, newest first, from the indexes for it",
    r"ORDER BY coalesce\(due_at, ''\), id LIMIT": "a listing by due instant",
    r"timezone IS NOT NULL ORDER BY id": "what has a zone and waits: an index of just these rows",
    r"armed_seq <> seq ORDER BY due_at": "what a push scheduler does not hold yet: an index of just these rows",
    r"aether_handlers\)\) AND due_at <= \? ORDER BY due_at": "a listing of what is due; the kernel asks handler by "
        "handler",
}  # fmt: skip
"""Statements that may read a whole table or index, by a pattern of their text, and why."""


Played = tuple[Path, dict[str, Statement]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A file on which every verb and query has been used, and the statements that touched jobs, runs or owners."""
    path, clock = tmp_path_factory.mktemp("plans") / "jobs.db", FakeClock()
    with recording() as found:
        anyio.run(play, path, clock)
    ours = [
        one for one in found.statements if re.search(r"\baether_(jobs|runs|owners)\b", one.sql) and one.verb != "CREATE"
    ]
    return path, kinds(ours)


def justified(sql: str) -> bool:
    return any(re.search(pattern, sql) for pattern in JUSTIFIED)


def plan(conn: sqlite3.Connection, one: Statement) -> list[str]:
    return [row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {one.sql}", one.params)]


def test_scenario_runs_every_kind_of_statement(played: Played) -> None:
    """Otherwise the tests below would prove little."""
    seen = " ".join(played[1])
    for part in (
        "INSERT INTO aether_jobs", "INSERT INTO aether_runs", "UPDATE aether_jobs SET seq",
        "UPDATE aether_jobs SET status = 1", "DELETE FROM aether_jobs", "DELETE FROM aether_runs",
        "DELETE FROM aether_owners", "UPDATE aether_owners",
        "json_array(lane, id, due_at)", "armed_seq <> seq", "SET outcome = 'completed'",
        "GROUP BY handler_name", "AND manual = 1 AND handler_name",
        "seq > 0", "timezone IS NOT NULL", "SELECT value AS name", "OFFSET", "handler_name > h.name",
        "UNION ALL SELECT * FROM aether_jobs WHERE job_name",
        "status = 1 AND owner = ?", "crash_count >= 2", "ORDER BY token DESC", "holds_name = 1",
    ):  # fmt: skip
        assert part in seen, part
    assert len(played[1]) > 40


def test_each_statement_names_the_database_before_a_table(played: Played) -> None:
    """Else a temporary table of the same name would take its place."""
    bare = [one.text for one in played[1].values() if re.search(r"\b(FROM|INTO|UPDATE|JOIN|TABLE) aether_", one.text)]
    assert bare == []


def test_no_statement_reads_a_whole_table(played: Played) -> None:
    path, statements = played
    bad = {}
    with closing(sqlite3.connect(path)) as conn:
        for sql, one in statements.items():
            scans = [line for line in plan(conn, one) if re.match(r"SCAN aether_(jobs|runs|owners)\b", line)]
            if scans and not justified(sql):
                bad[sql] = scans
    assert bad == {}


def grow(path: Path) -> None:
    """Many jobs wait for next year and many have ended, each with its history, of the handlers that there are."""
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(aether_jobs)")]
        new = {"id": "printf('%08x-0000-7000-8000-%012d', i / 1000, i)", "job_name": "'many-' || i"}
        for status, due, handled in ((0, "'2031-01-01T00:00:00.000000Z'", "NULL"), (2, "NULL", HANDLED)):
            state = new | {
                "status": status, "due_at": due, "occurrence": due, "handled_time": handled, "paused": 0, "attempt": 0,
                "crash_count": 0, "owner": "NULL", "holds_name": 1, "armed_seq": "seq",
                "handler_name": "iif(i % 2, 'Quick', 'Fails')",
            }  # fmt: skip
            values = ", ".join(str(state.get(name, name)) for name in columns)
            first = 1 + MANY * (status == 2)
            db.execute(
                f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + MANY - 1}) "
                f"INSERT INTO aether_jobs SELECT {values} FROM n CROSS JOIN (SELECT * FROM aether_jobs LIMIT 1)"
            )
        db.execute(
            "INSERT INTO aether_runs (job_id, token, gap, attempt, outcome, started_at, count) "
            "SELECT id, 1, 0, 1, 'failed', modified_at, 1 FROM aether_jobs WHERE job_name LIKE 'many-%' AND status = 2"
        )
        db.commit()


def work(path: Path, one: Statement) -> int:
    """Instructions of SQLite's machine that the statement takes, in tens; undone afterwards."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN")
        db.set_progress_handler(step, 10)
        with contextlib.suppress(sqlite3.IntegrityError):  # it was an insert, and is there by now
            db.execute(one.sql, one.params).fetchall()
        db.set_progress_handler(None, 0)
        db.execute("ROLLBACK")
    return steps


def test_among_many_jobs_a_statement_works_no_harder(played: Played, tmp_path: Path) -> None:
    """Waiting jobs, ended jobs and history: the hot path does not see them."""
    path, statements = played
    large = tmp_path / "large.db"
    shutil.copy(path, large)
    grow(large)
    few_many = {sql: (work(path, one), work(large, one)) for sql, one in statements.items() if not justified(sql)}
    assert {sql: seen for sql, seen in few_many.items() if seen[1] > 2 * seen[0] + 20} == {}


def test_no_justification_is_idle(played: Played) -> None:
    seen = list(played[1])
    assert [pattern for pattern in JUSTIFIED if not any(re.search(pattern, sql) for sql in seen)] == []
