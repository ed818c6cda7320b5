"""What a claim takes from the file is what `Claim.choose` takes from the same rows, whatever they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aether_bg.model import Claim, Hold, Insert, JobInfo, JobStatus
from aether_bg.plugins.sqlite import changes, claims, reading
from aether_bg.plugins.sqlite.guard import Guard
from aether_bg.plugins.sqlite.schema import migrate
from aether_bg.testing.contracts.values import a_job

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
KINDS = ("Render", "Mail", "Sync")
OWNER, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("choosing") / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        migrate(conn, path)
        columns = "id, host, pid, started_at, beat, beat_at, handlers"
        conn.execute(f"INSERT INTO aether_owners ({columns}) VALUES (?, '', 0, '', 0, '', '[]')", [str(OWNER)])
        yield conn


rows = st.fixed_dictionaries({
    "handler_name": st.sampled_from((*KINDS, "Unknown")),
    "priority": st.sampled_from((-100, -7, 0, 0, 0, 1, 2, 50, 100)),
    "paused": st.booleans(),
    "manual": st.booleans(),
    "waits_for": st.sampled_from((0, 0, 0, 1)),
    "crash_count": st.sampled_from((0, 0, 0, 1, 2, 5)),
    "seconds": st.integers(-90, 400),
    "status": st.sampled_from((JobStatus.SCHEDULED,) * 5 + (JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.COMPLETED)),
    "unreadable": st.sampled_from((False, False, False, True)),
})  # fmt: skip
numbers = st.dictionaries(st.sampled_from(KINDS), st.integers(1, 4))


def made(number: int, row: dict[str, Any]) -> JobInfo:
    """Due instants differ: of rows that are due at the same microsecond any may go first."""
    row = dict(row)
    due = NOW - timedelta(seconds=row.pop("seconds"), microseconds=number)
    text = "@lunch" if row.pop("unreadable") else "@once"
    owner = OTHER if row["status"] is JobStatus.RUNNING else None
    due_at = None if row["status"].terminal else due
    return a_job(due_at=due_at, expression_value=text, owner=owner, anchor=NOW, occurrence=due, **row)


def test_sqlite_takes_what_the_model_chooses(conn: sqlite3.Connection, pytestconfig: pytest.Config) -> None:
    examples = 300 if pytestconfig.getoption("--thorough") else 100
    settings(max_examples=examples, deadline=None)(given(
        conn=st.just(conn), some=st.lists(rows, max_size=30), limits=numbers, held=st.sets(st.sampled_from(KINDS)),
        busy=st.frozensets(st.sampled_from(KINDS)), kept=st.integers(0, 3), limit=st.integers(0, 12),
        suspect=st.booleans(), unreadable=st.booleans(), handlers=st.sets(st.sampled_from(KINDS), min_size=1),
    )(takes_what_the_model_chooses))()  # fmt: skip


def takes_what_the_model_chooses(
    conn: sqlite3.Connection, some: list[dict[str, Any]], limits: dict[str, int], held: set[str],
    busy: frozenset[str], kept: int, limit: int, suspect: bool, unreadable: bool, handlers: set[str],
) -> None:  # fmt: skip
    jobs = [made(number, row) for number, row in enumerate(some)]
    claim = Claim(
        owner=OWNER, now=NOW, limit=limit, handlers=tuple(sorted(handlers)), suspect=suspect, limits=limits, busy=busy,
        kept=kept, unreadable=(("@lunch", None),) if unreadable else (),
    )  # fmt: skip
    conn.execute("BEGIN")
    try:
        guard = Guard(conn)
        changes.transact(conn, [Insert(job) for job in jobs], guard)
        changes.transact(conn, [Hold(handler=name, held=True, at=NOW) for name in held], guard)
        found, next_due, short = claims.claim(conn, claim)
        stored = {job.id: vars(job) for job in reading.jobs(conn, "FROM main.aether_jobs", [])}
        again, told = claims.claim_one_by_one(conn, attrs.evolve(claim, limit=0))
    finally:
        conn.execute("ROLLBACK")
    seen = [job.under(held) for job in jobs]
    wanted = claim.choose(seen)
    taken = {job.id: claim.take(job) for job in wanted}
    answer = claim.answer(list(taken.values()), [taken.get(job.id, job) for job in seen])
    got = sorted(found.read(claim), key=claim.rank)
    assert [vars(job) for job in got] == [stored[job.id] for job in got]
    assert [job.id for job in got] == [job.id for job in wanted]
    assert (next_due, short) == (answer.next_due, answer.short)
    assert (again, told) == ([], [])
    for name, most in limits.items():
        runs = sum(job.status is JobStatus.RUNNING and job.handler_name == name for job in seen)
        assert sum(job.handler_name == name for job in got) <= max(0, most - runs)


def test_a_due_instant_that_is_not_text_does_not_stop_the_claim(conn: sqlite3.Connection) -> None:
    good, bad = (a_job(due_at=NOW, handler_name=KINDS[0]) for _ in range(2))
    conn.execute("BEGIN")
    try:
        changes.transact(conn, [Insert(good), Insert(bad)], Guard(conn))
        conn.execute("UPDATE aether_jobs SET due_at = CAST(x'30ff' AS TEXT) WHERE id = ?", [str(bad.id)])
        claim = Claim(owner=OWNER, now=NOW, limit=5, handlers=KINDS)
        with pytest.raises(sqlite3.OperationalError):
            claims.claim(conn, claim)
        found, told = claims.claim_one_by_one(conn, claim)
    finally:
        conn.execute("ROLLBACK")
    assert [job.id for job in found] == [good.id]
    assert len(told) == 1
