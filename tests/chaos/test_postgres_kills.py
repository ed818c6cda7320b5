"""PostgreSQL: processes and servers die. Rows 101 to 104, 108 and 112 of the table."""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aether_bg.testing.postgres import PostgresCluster, postgres_fixture, require_pgbouncer
from chaos.harness import Nursery

psycopg = pytest.importorskip("psycopg")
from chaos.postgres import PgWorld  # noqa: E402

PRODUCE = "chaos.postgres:produce"
Note = Callable[[str], None]


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    yield from postgres_fixture()


@pytest.fixture
def pg(cluster: PostgresCluster, tmp_path: Path, nursery: Nursery) -> Iterator[PgWorld]:
    server = cluster.server
    world = PgWorld(tmp_path / "world", nursery, server.url(), server, "postgres").create()
    yield world
    world.end_all()


@pytest.mark.row(101, small=10, full=65)
def test_workers_and_servers_killed_at_random(pg: PgWorld, count: int, note: Note) -> None:
    chance = random.Random(1)
    workers = [pg.ready(seed=n, options={"concurrency": 4}) for n in range(4)]
    producer = pg.ready(PRODUCE, ms=300, pause=0.01)
    for killed in range(count):
        time.sleep(chance.uniform(0.3, 0.9))
        if killed % max(count // 4, 1) == 1:
            pg.server.kill()
            time.sleep(chance.uniform(0.1, 1.0))
            pg.server.start()
        if killed % 10 == 9:
            producer.kill()
            producer = pg.start(PRODUCE, seed=1000 + killed, ms=300, pause=0.01)
        victim = chance.randrange(4)
        workers[victim].kill()
        workers[victim] = pg.start(seed=100 + killed, options={"concurrency": 4})
    producer.end()
    pg.end_all()
    pg.settle(120)
    found = pg.check()
    no_row_of_refused(pg)
    note(f"{found['acks']} jobs, {found['restarted']} attempts died")
    assert found["completed"] > found["acks"] * 0.9


def no_row_of_refused(pg: PgWorld) -> None:
    """What was refused has not happened; of what was not answered nothing is known."""
    refused = [event["name"] for event in pg.find("refused")]
    assert pg.sql("SELECT job_name FROM aether_jobs WHERE job_name = ANY(%s)", refused) == []


@pytest.mark.row(102, small=5, full=50)
def test_a_killed_process_beside_a_live_one(pg: PgWorld, count: int, note: Note) -> None:
    _recover(pg, count, note)


def _recover(pg: PgWorld, count: int, note: Note, **spec: Any) -> None:
    took: list[float] = []
    processes = {process.pid: process for process in (pg.ready(**spec), pg.ready(**spec))}
    for number in range(count):
        name = f"hold-{number}"
        pg.start("put", enqueue=[{"handler": "hold", "name": name}], **spec).wait(30)
        (first,) = pg.until(lambda name=name: pg.find("start", name=name), what="a start")
        killed = time.time()
        processes.pop(first["pid"]).end()
        second = pg.until(lambda name=name: pg.find("start", name=name, attempt=2), what="the second attempt")[0]
        took.append(second["at"] - killed)
        process = pg.ready(**spec)
        processes[process.pid] = process
    pg.end_all()
    pg.check()
    note(f"runs elsewhere after {statistics.median(took):.2f} s, at most {max(took):.2f} s")
    assert statistics.median(took) < 3


@pytest.mark.parametrize(("mode", "away"), [("immediate", 3.0), ("fast", 6.0), ("immediate", 20.0), ("fast", 60.0)])
@pytest.mark.row(103, small=1, full=1)
def test_the_server_is_away_while_jobs_run(pg: PgWorld, full: bool, note: Note, mode: str, away: float) -> None:
    """With a lease that is shorter than the longest absence: nothing is taken over, all is recorded afterwards."""
    if away > 10 and not full:
        pytest.skip("full counts only")
    workers = [pg.ready(options={"lease": 5.0}) for _ in range(2)]
    ms = int(away * 1000) + 2000
    jobs = [{"handler": "quick", "name": f"long-{n}", "payload": {"ms": ms}} for n in range(4)]
    pg.start("put", enqueue=jobs).wait(30)
    pg.until(lambda: len(pg.find("start")) == 4, what="four starts")
    pg.server.kill() if mode == "immediate" else pg.server.stop()
    time.sleep(away)
    pg.server.start()
    pg.until(lambda: len(pg.find("ended")) == 4, away + 30, "four outcomes")
    assert {event["attempt"] for event in pg.find("start")} == {1}
    assert all(worker.alive for worker in workers)
    found = pg.check(late=away + 10)
    note(f"{mode}, back after {away:g} s: {found['completed']} of 4 recorded, one attempt each")
    assert (found["completed"], found["restarted"]) == (4, 0)


@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
@pytest.mark.row(104, small=1, full=10)
def test_failover_under_load(
    cluster: PostgresCluster, tmp_path: Path, nursery: Nursery, count: int, note: Note, synchronous: bool
) -> None:
    """The primary dies, its standby is promoted, the old primary comes back as standby; and again."""
    standby, primary, took = cluster.standby(synchronous=synchronous), cluster.server, list[float]()
    url = cluster.several(standby)
    pg = PgWorld(tmp_path / "world", nursery, url, primary, "postgres").create()
    try:
        for _ in range(2):
            pg.ready(options={"concurrency": 10})
        producer = pg.ready(PRODUCE, ms=50, pause=0.02)
        for number in range(count):
            held = [{"handler": "quick", "name": f"long-{number}-{n}", "payload": {"ms": 6000}} for n in range(2)]
            pg.start("put", enqueue=held).wait(30)
            pg.until(lambda n=number: pg.find("start", name=f"long-{n}-1"), what="the start of a long one")
            time.sleep(1.0)
            primary.kill()
            standby.promote()
            died, pg.server = time.time(), standby
            first = pg.until(
                lambda died=died: [e for e in pg.find("ack") if e["at"] > died], 30, "an enqueue after the failover"
            )[0]
            took.append(first["at"] - died)
            primary.copy(standby).start()
            primary, standby = standby, primary
            if synchronous:
                primary.set(synchronous_standby_names=standby.name)
            pg.until(lambda n=number: pg.find("end", name=f"long-{n}-1"), 30, "the end of a long one")
        pg.run_dry(producer)
        if synchronous:
            found = pg.check(late=60)
            no_row_of_refused(pg)
            assert found["restarted"] == 0, "nothing may be taken over"
        twice = pg.sql(
            "SELECT job_id FROM aether_runs WHERE outcome = 'completed' GROUP BY job_id, occurrence HAVING count(*) > 1"
        )
        assert twice == []
        note(f"first enqueue {max(took):.1f} s after the promotion at most")
        assert max(took) < 15
    finally:
        pg.end_all()


@pytest.mark.row(108, small=1, full=5)
def test_a_stopped_worker_loses_its_job_and_gives_it_up_on_return(pg: PgWorld, count: int, note: Note) -> None:
    lease = {"options": {"lease": 2.0}}
    for number in range(count):
        one = pg.ready(**lease)
        pg.start("put", enqueue=[{"handler": "hold", "name": f"hold-{number}"}]).wait(30)
        pg.until(lambda n=number: pg.find("start", name=f"hold-{n}"), what="its start")
        other, began = pg.ready(**lease), time.time()
        one.send(signal.SIGSTOP)
        second = pg.until(lambda n=number: pg.find("start", name=f"hold-{n}", attempt=2), 30, "the second attempt")[0]
        pg.until(lambda n=number: pg.find("end", name=f"hold-{n}", attempt=2), what="its end")
        one.send(signal.SIGCONT)
        pg.until(lambda n=number: pg.find("end", name=f"hold-{n}", attempt=1), 15, "the end of the first")
        note(f"taken after {second['at'] - began:.1f} s with a lease of 2 s")
        one.end()
        other.end()
    assert "returned" not in {event["how"] for event in pg.find("end", attempt=1)}
    pg.check()


@pytest.mark.parametrize("way", ["session", "lease"])
@pytest.mark.row(112, small=1, full=10)
def test_recovery_through_pgbouncer(cluster: PostgresCluster, pg: PgWorld, count: int, note: Note, way: str) -> None:
    """In transaction mode: with `session=` around it as fast as without it, else by the lease."""
    require_pgbouncer()
    pooler = cluster.pgbouncer("transaction")
    store = {"session": pg.server.url()} if way == "session" else {}
    pg.url = pooler.url()
    if way == "session":
        _recover(pg, count, note, store=store)
        return
    process, other = pg.ready(options={"lease": 3.0}), None
    pg.start("put", enqueue=[{"handler": "hold", "name": "hold"}]).wait(30)
    pg.until(lambda: pg.find("start", name="hold"), what="a start")
    other = pg.ready(options={"lease": 3.0})
    killed = time.time()
    process.end()
    second = pg.until(lambda: pg.find("start", name="hold", attempt=2), 30, "the second attempt")[0]
    note(f"by a lease of 3 s: after {second['at'] - killed:.1f} s")
    other.end()
    pg.check()
