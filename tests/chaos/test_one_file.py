"""The file belongs to SQLite: several openers in one process, copies, removals, backups. Rows 31, 32 and 40."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from aether_bg import Aether, StoreGone
from aether_bg.cli.app import cli
from chaos.harness import World
from chaos.worker import Spec, Worker


def several(spec: Spec) -> None:
    """Two apps, a client, an app of another thread, the user's connection and the command line in one process."""
    own = sqlite3.connect(spec["db"], isolation_level=None, timeout=30, check_same_thread=False)
    own.execute("SELECT count(*) FROM orders").fetchall()
    first, second, third = (Worker({**spec, "seed": spec["seed"] * 3 + n}) for n in range(3))

    def beside() -> None:
        for number in range(1_000_000):
            name = f"own-{spec['seed']}-{number}"
            own.execute("INSERT INTO orders VALUES (?, '')", [name])
            first.history.write("own", name=name)
            assert CliRunner().invoke(cli, [("stats", "list", "check")[number % 3], spec["db"], "--json"]).stdout
            with third.app.blocking() as jobs:
                jobs.store.stats()

    async def put(worker: Worker, via: Any, prefix: str) -> None:
        for number in range(1_000_000):
            await worker.put("effect", f"{prefix}-{spec['seed']}-{number}", via=via, payload={"ms": 20})
            await anyio.sleep(0.005)

    async def main() -> None:
        async with first.app, second.app, Aether(spec["db"]).client() as client, anyio.create_task_group() as group:
            first.history.write("ready")
            threading.Thread(target=beside, daemon=True).start()
            group.start_soon(put, first, first.app, "first")
            group.start_soon(put, second, second.app, "second")
            group.start_soon(put, first, client, "client")

    anyio.run(main)


@pytest.mark.row(31, small=4, full=50)
def test_several_openers_in_one_process(world: World, count: int, note: Callable[[str], None]) -> None:
    chance = random.Random(31)
    for number in range(count):
        process = world.ready("chaos.test_one_file:several")
        before = len(world.find("ack"))
        for visit in range(2):  # comes and goes: as the last one, it would remove the WAL
            visitor = world.start("put", enqueue=[{"handler": "effect", "name": f"visitor-{number}-{visit}"}])
            assert visitor.wait(60) == 0, visitor.tail()
        world.until(lambda n=before: len(world.find("ack")) > n + 20, what="jobs enqueued after the visit")
        time.sleep(chance.uniform(0, 0.1))
        assert process.alive, process.tail()
        process.kill()
        process.wait()
        assert world.sql("PRAGMA integrity_check") == [("ok",)]
        there = {id_ for (id_,) in world.sql("SELECT id FROM aether_jobs")}
        assert {event["job"] for event in world.find("ack")} <= there
        names = {name for (name,) in world.sql("SELECT name FROM orders")}
        assert {event["name"] for event in world.find("own")} <= names
    world.settle(120)
    found = world.check()
    note(f"{found['acks']} jobs, {found['restarted']} attempts died")


def copying(spec: Spec) -> None:
    """A handler copies the file, or the whole folder, while others enqueue."""
    worker = Worker(spec)
    folder = Path(spec["db"]).parent

    def copy() -> None:
        to = folder.with_name(f"{folder.name}-copy-{os.getpid()}")
        if spec["seed"] % 2:
            shutil.copy(spec["db"], f"{to}.db")
        else:
            shutil.copytree(folder, to, dirs_exist_ok=True)
        worker.history.write("copied")

    worker.app.handler("copy")(copy)

    async def main() -> None:
        async with worker.app as app:
            worker.history.write("ready")
            for number in range(1_000_000):
                if number % 20 == 0:
                    await app.enqueue("copy")
                await worker.put("effect", f"{spec['seed']}-{number}")

    anyio.run(main)


@pytest.mark.row(32, small=4, full=20)
def test_a_handler_copies_the_file(world: World, count: int) -> None:
    for number in range(count):
        process = world.ready("chaos.test_one_file:copying")
        world.until(lambda n=number, p=process: world.find("copied", pid=p.pid) or not p.alive, what="a copy")
        visitor = world.start("put", enqueue=[{"handler": "effect", "name": f"visitor-{number}"}])
        assert visitor.wait(60) == 0, visitor.tail()
        before = len(world.find("ack"))
        world.until(lambda n=before, p=process: len(world.find("ack")) > n + 20 or not p.alive, what="further jobs")
        assert process.alive, process.tail()
        process.kill()
        process.wait()
        assert world.sql("PRAGMA integrity_check") == [("ok",)]
        there = {id_ for (id_,) in world.sql("SELECT id FROM aether_jobs")}
        assert {event["job"] for event in world.find("ack")} <= there


def losing(spec: Spec) -> None:
    """Enqueues until the file is gone; then twenty times more."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app as app:
            worker.history.write("ready")
            refused = 0
            while refused < 20:
                try:
                    await worker.put("quick", delay=3600)
                    assert refused == 0, "acknowledged after it had been refused"
                except StoreGone:
                    refused += 1
            worker.history.write("gone", ok=(await app.health())["ok"])

    anyio.run(main)


def _remove_wal(db: Path) -> None:
    Path(f"{db}-wal").unlink()


def _empty_wal(db: Path) -> None:
    other = db.with_name("other")
    other.touch()
    other.replace(f"{db}-wal")


def _remove_database(db: Path) -> None:
    db.unlink()


def _replace_database(db: Path) -> None:
    other = db.with_name("other")
    with closing(sqlite3.connect(other)) as conn:
        conn.execute("CREATE TABLE mine (id)")
    other.replace(db)


@pytest.mark.parametrize("how", [_remove_wal, _empty_wal, _remove_database, _replace_database])
@pytest.mark.row(32, small=2, full=20)
def test_the_file_or_its_wal_is_lost(worlds: Callable[[str], World], count: int, how: Callable[[Path], None]) -> None:
    for number in range(count):
        world = worlds(f"{how.__name__}-{number}").create()
        process = world.ready("chaos.test_one_file:losing")
        world.until(lambda w=world: len(w.find("ack")) > 20, what="jobs")
        kept = world.folder / "kept.db"  # further names of what is lost: what was acknowledged must be there
        os.link(world.db, kept)
        os.link(f"{world.db}-wal", f"{kept}-wal")
        how(world.db)
        assert process.wait(60) == 0, process.tail()
        assert [event["ok"] for event in world.find("gone")] == [False]
        acknowledged = {event["job"] for event in world.find("ack")}
        with closing(sqlite3.connect(kept)) as conn:
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert acknowledged <= {id_ for (id_,) in conn.execute("SELECT id FROM aether_jobs")}
        if how is _remove_wal:  # nothing is lost: it was moved into the database
            assert acknowledged <= {id_ for (id_,) in world.sql("SELECT id FROM aether_jobs")}


@pytest.mark.row(40, small=3, full=20)
def test_a_backup_under_load_is_restored_elsewhere(
    worlds: Callable[[str], World], count: int, note: Callable[[str], None]
) -> None:
    world = worlds("live").create()
    for _ in range(2):
        world.ready()
    world.start("produce", ms=100)
    resumed = 0
    for number in range(count):
        target = world.folder / f"backup-{number}.db"
        world.until(lambda n=number: len(world.find("ack")) > 50 * (n + 1), what="load")
        acknowledged = {event["job"] for event in world.find("ack")}
        done = CliRunner().invoke(cli, ["backup", str(world.db), str(target)])
        assert done.exit_code == 0, done.output
        restored = worlds(f"restored-{number}")
        shutil.copy(target, restored.db)
        jobs = dict(restored.sql("SELECT id, status FROM aether_jobs"))
        assert acknowledged <= set(jobs)
        assert restored.sql("PRAGMA integrity_check") == [("ok",)]
        resumed += sum(status == 1 for status in jobs.values())
        restored.settle(60)
        assert restored.sql("SELECT count(*) FROM aether_jobs WHERE status < 2") == [(0,)]
        doubled = (
            "SELECT 1 FROM aether_runs WHERE outcome = 'completed' GROUP BY job_id, occurrence HAVING count(*) > 1"
        )
        assert restored.sql(doubled) == []
    note(f"{resumed} attempts were running when copied")
