"""PostgreSQL: networks are cut, sessions end, rows are locked, the server refuses. Rows 105 to 118 of the table."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from aether_bg import Aether, JobStatus, errors
from aether_bg.model import Purge
from aether_bg.testing.postgres import PostgresCluster, postgres_fixture
from chaos.harness import Nursery

psycopg = pytest.importorskip("psycopg")
from chaos.postgres import PgWorld, network, stopped, through  # noqa: E402
from chaos.worker import Spec, Worker  # noqa: E402

PRODUCE = "chaos.postgres:produce"
Note = Callable[[str], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    yield from postgres_fixture()


@pytest.fixture
def pg(cluster: PostgresCluster, tmp_path: Path, nursery: Nursery) -> Iterator[PgWorld]:
    with cluster.database() as url:
        world = PgWorld(tmp_path / "world", nursery, url, cluster.server, url.rpartition("/")[2]).create()
        yield world
        world.end_all()


def refused_never_happened(pg: PgWorld) -> int:
    refused = [event["name"] for event in pg.find("refused")]
    assert pg.sql("SELECT job_name FROM aether_jobs WHERE job_name = ANY(%s)", refused) == []
    return len(refused)


@pytest.mark.row(105, small=60, full=1000)
def test_connections_cut_before_and_after_their_commits(pg: PgWorld, count: int, note: Note) -> None:
    """Inserts, claims, outcomes, units of work: one answer, and a true one."""
    with network(pg.server.port) as net:
        pg.url = through(pg.url, net.port)
        workers = [pg.ready(seed=n, options={"concurrency": 5}) for n in range(2)]
        producer = pg.ready(PRODUCE, ms=20, pause=0.01)
        net.chance = 0.05
        pg.until(lambda: net.cuts >= count, 30 + count, "that many cuts")
        net.chance = 0.0
        pg.run_dry(producer, *workers)
    found, refused = pg.check(), refused_never_happened(pg)
    note(f"{net.cuts} cuts, {found['acks']} acknowledged, {refused} refused, {len(pg.find('unsure'))} not answered")
    assert found["restarted"] == 0, "nothing may be taken over"


@pytest.mark.row(106, small=10, full=300)
def test_sessions_ended_at_random(pg: PgWorld, count: int, note: Note) -> None:
    """`count` seconds: nothing is taken over."""
    chance, ended = random.Random(1), 0
    workers = [pg.ready(seed=n, options={"concurrency": 5}) for n in range(2)]
    producer = pg.ready(PRODUCE, ms=100, pause=0.02)
    until = time.monotonic() + count
    while time.monotonic() < until:
        for pid in chance.sample(found := pg.backends(), min(3, len(found))):
            ended += 1
            pg.sql("SELECT pg_terminate_backend(%s)", pid)
        time.sleep(chance.uniform(0.02, 0.3))
    pg.run_dry(producer, *workers)
    result, _ = pg.check(), refused_never_happened(pg)
    note(f"{ended} sessions ended, {result['completed']} jobs completed")
    assert result["restarted"] == 0


@pytest.mark.row(107, small=1, full=5)
def test_a_frozen_session_loses_its_jobs_with_its_lease(pg: PgWorld, count: int, note: Note) -> None:
    lease = {"options": {"lease": 2.0}}
    for number in range(count):
        one, name = pg.ready(**lease), f"hold-{number}"
        pg.start("put", enqueue=[{"handler": "hold", "name": name}]).wait(30)
        pg.until(lambda name=name: pg.find("start", name=name), what="its start")
        holder = pg.sql("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid > 0")
        other, began = pg.ready(**lease), time.time()
        with stopped([pid for (pid,) in holder]):
            second = pg.until(lambda name=name: pg.find("start", name=name, attempt=2), 30, "the second attempt")[0]
            pg.until(lambda name=name: pg.find("end", name=name, attempt=1), 30, "the end of the first")
        note(f"taken after {second['at'] - began:.1f} s with a lease of 2 s")
        one.end()
        other.end()
    pg.check()


@pytest.mark.row(107, small=1, full=5)
def test_a_frozen_writer_is_answered_at_the_deadline(pg: PgWorld, count: int) -> None:
    async def main() -> float:
        app = Aether(pg.url, scheduler="timer")
        async with app.client() as jobs:
            await jobs.enqueue("later", "one", schedule="@daily")
            with stopped(pg.backends("application_name = 'aether_bg'")):
                began = time.monotonic()
                with suppress(errors.StoreError):  # or it has found another way
                    await jobs.enqueue("later", "two", schedule="@daily")
                took = time.monotonic() - began
            await jobs.enqueue("later", "two", schedule="@daily")
        return took

    for _ in range(count):
        pg.sql("DELETE FROM aether_jobs")
        assert anyio.run(main) < 15


def tangle(spec: Spec) -> None:
    """Verbs against outcomes, on the same few jobs, and purges against all."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app as app, anyio.create_task_group() as group:
            worker.history.write("ready")

            async def verbs() -> None:
                while True:
                    name = f"tick-{worker.random.randrange(20)}"
                    verb = worker.random.choice(
                        [app.trigger, app.pause, app.resume, lambda n: app.update(n, "@every 1s")]
                    )
                    try:
                        await verb(name)
                    except errors.JobError:
                        pass
                    await anyio.sleep(0)

            async def purges() -> None:
                while True:
                    await app.store.purge(keep=worker.random.randrange(5), status=JobStatus.COMPLETED)
                    for job in await app.store.get_active(limit=20):
                        await worker.plugin.inner.store_purge(Purge(job_id=job.id, history=2))
                    await anyio.sleep(0.05)

            async def adds() -> None:
                while True:
                    await app.enqueue_many([{"handler": "quick", "payload": {}} for _ in range(50)])
                    await anyio.sleep(0.02)

            for _ in range(4):
                group.start_soon(verbs)
            group.start_soon(purges)
            group.start_soon(adds)

    anyio.run(main)


@pytest.mark.row(110, small=10, full=600)
def test_no_deadlock_among_outcomes_verbs_and_purges(pg: PgWorld, count: int, note: Note) -> None:
    ticks = [{"handler": "tick", "name": f"tick-{n}", "schedule": "@every 1s"} for n in range(20)]
    pg.start("put", enqueue=ticks).wait(30)
    workers = [pg.ready("chaos.test_postgres_faults:tangle", seed=n) for n in range(3)]
    time.sleep(count)
    assert all(worker.alive for worker in workers), workers[0].tail()
    pg.end_all()
    ((deadlocks, commits),) = pg.sql(
        "SELECT deadlocks, xact_commit FROM pg_stat_database WHERE datname = current_database()"
    )
    note(f"{commits} commits, {deadlocks} deadlocks")
    assert deadlocks == 0


@pytest.mark.row(113, small=1, full=5)
def test_a_row_that_a_stranger_holds_holds_up_nothing_else(pg: PgWorld, count: int, note: Note) -> None:
    worker = pg.ready()
    pg.start("put", enqueue=[{"handler": "quick", "name": "held", "payload": {"ms": 500}}]).wait(30)
    pg.until(lambda: pg.find("start", name="held"), what="its start")
    with psycopg.connect(pg.server.url(pg.database)) as stranger:
        stranger.execute("SELECT 1 FROM aether_bg.jobs WHERE job_name = 'held' FOR UPDATE")
        others = [{"handler": "quick", "name": f"other-{n}"} for n in range(50)]
        began = time.monotonic()
        pg.start("put", enqueue=others).wait(30)
        pg.until(lambda: len(pg.find("ended")) >= 50, 30, "the others")
        note(f"50 others ended after {time.monotonic() - began:.1f} s")
        assert not pg.find("ended", handler="quick", job=pg.find("start", name="held")[0]["job"])
    pg.until(lambda: len(pg.find("ended")) == 51, 30, "its outcome")
    worker.end()
    pg.check()


@pytest.mark.row(113, small=3, full=30)
def test_a_locked_table_is_waited_for(pg: PgWorld, count: int) -> None:
    """`count` seconds."""
    worker, producer = pg.ready(), pg.ready(PRODUCE, pause=0.05)
    pg.until(lambda: pg.find("ended"), what="an outcome")
    with psycopg.connect(pg.server.url(pg.database)) as stranger:
        stranger.execute("LOCK TABLE aether_bg.jobs")
        time.sleep(count)
    locked = time.time()
    pg.until(lambda: [e for e in pg.find("ended") if e["at"] > locked], 30, "an outcome after the lock")
    pg.run_dry(producer, worker)
    assert pg.check()["restarted"] == 0
    refused_never_happened(pg)


@pytest.mark.parametrize("fault", ["password", "grant", "connections"])
@pytest.mark.row(114, small=1, full=3)
def test_the_server_refuses_for_a_while(pg: PgWorld, count: int, note: Note, fault: str) -> None:
    """An error of its own each time, and all goes on when the cause is gone."""
    role = f"app_{os.getpid()}_{fault}"
    pg.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'first' CONNECTION LIMIT 40")
    for what in ("SCHEMA aether_bg", "ALL TABLES IN SCHEMA aether_bg", "ALL SEQUENCES IN SCHEMA aether_bg"):
        pg.sql(f"GRANT ALL ON {what} TO {role}")
    pg.sql(f"GRANT ALL ON effects TO {role}")
    break_, mend = {
        "password": (f"ALTER ROLE {role} PASSWORD 'second'", f"ALTER ROLE {role} PASSWORD 'first'"),
        "grant": (f"REVOKE INSERT, UPDATE ON aether_bg.jobs FROM {role}", f"GRANT ALL ON aether_bg.jobs TO {role}"),
        "connections": (f"ALTER ROLE {role} CONNECTION LIMIT 0", f"ALTER ROLE {role} CONNECTION LIMIT 40"),
    }[fault]
    pg.url = pg.server.url(pg.database, role=role, password="first")
    worker, producer = pg.ready(), pg.ready(PRODUCE, pause=0.05)
    pg.until(lambda: pg.find("ended"), what="an outcome")
    for _ in range(count):
        before = len(pg.find("refused"))
        pg.sql(break_)
        for pid in pg.backends(f"usename = '{role}'"):
            pg.sql("SELECT pg_terminate_backend(%s)", pid)
        pg.until(lambda before=before: len(pg.find("refused")) > before, 30, "a refusal")
        pg.sql(mend)
        mended = time.time()
        pg.until(lambda at=mended: [e for e in pg.find("ended") if e["at"] > at + 1], 30, "an outcome afterwards")
    pg.run_dry(producer, worker)
    pg.check()
    refused_never_happened(pg)
    note(f"{fault}: " + ", ".join(sorted({event["error"] for event in pg.find("refused")})))
    pg.sql(f"DROP OWNED BY {role}")
    pg.sql(f"DROP ROLE {role}")


@pytest.mark.row(115, small=10, full=200)
def test_migrations_that_are_killed(
    cluster: PostgresCluster, tmp_path: Path, nursery: Nursery, count: int, note: Note
) -> None:
    """Of two processes at once. The schema is the old one or the new one, never one in between."""
    chance, whole = random.Random(1), 0
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'aether_bg'"
    for number in range(count):
        with cluster.database() as url:
            pg = PgWorld(tmp_path / f"{number}", nursery, url, cluster.server, url.rpartition("/")[2])
            processes = [pg.start("chaos.postgres:migrate") for _ in range(2)]
            time.sleep(chance.uniform(0.0, 0.5))
            pg.end_all()
            ((before,),) = pg.sql(tables)
            whole += before > 0
            assert pg.start("chaos.postgres:migrate").wait(60) == 0
            ((after,),) = pg.sql(tables)
            assert before in (0, after)
            assert {process.code for process in processes} <= {0, -9}
    note(f"{whole} of {count} were whole at the kill")


@pytest.mark.alone
@pytest.mark.row(116, small=5, full=60)
def test_lost_notifications_cost_a_second(pg: PgWorld, count: int, note: Note) -> None:
    """The connection that listens hears nothing for `count` seconds, and does not end."""
    with network(pg.server.port) as net:
        worker = pg.ready(url=through(pg.url, net.port), options={"lease": 120})
        net.hold, late = True, list[float]()
        until = time.monotonic() + count
        while time.monotonic() < until:
            name = f"n-{len(late)}"
            pg.start("put", enqueue=[{"handler": "quick", "name": name}]).wait(30)
            (ack,) = pg.find("ack", name=name)
            start = pg.until(lambda name=name: pg.find("start", name=name), what="its start")[0]
            late.append(start["at"] - ack["at"])
        worker.end()
    pg.check()
    note(f"{len(late)} jobs, at most {max(late):.2f} s late")
    assert max(late) < 3


@pytest.mark.row(118, small=10, full=50)
def test_starts_stops_and_forks_leave_no_session(pg: PgWorld, count: int, note: Note) -> None:
    app = Aether(pg.url, scheduler="timer")
    app.handler("Work")(lambda: None)

    async def once(number: int) -> None:
        async with app:
            if number % 5 == 0:
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
            assert (await app.wait(await app.enqueue("Work"), 20)).status is JobStatus.COMPLETED

    for number in range(count):
        anyio.run(once, number)
    pg.until(lambda: not pg.backends(), what="the end of all sessions")
    assert pg.sql("SELECT count(*) FROM aether_owners") == [(0,)]
    ((completed,),) = pg.sql("SELECT count(*) FROM aether_runs WHERE outcome = 'completed'")
    note(f"{count} starts, {completed} jobs")
    assert completed == count
