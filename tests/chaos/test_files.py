"""Rows 4, 11, 12, 13 and 16: the file, and what may happen to it."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobStatus
from aether_bg.errors import (
    ForkedProcess,
    NotADatabase,
    SchemaTooNew,
    StoreBusy,
    StoreError,
    StoreFolderMissing,
    StoreFull,
    StoreGone,
    StoreReadOnly,
    StoreTrouble,
)
from aether_bg.plugins.sqlite import files, schema
from chaos.harness import Nursery, World
from chaos.worker import Spec, Worker

# -- row 4: migrations ---------------------------------------------------------------------------


def second_migration() -> None:
    """In this process: a newer version of the schema, with one more step."""
    first = schema.migrations

    def migrations() -> Any:
        steps = first()

        @steps()
        def m002_later(db: Any) -> None:
            for n in range(5):
                db.conn.execute(f"ALTER TABLE aether_jobs ADD COLUMN later{n} TEXT")
            db.conn.execute("CREATE TABLE later (id TEXT)")
            db.conn.execute("INSERT INTO later SELECT id FROM aether_jobs")

        return steps

    schema.migrations, schema.STEPS = migrations, (*schema.STEPS, "m002_later")


def migrate_and_die(spec: Spec) -> None:
    """Open the file; die at the n-th statement of the migration."""
    worker = Worker(spec)
    if spec["newer"]:
        second_migration()
    left = [spec["nth"]]

    def trace(_: str) -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    migrate = schema.migrate

    def traced(conn: sqlite3.Connection, path: object) -> None:
        conn.set_trace_callback(trace)
        migrate(conn, path)
        conn.set_trace_callback(None)

    schema.migrate = traced

    async def main() -> None:
        async with worker.app.client() as jobs:
            await jobs.store.stats()

    anyio.run(main)


def open_once(spec: Spec) -> None:
    worker = Worker(spec)
    if spec["newer"]:
        second_migration()
    time.sleep(max(0.0, spec["at"] - time.time()))

    async def main() -> None:
        async with worker.app as app:
            job = await app.enqueue("quick", None, {})
            assert (await app.wait(job, 20)).status is JobStatus.COMPLETED

    anyio.run(main)


def version(path: Path) -> tuple[set[str], list[str]]:
    with closing(sqlite3.connect(path)) as conn:
        tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        done = "aether_migrations" in tables
        steps = [name for (name,) in conn.execute("SELECT name FROM aether_migrations")] if done else []
        columns = [row[1] for row in conn.execute("PRAGMA table_info(aether_jobs)")]
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len([column for column in columns if column.startswith("later")]) == (5 if "m002_later" in steps else 0)
    assert ("later" in tables) == ("m002_later" in steps)
    assert ("aether_jobs" in tables) == ("m001_initial" in steps)
    return tables - {"aether_migrations"}, steps


@pytest.mark.row(4, small=12, full=50)
def test_a_migration_killed_in_the_middle(worlds: Callable[[str], World], count: int) -> None:
    seen = set()
    for number in range(count):
        newer = number % 2 == 1
        world = worlds(f"killed-{number}")
        if newer:
            world.create()
            assert world.start("put", enqueue=[{"handler": "quick", "name": "kept"}]).wait() == 0
        for nth in (1 + number // 2, 3 + number, (24 if newer else 30) + (2 if newer else 6) * number):
            process = world.start("chaos.test_files:migrate_and_die", nth=nth, newer=newer)
            code = process.wait()
            assert code in (0, -9), process.tail()
            if world.db.exists() and world.db.stat().st_size:
                tables, steps = version(world.db)
                assert steps in ([], ["m001_initial"], ["m001_initial", "m002_later"])
                assert bool(tables) == bool(steps)
                seen.add((newer, len(steps)))
        assert world.start("chaos.test_files:open_once", newer=newer, at=0).wait() == 0
        assert len(version(world.db)[1]) == 1 + newer
    assert {(False, 0), (False, 1), (True, 1)} <= seen, f"kills on both sides: {seen}"


@pytest.mark.parametrize("newer", [False, True], ids=["fresh", "migrating"])
@pytest.mark.row(4, small=6, full=100)
def test_eight_open_one_file(worlds: Callable[[str], World], count: int, newer: bool) -> None:
    for number in range(count):
        world = worlds(f"eight-{number}")
        if newer:
            world.create()
        at = time.time() + 0.1
        eight = [world.start("chaos.test_files:open_once", newer=newer, at=at) for _ in range(8)]
        for process in eight:
            assert process.wait() == 0, process.tail()
        assert len(version(world.db)[1]) == 1 + newer
        assert world.sql("SELECT count(*) FROM aether_jobs WHERE status = 2") == [(8,)]


# -- row 11: many writers ------------------------------------------------------------------------


def write_without_pause(spec: Spec) -> None:
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            worker.history.write("ready")
            time.sleep(max(0.0, spec["at"] - time.time()))
            longest, done, until = 0.0, 0, time.monotonic() + spec["seconds"]
            while time.monotonic() < until:
                began = time.monotonic()
                await jobs.enqueue("quick", None, {}, timedelta(days=1))
                longest, done = max(longest, time.monotonic() - began), done + 1
            worker.history.write("wrote", count=done, longest=longest)

    anyio.run(main)


@pytest.mark.alone
@pytest.mark.row(11, small=1, full=5)
def test_eight_writers(worlds: Callable[[str], World], count: int, full: bool, note: Callable[[str], None]) -> None:
    for number in range(count):
        world = worlds(f"writers-{number}").create()
        seconds = 60 if full else 8
        eight = [
            world.start("chaos.test_files:write_without_pause", seconds=seconds, at=time.time() + 0.5) for _ in range(8)
        ]
        for process in eight:
            assert process.wait(seconds + 30) == 0, process.tail()
        wrote = world.find("wrote")
        mean = sum(e["count"] for e in wrote) / 8
        least, longest = min(e["count"] for e in wrote), max(e["longest"] for e in wrote)
        note(f"{mean * 8 / seconds:.0f}/s, least {least / mean:.2f} of the mean, longest wait {longest:.2f} s")
        assert "locked" not in world.logs()
        assert sum(e["count"] for e in wrote) == world.sql("SELECT count(*) FROM aether_jobs")[0][0]
        assert longest < 2.0
        assert least >= mean / 2


# -- row 12: outsiders ---------------------------------------------------------------------------


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody else's write transaction."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            conn.execute("ROLLBACK")


@pytest.mark.alone
@pytest.mark.row(12, small=2, full=20)
def test_an_outsider_holds_the_write_lock(world: World, count: int, full: bool, note: Callable[[str], None]) -> None:
    seconds, busy = (10.0, 5.0) if full else (2.0, 1.0)
    worker = Worker({"db": str(world.db), "history": str(world.history), "busy": busy, "seed": 12})
    waits = []

    async def main() -> None:
        async with worker.app as app:
            for number in range(count):
                running = UUIDs([await worker.put("effect", f"running-{number}", payload={"ms": 200})])
                await anyio.sleep(0.1)
                with held(world.db):
                    began = time.monotonic()
                    with pytest.raises(StoreBusy):
                        await app.enqueue("quick", f"busy-{number}", {})
                    waits.append(time.monotonic() - began)
                    assert await app.store.get_by_job_name(f"running-{number}") is not None, "reading goes on"
                    await anyio.sleep(seconds - (time.monotonic() - began))
                await worker.put("quick", f"after-{number}")
                for job in [*running, f"after-{number}"]:
                    assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
                assert await app.store.get_by_job_name(f"busy-{number}") is None

    anyio.run(main)
    world.check()
    note(f"StoreBusy after at most {max(waits):.2f} s, deadline {busy:g} s")
    assert max(waits) < busy + 1.0


def UUIDs(texts: list[str]) -> list[Any]:
    from uuid import UUID

    return [UUID(text) for text in texts]


@pytest.mark.row(12, small=1, full=5)
def test_a_reader_stays_open_over_many_commits(
    worlds: Callable[[str], World], count: int, full: bool, note: Callable[[str], None]
) -> None:
    commits = 50_000 if full else 4_000
    for number in range(count):
        world = worlds(f"reader-{number}").create()
        worker = Worker({"db": str(world.db), "history": str(world.history), "seed": 12})
        wal = Path(f"{world.db}-wal")

        async def main(world: World = world, worker: Worker = worker, wal: Path = wal) -> tuple[int, int]:
            async with worker.app as app:
                with closing(sqlite3.connect(world.db, isolation_level=None)) as reader:
                    reader.execute("BEGIN")
                    before = reader.execute("SELECT count(*) FROM aether_jobs").fetchone()
                    for number in range(commits):
                        async with app.unit_of_work() as uow:
                            uow.execute("INSERT INTO orders VALUES (?, zeroblob(1000))", [number])
                    assert reader.execute("SELECT count(*) FROM aether_jobs").fetchone() == before
                    largest = wal.stat().st_size
                    reader.execute("COMMIT")
                deadline = time.monotonic() + 20
                while wal.stat().st_size > 20 * 1024 * 1024:
                    assert time.monotonic() < deadline, "the WAL is not truncated"
                    await app.enqueue("quick", None, {})
                    await anyio.sleep(0.1)
                return largest, wal.stat().st_size

        largest, left = anyio.run(main)
        note(f"WAL {largest / 2**20:.0f} MiB under the reader, {left / 2**20:.0f} after")
        assert not wal.exists() or wal.stat().st_size == 0


# -- row 13: seven clear errors ------------------------------------------------------------------


def opening(path: Path) -> None:
    async def main() -> None:
        async with Aether(str(path), scheduler="timer"):
            pass

    anyio.run(main)


@pytest.mark.row(13, small=5, full=20)
def test_files_that_cannot_be_opened(tmp_path: Path, count: int) -> None:
    for number in range(count):
        folder = tmp_path / f"{number}"
        with pytest.raises(StoreFolderMissing, match="does not exist"):
            opening(folder / "jobs.db")
        assert not folder.exists()
        folder.mkdir()
        garbage = random.Random(number).randbytes(5000)
        (folder / "jobs.db").write_bytes(garbage)
        with pytest.raises(NotADatabase, match="not a SQLite database"):
            opening(folder / "jobs.db")
        assert (folder / "jobs.db").read_bytes() == garbage
        torn = b"SQLite format 3\0" + garbage
        (folder / "torn.db").write_bytes(torn)
        with pytest.raises(StoreError):
            opening(folder / "torn.db")
        assert (folder / "torn.db").read_bytes() == torn
        opening(folder / "new.db")
        with closing(sqlite3.connect(folder / "new.db")) as conn, conn:
            conn.execute("UPDATE aether_migrations SET name = 'm999_from_the_future'")
        before = (folder / "new.db").read_bytes()
        with pytest.raises(SchemaTooNew, match="newer aether_bg"):
            opening(folder / "new.db")
        assert (folder / "new.db").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.row(13, small=2, full=20)
def test_a_file_that_cannot_be_written(tmp_path: Path, count: int) -> None:
    """A read-only mount binds root as well."""
    for number in range(count):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        opening(folder / "jobs.db")
        with mounted("--bind", str(folder), str(folder)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            with pytest.raises(StoreReadOnly, match="cannot be written"):
                opening(folder / "jobs.db")
            with pytest.raises(StoreReadOnly, match="cannot be written"):
                opening(folder / "other.db")
        opening(folder / "jobs.db")


def test_read_only_is_recognised_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.touch()
    for code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        error = sqlite3.OperationalError("words")
        error.sqlite_errorcode = code
        assert isinstance(files.translate(error, path), StoreReadOnly)


@contextmanager
def mounted(*how: str) -> Iterator[None]:
    if subprocess.run(["mount", *how], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", how[-1]], check=True)


async def fill(worker: Worker, rounds: int, relieve: Callable[[], object], full_means: type[StoreError]) -> None:
    """Enqueue until it is full, relieve, go on."""
    async with worker.app as app:
        for number in range(rounds):
            full = False
            for n in range(3000):
                try:
                    await worker.put("effect", f"{number}-{n}", payload={"ms": 0, "more": "x" * 5000})
                except full_means:
                    full = True
                    break
            assert full, "it never got full"
            assert await app.store.get_by_job_name(f"{number}-{n}") is None
            relieve()
            with anyio.fail_after(20):
                while True:
                    try:
                        await worker.put("quick", f"relieved-{number}")
                        break
                    except StoreTrouble:
                        await anyio.sleep(0.02)
            with anyio.fail_after(30):
                while await app.store.get_active(limit=1):
                    await anyio.sleep(0.02)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.row(13, small=2, full=20)
def test_a_full_disk(tmp_path: Path, nursery: Nursery, count: int) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)):
        for number in range(count):
            world = World(small / f"{number}", nursery)
            world.history = tmp_path / f"history-{number}.jsonl"
            world.create()
            ballast = small / "ballast"
            ballast.write_bytes(bytes(1024 * 1024))
            worker = Worker({"db": str(world.db), "history": str(world.history), "seed": number})
            anyio.run(fill, worker, 1, ballast.unlink, StoreFull)
            world.check()
            for path in world.folder.iterdir():
                path.unlink()


def fill_under_a_limit(spec: Spec) -> None:
    """RLIMIT_FSIZE makes every write beyond it fail, as a full disk or a quota does."""
    worker = Worker(spec)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    limit(1_500_000)
    anyio.run(fill, worker, 1, lambda: limit(resource.RLIM_INFINITY), StoreTrouble)  # SQLite: "disk I/O error"


@pytest.mark.row(13, small=2, full=20)
def test_a_file_size_limit(worlds: Callable[[str], World], count: int) -> None:
    for number in range(count):
        world = worlds(f"limit-{number}").create()
        process = world.start("chaos.test_files:fill_under_a_limit")
        assert process.wait(90) == 0, process.tail()
        world.check()


@pytest.mark.row(13, small=3, full=20)
def test_the_file_is_removed_while_it_is_open(worlds: Callable[[str], World], count: int) -> None:
    for number in range(count):
        world = worlds(f"gone-{number}").create()
        worker = Worker({"db": str(world.db), "history": str(world.history), "seed": number})

        async def main(world: World = world, worker: Worker = worker, replaced: bool = number % 2 == 1) -> None:
            async with worker.app as app:
                await worker.put("quick", "before")
                await app.wait("before", 10)
                away = world.db.with_name("away.db")
                world.db.rename(away)
                if replaced:
                    world.db.write_bytes(b"")
                for _ in range(2):
                    with pytest.raises(StoreGone, match="removed or replaced"):
                        await app.enqueue("quick", "lost", {})
                    with pytest.raises(StoreGone, match="removed or replaced"):
                        await app.store.get_by_job_name("before")
                away.replace(world.db)  # put back: it goes on
                await worker.put("quick", "after")
                assert (await app.wait("after", 10)).status is JobStatus.COMPLETED

        anyio.run(main)
        world.check()
        assert world.sql("SELECT count(*) FROM aether_jobs WHERE job_name = 'lost'") == [(0,)]


def forks(spec: Spec) -> None:
    """Fork while the app runs: every call in the child raises, and the parent's locks stay the parent's."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app as app:
            await worker.put("hold", "held")
            worker.history.write("ready")
            await anyio.sleep(0.05)
            pid = os.fork()
            if pid == 0:
                code = 0
                for call in (app.enqueue("quick", None, {}), app.store.stats(), app.delete("held")):
                    try:
                        call.send(None)
                        code = 1
                    except ForkedProcess:
                        pass
                    except BaseException:
                        code = 2
                if code == 0:
                    worker.history.write("forked", child=os.getpid())
                    time.sleep(2)  # outlives the parent: must not keep it alive in the eyes of others
                os._exit(code)
            await anyio.sleep(0.3)
            done, status = os.waitpid(pid, os.WNOHANG)
            assert done == 0, f"the child ended with {status}"
            await worker.put("quick", "after")
            assert (await app.wait("after", 10)).status is JobStatus.COMPLETED
            await anyio.sleep_forever()

    anyio.run(main)


@pytest.mark.alone
@pytest.mark.row(13, small=2, full=20)
def test_a_fork_after_open(worlds: Callable[[str], World], count: int) -> None:
    for number in range(count):
        world = worlds(f"fork-{number}").create()
        process = world.start("chaos.test_files:forks")
        world.until(lambda w=world, p=process: w.find("end", name="after") or not p.alive, what="the parent's job")
        assert process.alive, process.tail()
        process.end()
        killed = time.monotonic()
        process = world.ready()
        began = world.until(lambda w=world: w.find("start", name="held", attempt=2))[0]["mono"]
        assert began - killed < 1.0, "its child must not keep the dead parent's lock"
        process.end()
        world.check()


# -- row 16: retention ---------------------------------------------------------------------------


@pytest.mark.row(16, small=20, full=200)
def test_retention_against_live_work(world: World, count: int, note: Callable[[str], None]) -> None:
    keep = 15
    worker = Worker(
        {"db": str(world.db), "history": str(world.history), "seed": 16, "options": {"retention": timedelta(hours=1)}}
    )
    seen: Counter[str] = Counter()

    async def main() -> None:
        async with worker.app as app:
            await worker.put("tick", "alive", schedule="@every 100ms")
            for number in range(count):
                waiting = await app.enqueue("quick", f"waiting-{number}", {}, timedelta(hours=1))
                paused = await app.enqueue("quick", f"paused-{number}", {}, timedelta(seconds=2))
                await app.pause(paused)
                done = [await app.enqueue("effect", f"done-{number}-{n}", {"ms": n}) for n in range(4)]
                busy = await app.enqueue("quick", f"busy-{number}", {"ms": 60})
                async with anyio.create_task_group() as group:
                    for n in range(3):
                        group.start_soon(purging, app, n)
                for job in (waiting, paused):
                    assert (await app.store.get(job)).status is JobStatus.SCHEDULED
                row = await app.store.get(busy)
                assert row is None or not row.status.terminal or row.handled_time is not None
                for job in done:
                    while (row := await app.store.get(job)) is not None and not row.status.terminal:
                        await anyio.sleep(0.005)
                while (row := await app.store.get(busy)) is not None and not row.status.terminal:
                    await anyio.sleep(0.005)
                # the newest `keep` names are still keys
                for n in range(keep + 3):
                    await app.wait(await app.enqueue("quick", f"kept-{number}-{n}", {}), 10)
                seen["purged"] += await app.store.purge(JobStatus.COMPLETED, keep=keep)
                for n in range(3, keep + 3):
                    name = f"kept-{number}-{n}"
                    before = await app.store.get_by_job_name(name)
                    if before is None:
                        assert n <= 4, name  # the recurring and the late ones may have come in between
                        continue
                    assert await app.enqueue("quick", name, {}) == before.id, "the same job, not a second one"
                    seen["kept"] += 1
                assert (await app.store.get_by_job_name("alive")).status in (JobStatus.SCHEDULED, JobStatus.RUNNING)
                await app.delete(waiting)
                await app.delete(paused)

    async def purging(app: Aether, n: int) -> None:
        await anyio.sleep(0.005 * n)
        seen["purged"] += await app.store.purge(None, keep=n, older_than=timedelta(0) if n else None)

    anyio.run(main)
    found = world.check(purged=True)
    note(f"{seen['purged']} purged, {seen['kept']} kept, {found['acks']} recurring")
    assert seen["purged"] > count


@pytest.mark.row(16, small=1, full=1)
def test_ties_of_kept_jobs_are_kept(world: World) -> None:
    """Rows that ended at the same instant: the newest `keep` stay."""
    worker = Worker({"db": str(world.db), "history": str(world.history)})

    async def main() -> None:
        async with worker.app as app:
            when = datetime.now(UTC)
            for n in range(6):
                job = await app.enqueue("quick", f"tie-{n}", {}, timedelta(hours=1))
                await app.store.update_status(job, JobStatus.FAILED, handled_time=when)
            assert await app.store.purge(JobStatus.FAILED, keep=2) == 4
            assert len(await app.store.find(status=[JobStatus.FAILED])) == 2

    anyio.run(main)
