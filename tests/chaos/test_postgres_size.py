"""PostgreSQL: many waiting jobs, and days of jobs that come and go. Row 121 of the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest

from aether_bg import Aether, JobStatus
from aether_bg.model import Claim, Heartbeat, Purge
from aether_bg.testing.postgres import PostgresCluster, postgres_fixture

psycopg = pytest.importorskip("psycopg")
from aether_bg.plugins.postgres import owners  # noqa: E402
from aether_bg.plugins.postgres.claims import Claims  # noqa: E402
from aether_bg.plugins.postgres.columns import JOB_COLUMNS  # noqa: E402
from aether_bg.plugins.postgres.connections import Connection, Link  # noqa: E402
from aether_bg.plugins.postgres.places import Place  # noqa: E402
from aether_bg.plugins.postgres.schema import Schema  # noqa: E402

FEW = 1000
BATCH = 100
Note = Callable[[str], None]


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    yield from postgres_fixture(settings={"autovacuum_naptime": "1s", "shared_buffers": "512MB"})


class Counted:
    """A connection that adds up the pages which a statement touches."""

    def __init__(self, conn: Connection) -> None:
        self._conn, self.pages, self.plan, self.names = conn, 0, "", None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, sql: bytes, params: Any, **options: Any) -> Any:
        cursor = psycopg.RawCursor(self._conn)
        with self._conn.transaction(force_rollback=True):
            self.plan = "\n".join(
                line for (line,) in cursor.execute(b"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) " + sql, params)
            )
        hit = re.search(r"Buffers: shared (?:hit=(\d+))? ?(?:read=(\d+))?", self.plan)  # the first line is the whole
        assert hit is not None
        self.pages = sum(int(count or 0) for count in hit.groups())
        return cursor.execute(sql, params, **options)


def put(url: str) -> None:
    """One job that waits, and a hundred that are due."""

    async def main() -> None:
        async with Aether(url, scheduler="timer").client() as jobs:
            await jobs.enqueue("Far0", "far", schedule=timedelta(days=1))
            await jobs.enqueue_many([{"handler": "Due"} for _ in range(BATCH * 3)])

    anyio.run(main)


def multiply(cluster: PostgresCluster, size: int) -> None:
    """Copies of the waiting job: of ten handlers, over a day."""
    due = "j.due_at + n * interval '86 ms'"
    new = {
        "id": "(lpad(to_hex(n / 1000), 8, '0') || '-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid",
        "job_name": "'far-' || n", "handler_name": "'Far' || n % 10", "due_at": due, "occurrence": due,
    }  # fmt: skip
    values = ", ".join(new.get(name, f"j.{name}") for name in JOB_COLUMNS)
    cluster.server.execute(
        f"INSERT INTO aether_bg.jobs ({', '.join(JOB_COLUMNS)}) SELECT {values} "
        f"FROM generate_series(1, {size}) AS n, aether_bg.jobs AS j WHERE j.job_name = 'far'"
    )
    cluster.server.execute("VACUUM ANALYZE aether_bg.jobs")


def pages_of_a_claim(cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch) -> int:
    """The fewest of three claims of a hundred."""
    monkeypatch.setattr("aether_bg.plugins.postgres.prepared.RawCursor", lambda conn: conn)
    names, schema, me = ("Due", *(f"Far{n}" for n in range(10))), Schema("aether_bg"), uuid4()
    found = []
    with Link(Place(cluster.server.url())).connect("hot") as conn:
        beat = Heartbeat(owner=me, handlers=names, now=datetime.now(UTC), interval=5, keep_for=5)
        owners.register(conn, schema, beat, 1, True)
        counted = Counted(conn)
        for _ in range(3):
            claim = Claim(owner=me, now=datetime.now(UTC), handlers=names, limit=BATCH)
            taken = Claims(schema).claim(counted, claim).jobs  # type: ignore[arg-type]
            assert len(taken) == BATCH
            assert "Seq Scan on jobs" not in counted.plan
            found.append(counted.pages)
    return min(found)


@pytest.mark.row(121, small=20_000, full=1_000_000)
def test_a_claim_among_many_that_wait(
    cluster: PostgresCluster, count: int, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cluster.server.url())
    multiply(cluster, FEW)
    few = pages_of_a_claim(cluster, monkeypatch)
    cluster.server.execute("DROP SCHEMA aether_bg CASCADE")
    put(cluster.server.url())
    multiply(cluster, count)
    many = pages_of_a_claim(cluster, monkeypatch)
    note(f"a claim of {BATCH} touches {few:,} pages among {FEW:,} waiting, {many:,} among {count:,}")
    assert many <= 1.25 * few


@pytest.mark.row(121, small=15, full=120)
def test_tables_level_off(cluster: PostgresCluster, count: int, note: Note) -> None:
    """Jobs come, end and are purged, round after round, while the server's own vacuum keeps up."""
    app, sizes = Aether(cluster.server.url(), scheduler="timer"), list[int]()
    each = 1000

    @app.handler("Work")
    async def work() -> None: ...

    def size() -> int:
        ((found,),) = cluster.server.execute(
            "SELECT pg_total_relation_size('aether_bg.jobs') + pg_total_relation_size('aether_bg.runs')"
        )
        return int(found)

    async def main() -> None:
        async with app:
            for _ in range(count):
                await app.enqueue_many([{"handler": "Work"} for _ in range(each)])
                await app.drain()
                store: Any = app.plugins.owners("persistence")[0]
                while await store.store_purge(Purge(status=JobStatus.COMPLETED, keep=each, limit=500)):
                    pass
                await anyio.sleep(1.0)  # a turn of the server's vacuum
                sizes.append(size())

    anyio.run(main)
    middle, late = max(sizes[count // 3 : 2 * count // 3]), max(sizes[2 * count // 3 :])
    note(f"{count} rounds of {each:,}: {sizes[0] / 1e6:.1f} MB, {middle / 1e6:.1f} MB, {late / 1e6:.1f} MB at the end")
    assert late <= 1.5 * middle
