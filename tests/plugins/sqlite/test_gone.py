"""The database or its WAL is removed or replaced under a running app: docs/protocol.md, W10."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import anyio
import pytest

from aether_bg import Aether, StoreGone
from aether_bg.plugins.sqlite import hold

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


def stored(path: Path) -> set[UUID]:
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {UUID(id_) for (id_,) in conn.execute("SELECT id FROM aether_jobs")}


def remove_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def empty_wal(path: Path) -> None:
    wal = Path(f"{path}-wal")
    wal.unlink()
    wal.touch()


def remove_wal_and_index(path: Path) -> None:
    remove_wal(path)
    Path(f"{path}-shm").unlink()


def remove_all(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink()


def replace_with_a_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.replace(path)


def replace_with_another(path: Path) -> None:
    remove_all(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("CREATE TABLE mine (id)")
        conn.commit()


PASSING = """
import asyncio, sys
from aether_bg import Aether
async def main():
    async with Aether(sys.argv[1], scheduler="timer"): pass
asyncio.run(main())
"""

HOW = [remove_wal, empty_wal, remove_wal_and_index, remove_all, replace_with_a_copy, replace_with_another]


@pytest.mark.parametrize("how", HOW)
async def test_the_next_write_and_read_say_so(app: Aether, path: Path, how: Callable[[Path], None]) -> None:
    app.handler("Later")(lambda: None)
    async with app:
        await app.enqueue("Later", schedule=timedelta(days=1))
        assert (await app.health())["ok"]
        how(path)
        for _ in range(2):
            with pytest.raises(
                StoreGone, match=r"^database .*jobs\.db: it or its -wal .* removed or replaced .*put the"
            ):
                await app.enqueue("Later", schedule=timedelta(days=1))
            with pytest.raises(StoreGone):
                await app.store.get_active()
            with pytest.raises(StoreGone):
                async with app.unit_of_work() as uow:
                    uow.execute("CREATE TABLE mine (id)")
        health = await app.health()
        assert not health["ok"]
        assert "removed or replaced" in str(health["problems"])


@pytest.mark.parametrize("how", [remove_wal, remove_wal_and_index])
async def test_what_was_acknowledged_is_saved_from_a_removed_wal(
    make_app: Make, path: Path, how: Callable[[Path], None]
) -> None:
    app = make_app()
    app.handler("Later")(lambda: None)
    ids = set()
    async with app:
        for _ in range(20):
            ids.add(await app.enqueue("Later", schedule=timedelta(days=1)))
        how(path)
        with pytest.raises(StoreGone):
            await app.enqueue("Later", schedule=timedelta(days=1))
        with anyio.fail_after(10):
            while True:  # of the file alone: what a kill would leave
                copy = shutil.copy(path, path.with_name("copy.db"))
                try:
                    if stored(Path(copy)) == ids:
                        break
                except (sqlite3.DatabaseError, AssertionError):  # copied before, or in the middle of it
                    pass
                await anyio.sleep(0.05)
    assert stored(path) == ids
    again = make_app()
    again.handler("Later")(lambda: None)
    async with again:
        assert (await again.health())["ok"]
        await again.enqueue("Later")


async def test_a_file_in_its_place_keeps_its_wal(app: Aether, path: Path) -> None:
    """SQLite removes a WAL by its name when the last connection is closed; it would be that of the other database."""
    app.handler("Later")(lambda: None)
    async with app:
        await app.enqueue("Later", schedule=timedelta(days=1))
        remove_all(path)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE mine (id)")
    other.execute("INSERT INTO mine VALUES (1)")
    assert Path(f"{path}-wal").exists()
    shutil.copytree(path.parent, path.parent.with_name(f"{path.parent.name}-copy"))  # as a kill would leave it
    with closing(sqlite3.connect(path.parent.with_name(f"{path.parent.name}-copy") / path.name)) as conn:
        assert conn.execute("SELECT * FROM mine").fetchall() == [(1,)]
    other.close()


async def test_an_app_started_on_the_file_in_its_place_uses_that_one(make_app: Make, path: Path) -> None:
    old, new = make_app(), make_app()
    for app in (old, new):
        app.handler("Later")(lambda: None)
    async with old:
        await old.enqueue("Later", "old", schedule=timedelta(days=1))
        remove_all(path)
        async with new:
            job = await new.enqueue("Later", "new", schedule=timedelta(days=1))
            with pytest.raises(StoreGone):
                await old.enqueue("Later", "lost", schedule=timedelta(days=1))
            assert await new.store.get_by_job_name("old") is None
    assert stored(path) == {job}


async def test_an_idle_app_moves_the_wal_into_the_database(app: Aether, path: Path) -> None:
    app.handler("Later")(lambda: None)
    async with app:
        job = await app.enqueue("Later", schedule=timedelta(days=1))
        with anyio.fail_after(20):
            while True:
                copy = Path(shutil.copy(path, path.with_name("copy.db")))
                try:
                    if job in stored(copy):
                        break
                except sqlite3.OperationalError:
                    pass
                await anyio.sleep(0.1)


async def test_without_such_locks_a_lost_wal_is_still_seen(
    app: Aether, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no open file description locks: a copy drops our locks, a clean close elsewhere the WAL."""
    monkeypatch.setattr(hold, "HAS_OFD", False)
    app.handler("Later")(lambda: None)
    async with app:
        job = await app.enqueue("Later", schedule=timedelta(days=1))
        shutil.copy(path, path.with_name("copy.db"))
        await anyio.run_process([sys.executable, "-c", PASSING, str(path)])
        with pytest.raises(StoreGone):
            await app.enqueue("Later", schedule=timedelta(days=1))
        assert not (await app.health())["ok"]
    assert stored(path) == {job}


@pytest.mark.skipif(not hold.HAS_OFD, reason="there are none to keep")
async def test_descriptors_do_not_grow_with_the_files_opened(
    make_app: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "_MOST_PARKED", 8)

    async def once(number: int) -> None:
        async with make_app(tmp_path / f"{number}.db") as app:
            await app.store.find()

    before = len(os.listdir("/proc/self/fd"))
    for number in range(25):
        await once(number)
    assert len(os.listdir("/proc/self/fd")) <= before + 12
