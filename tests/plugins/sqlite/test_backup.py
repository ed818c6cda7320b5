"""`app.store.backup` and `aether-bg backup`: verified copies of a file in use."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import anyio
import pytest
from click.testing import CliRunner

from aether_bg import (
    Aether,
    InvalidOption,
    JobStatus,
    RunOutcome,
    StoreBroken,
    StoreError,
    StoreFolderMissing,
    Unsupported,
)
from aether_bg.bridge import Bridge
from aether_bg.cli.app import cli
from aether_bg.plugins.memory import MemoryStore
from aether_bg.plugins.sqlite import backup as module

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


def ids(path: Path) -> set[UUID]:
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {UUID(id_) for (id_,) in conn.execute("SELECT id FROM aether_jobs")}


async def put(app: Aether, count: int = 1) -> set[UUID]:
    return {await app.enqueue("Later", payload="x" * 1000, schedule=timedelta(days=1)) for _ in range(count)}


@pytest.fixture
def later(app: Aether) -> Aether:
    @app.handler("Later")
    async def later(args: str) -> None: ...

    return app


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "backup.db"


async def test_all_that_was_acknowledged_is_in_it(later: Aether, path: Path, target: Path) -> None:
    told: list[tuple[int, int]] = []
    async with later as app:
        before = await put(app, 300)
        async with anyio.create_task_group() as group:
            going = True

            async def load() -> None:
                while going:
                    await put(app)

            group.start_soon(load)
            assert await app.store.backup(target, progress=lambda *sizes: told.append(sizes)) == target
            going = False
    assert before <= ids(target)
    assert told[-1][0] == told[-1][1] == target.stat().st_size
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert os.listdir(target.parent) == [target.name], "a single file, and nothing beside it"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(path.stat().st_mode)


async def test_runs_resume_on_the_restored_copy(make_app: Make, target: Path) -> None:
    began = anyio.Event()
    app = make_app()

    @app.handler("Work")
    async def work(args: dict[str, int]) -> None:
        began.set()
        await anyio.sleep_forever()

    async with app:
        running = await app.enqueue("Work", payload={})
        waiting = await app.enqueue("Work", payload={}, schedule=timedelta(days=1))
        await began.wait()
        await app.store.backup(str(target))
    restored = make_app(target)
    restored.handler("Work")(lambda: None)
    async with restored:
        with anyio.fail_after(10):
            assert (await restored.wait(running, 10)).status is JobStatus.COMPLETED
        outcomes = [run.outcome for run in await restored.store.history(running)]
        assert outcomes == [RunOutcome.COMPLETED, RunOutcome.CRASHED]
        job = await restored.store.get(waiting)
        assert job is not None
        assert job.status is JobStatus.SCHEDULED


async def test_the_command_line_backs_up_a_file_in_use(later: Aether, path: Path, target: Path) -> None:
    async with later as app:
        before = await put(app, 20)

        def command() -> str:
            done = CliRunner().invoke(cli, ["backup", str(path), str(target), "--json"], prog_name="aether-bg")
            assert done.exit_code == 0, done.output
            return done.stdout

        told = json.loads(await anyio.to_thread.run_sync(command))
        assert told == {"target": str(target), "size": target.stat().st_size, "verified": True}
        assert before <= ids(target)
        await put(app)


async def test_backup_of_an_unused_file_and_of_a_killed_one(later: Aether, path: Path, target: Path) -> None:
    async with later as app:
        jobs = await put(app, 20)
        killed = target.with_name("killed")
        shutil.copytree(path.parent, killed, ignore=lambda *_: ["elsewhere"])
    for number, database in enumerate((path, killed / path.name)):
        to = target.with_name(f"{number}.db")
        done = CliRunner().invoke(cli, ["backup", str(database), str(to)], prog_name="aether-bg")
        assert done.exit_code == 0, done.output
        assert done.stdout.endswith("verified\n")
        assert ids(to) == jobs


@pytest.mark.parametrize("there", ["file", "folder", "link", "itself"])
async def test_nothing_is_written_over(later: Aether, path: Path, target: Path, there: str) -> None:
    if there == "file":
        target.write_text("precious")
    elif there == "folder":
        target.mkdir()
    elif there == "link":
        target.symlink_to(target.with_name("nowhere"))
    else:
        target = path
    async with later as app:
        jobs = await put(app)
        with pytest.raises(InvalidOption, match=rf"^backup {target}: must be a new file, .* is there\. Name another"):
            await app.store.backup(target)
        done = await anyio.to_thread.run_sync(
            lambda: CliRunner().invoke(cli, ["backup", str(path), str(target)], prog_name="aether-bg")
        )
        assert done.exit_code == 2
        assert await app.store.find() == [await app.store.get(job) for job in jobs]
    assert there != "file" or target.read_text() == "precious"


async def test_a_copy_that_does_not_hold_gets_no_name(
    later: Aether, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(conn: sqlite3.Connection, copy: sqlite3.Connection, *_: object) -> None:
        conn.backup(copy)
        copy.execute("PRAGMA writable_schema = ON")
        copy.execute("UPDATE sqlite_master SET rootpage = 3 WHERE name = 'aether_jobs_ready'")
        copy.execute("PRAGMA writable_schema = RESET")

    monkeypatch.setattr(module, "_copy", damaged)
    async with later as app:
        await put(app, 50)
        with pytest.raises(StoreBroken, match=r"its backup does not hold|is damaged"):
            await app.store.backup(target)
    assert os.listdir(target.parent) == []


async def test_a_target_that_cannot_be_written(later: Aether, tmp_path: Path) -> None:
    async with later as app:
        with pytest.raises(StoreFolderMissing, match=r"^backup .*nowhere.backup\.db: its folder"):
            await app.store.backup(tmp_path / "nowhere" / "backup.db")
        with pytest.raises(StoreError, match="xxx"):
            await app.store.backup(tmp_path / ("x" * 300))
        if sys.platform == "linux":
            with pytest.raises(StoreError, match=r"^database /proc"):
                await app.store.backup("/proc/backup.db")
        for wrong in ("", b"backup.db", 5, None, "a\0b"):
            with pytest.raises(InvalidOption, match="must be the path of a new file"):
                await app.store.backup(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match="must be a function"):
            await app.store.backup(tmp_path / "backup.db", progress=5)  # type: ignore[arg-type]
        await put(app)


async def test_what_progress_raises_ends_it(later: Aether, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGES", 1)

    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError

    async with later as app:
        await put(app, 200)
        with pytest.raises(ZeroDivisionError):
            await app.store.backup(target, progress=progress)
        assert os.listdir(target.parent) == []
        await app.store.backup(target)


async def test_what_progress_raises_late_ends_it_as_well(
    later: Aether, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Bridge):
        def post(self, fn: Callable[[], object]) -> bool:
            threading.Timer(0.2, super().post, [fn]).start()
            return True

    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "Bridge", Late)
    async with later as app:
        await put(app)
        with pytest.raises(ZeroDivisionError):
            await app.store.backup(target, progress=progress)
        assert os.listdir(target.parent) == []


async def test_a_cancelled_one_leaves_nothing(later: Aether, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InStep(Bridge):
        """The copy goes on when the loop has been told: else it may be whole before the loop can cancel it."""

        def post(self, fn: Callable[[], object]) -> bool:
            told = threading.Event()
            posted = super().post(lambda: (fn(), told.set()))
            told.wait(10)
            return posted

    monkeypatch.setattr(module, "Bridge", InStep)
    monkeypatch.setattr(module, "_PAGES", 1)
    async with later as app:
        await put(app, 200)
        with anyio.CancelScope() as scope:
            await app.store.backup(target, progress=lambda *_: scope.cancel())
        assert scope.cancelled_caught
        assert os.listdir(target.parent) == []
        await put(app)


def test_without_async(later: Aether, target: Path) -> None:
    with later.blocking() as jobs:
        job = jobs.enqueue("Later", payload="", schedule=timedelta(days=1))
        jobs.store.backup(target)
    assert job in ids(target)


async def test_a_store_without_backup(make_app: Make, target: Path) -> None:
    async with make_app(MemoryStore()) as app:
        with pytest.raises(Unsupported, match=r"this store has no backup"):
            await app.store.backup(target)
