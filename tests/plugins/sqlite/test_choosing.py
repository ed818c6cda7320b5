"""What a claim takes from the file is what `Claim.choose` takes from the same rows, whatever they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import attrs
import pytest

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


def a_job_of(rng: Random, number: int) -> JobInfo:
    """Most of them are due. Due instants differ: of rows that are due at the same microsecond any may go first."""
    due = NOW - timedelta(seconds=rng.choice((-60, 0, 30, 400)) + rng.random(), microseconds=number)
    status = rng.choices((JobStatus.SCHEDULED, JobStatus.RUNNING, JobStatus.COMPLETED), (8, 1, 1))[0]
    return a_job(
        status=status, handler_name=rng.choice((*KINDS, *KINDS, "Unknown")),
        priority=rng.choice((-100, -7, 0, 0, 0, 1, 2, 50, 100)), paused=rng.random() < 0.1, manual=rng.random() < 0.3,
        waits_for=int(rng.random() < 0.1), crash_count=rng.choice((0, 0, 0, 0, 0, 1, 2, 5)),
        expression_value="@lunch" if rng.random() < 0.2 else "@once", anchor=NOW, occurrence=due,
        due_at=None if status.terminal else due, owner=OTHER if status is JobStatus.RUNNING else None,
    )  # fmt: skip


def a_claim(rng: Random) -> Claim:
    return Claim(
        owner=OWNER, now=NOW, limit=rng.choice((0, 1, 2, 5, 12, 30, 30)), suspect=rng.random() < 0.5,
        handlers=tuple(sorted(rng.sample(KINDS, rng.choice((1, 2, 3, 3, 3))))), kept=rng.randint(0, 3),
        limits={name: rng.randint(1, 12) for name in KINDS if rng.random() < 0.4},
        busy=frozenset(name for name in KINDS if rng.random() < 0.3),
        unreadable=(("@lunch", None),) if rng.random() < 0.5 else (),
    )  # fmt: skip


def test_sqlite_takes_what_the_model_chooses(conn: sqlite3.Connection, pytestconfig: pytest.Config) -> None:
    for seed in range(1000 if pytestconfig.getoption("--thorough") else 250):
        rng = Random(seed)
        jobs = [a_job_of(rng, number) for number in range(rng.choice((0, 1, 3, 3, 5, 5, 12, 30)))]
        held = {name for name in KINDS if rng.random() < 0.2}
        takes_what_the_model_chooses(conn, jobs, held, a_claim(rng))


def takes_what_the_model_chooses(
    conn: sqlite3.Connection, jobs: Sequence[JobInfo], held: set[str], claim: Claim
) -> None:
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
    for name, most in claim.limits.items():
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
