"""What is done many times a second reads few rows, however many wait, have ended, or are held back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import attrs
import pytest
from psycopg import RawCursor

from aether_bg.model import (
    Claim,
    Completion,
    Failures,
    Heartbeat,
    Hold,
    Insert,
    JobInfo,
    JobStatus,
    Query,
    Runs,
    Update,
)
from aether_bg.plugins.postgres import changes, listing, owners, queries, schema
from aether_bg.plugins.postgres.claims import Claims
from aether_bg.plugins.postgres.connections import Link
from aether_bg.plugins.postgres.places import Place
from aether_bg.plugins.postgres.schema import Schema
from aether_bg.testing.contracts.values import a_job, now

MANY = 3000
NAMES = ("Work", "Other", "Held")


class Explained:
    """A connection that notes how many rows of jobs each statement reads by its plan."""

    def __init__(self, conn: Any) -> None:
        self._conn, self.read, self.plans, self.names = conn, 0, list[str](), None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, sql: bytes | str, params: Any = None, **options: Any) -> Any:
        if isinstance(sql, str):  # of the session, and none of ours
            return self._conn.execute(sql, params, **options)
        execute = RawCursor(self._conn).execute if b"$1" in sql else self._conn.execute
        with self._conn.transaction(force_rollback=True):
            plan = [line for (line,) in execute(b"EXPLAIN (ANALYZE) " + sql, params)]
        self.plans += plan
        for number, line in enumerate(plan):
            if found := re.search(
                r"(Seq|Index|Index Only|Heap) Scan.* on jobs.*actual.* rows=(\d+)(?:\.\d+)? loops=(\d+)", line
            ):
                removed = sum(
                    int(more) for more in re.findall(r"Removed by \w+: (\d+)", "\n".join(plan[number + 1 : number + 5]))
                )
                self.read += (int(found[2]) + removed) * int(found[3])
        return execute(sql, params, **options)


@pytest.fixture
def full(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Schema, Explained, Any]]:
    monkeypatch.setattr("aether_bg.plugins.postgres.prepared.RawCursor", lambda conn: conn)
    link, name = Link(Place(url)), Schema("aether_bg")
    with link.connect("schema") as conn:
        schema.migrate(conn, name, "here", 5)
        writer = link.connect("hot")
        me = uuid4()
        owners.register(conn, name, Heartbeat(owner=me, handlers=NAMES, now=now(), interval=5, keep_for=5), 1, True)
        ended: dict[str, Any] = {"status": JobStatus.COMPLETED, "due_at": None, "handled_time": now()}
        for number in range(0, MANY, 500):
            later = now() + timedelta(hours=number + 1)
            rows = [a_job(**ended) for _ in range(500)]
            rows += [a_job(handler_name=NAMES[n % 2], due_at=later, priority=n % 3) for n in range(500)]
            rows += [a_job(handler_name="Held") for _ in range(500)]
            changes.transact(writer, name, [Insert(job) for job in rows])
        changes.transact(writer, name, [Hold(handler="Held", held=True, at=now())])
        conn.execute(name("ANALYZE {schema}.jobs"))
        yield name, Explained(writer), me
        writer.close()


def claim_of(me: Any, **fields: Any) -> Claim:
    return Claim(owner=me, now=datetime.now(UTC), handlers=NAMES, **fields)


def test_claims_and_outcomes(full: tuple[Schema, Explained, Any]) -> None:
    name, conn, me = full
    claims = Claims(name)
    for fields in ({"limit": 10}, {"limit": 10, "limits": {"Work": 3}}, {"limit": 10, "kept": 3}, {"limit": 0}):
        conn.read = 0
        assert not claims.claim(conn, claim_of(me, **fields)).jobs  # type: ignore[arg-type]
        assert conn.read < 60, "\n".join(conn.plans)
    jobs = [a_job(handler_name="Work") for _ in range(10)]
    changes.transact(conn, name, [Insert(job) for job in jobs])  # type: ignore[arg-type]
    conn.read = 0
    taken = claims.claim(conn, claim_of(me, limit=10)).jobs  # type: ignore[arg-type]
    assert {job.id for job in taken} == {job.id for job in jobs}
    assert 10 <= conn.read < 150, "\n".join(conn.plans)
    conn.read = 0
    changes.transact(conn, name, [Update(done(job)) for job in taken])  # type: ignore[arg-type]
    assert conn.read < 30


def done(job: JobInfo) -> Completion:
    return Completion.of(job, now(), None, None)  # type: ignore[arg-type]


def test_looks(full: tuple[Schema, Explained, Any], url: str) -> None:
    name, _, me = full
    conn = Explained(Link(Place(url)).connect("read"))
    beat = Heartbeat(owner=me, handlers=NAMES, now=now(), interval=5, keep_for=5)
    alive = owners.Observer(name).look(conn, beat, uuid4(), [])  # type: ignore[arg-type]
    assert alive.known
    assert conn.read < 60, "\n".join(conn.plans)
    for query in (
        Query(job_name="no such name"), Query(ids=(uuid4(),)), Query(owner=me), Query(zoned=True), Query(declared=True),
        Query(changed_after=now() + timedelta(1)), Query(order="newest", limit=10),
        Query(name_prefix="no such"),
    ):  # fmt: skip
        conn.read, conn.plans = 0, []
        queries.find(conn, name, query)  # type: ignore[arg-type]
        assert conn.read < 100, "\n".join([repr(query), *conn.plans])
    conn.close()


PAGES = (
    Query(), Query(handler_name="Rare"), Query(paused=True), Query(recurring=True), Query(children_of=uuid4()),
    *(Query(status=(status,)) for status in (JobStatus.SCHEDULED, JobStatus.RUNNING)),
    *(Query(recurring=True, status=(status,)) for status in JobStatus),
    Query(recurring=True, status=(JobStatus.SCHEDULED, JobStatus.RUNNING)), Query(handler_name="Work", paused=True),
    Query(status=(JobStatus.FAILED,), order="ended"), Query(status=(JobStatus.CANCELLED,), order="ended"),
    Query(name_prefix="no such"),
)  # fmt: skip
"""What people look at; where no order is said, the newest first."""


def test_pages_for_people(full: tuple[Schema, Explained, Any], url: str) -> None:
    """None of them walks through the table, however few rows it finds; the counts do, once."""
    name, writer, _ = full
    ended: dict[str, Any] = {"status": JobStatus.FAILED, "due_at": None, "handled_time": now()}
    rows = [a_job(expression_value="@daily", due_at=now() + timedelta(days=n + 1)) for n in range(20)]
    rows += [a_job(**ended), a_job(handler_name="Rare", **ended), a_job(paused=True)]
    changes.transact(writer, name, [Insert(job) for job in rows])  # type: ignore[arg-type]
    with Link(Place(url)).connect("schema") as conn:
        for index in schema.LISTING:
            schema.make_index(conn, name, index)
        conn.execute(name("ANALYZE {schema}.jobs"))
    conn = Explained(Link(Place(url)).connect("read"))
    for page in PAGES:
        conn.read, conn.plans = 0, []
        query = attrs.evolve(page, order="newest" if page.order == "created" else page.order, limit=50)
        queries.find(conn, name, query)  # type: ignore[arg-type]
        assert conn.read <= 200, "\n".join([repr(query), *conn.plans])
    for ask in (lambda: listing.runs(conn, name, Runs()), lambda: listing.failures(conn, name, Failures())):
        conn.read, conn.plans = 0, []
        ask()
        assert conn.read <= 200, "\n".join(conn.plans)
    conn.read = 0
    counted = queries.stats(conn, name, uuid4())  # type: ignore[arg-type]
    assert (counted.total, counted.paused, counted.due) == (3 * MANY + len(rows), 1, 0)
    assert conn.read == counted.total
    conn.close()
