"""Modes and owners of what lies beside the database, and errors of the operating system: each names the file."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import filelock
import pytest

from aether_bg import Aether, StoreBroken, StoreError, StoreGone, StoreReadOnly
from aether_bg.cli.app import cli
from aether_bg.plugins.sqlite import files, locks

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
SERVICE = 12_345
"""A user that owns nothing else."""

WORKERS = """
import asyncio, os, sys
from aether_bg import Aether
async def main(path):
    app = Aether(path, scheduler="timer")
    app.handler("Work")(lambda: None)
    async with app:
        await app.wait(await app.enqueue("Work"), 20)
asyncio.run(main(":memory:"))  # all is imported then: those users may not be able to read the interpreter's folder
for line in sys.stdin:
    path, user, group = line.split()
    if worker := os.fork():
        os.waitpid(worker, 0)
        print(flush=True)
        continue
    os.setgroups([int(group)]); os.setgid(int(group)); os.setuid(int(user)); os.umask(0o022)
    try:
        asyncio.run(main(path))
        print("done", end="", flush=True)
    except Exception as error:
        print(type(error).__name__, error, sep=": ", end="", flush=True)
    os._exit(0)
"""
"""For each line a process that runs an app on that path, as that user and group, and says how it ended."""

AsUser = Callable[..., None]


@pytest.fixture(scope="module")
def as_user() -> Iterator[AsUser]:
    """`as_user(path, user, group)`: that user works with the file, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", WORKERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as workers:
        assert workers.stdin is not None
        assert workers.stdout is not None

        def works(path: Path, user: int, group: int = SERVICE) -> None:
            print(path, user, group, file=workers.stdin, flush=True)
            said = workers.stdout.readline().strip()  # type: ignore[union-attr]
            assert said == "done"

        yield works
        workers.stdin.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def beside(path: Path) -> list[Path]:
    return [other for other in path.parent.iterdir() if other != path]


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A path in a folder that other users can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "jobs.db"


async def test_a_new_file_and_all_beside_it_are_private(app: Aether, path: Path) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        await app.enqueue("Work")
        files = {one.name.split("-")[1] if "-" in one.name else "": mode(one) for one in path.parent.iterdir()}
    assert files == dict.fromkeys(("", "lock", "owner", "wal", "shm"), 0o600)


@pytest.mark.parametrize("wanted", [0o600, 0o640, 0o660, 0o664, 0o666])
async def test_what_lies_beside_it_has_the_mode_of_the_database(make_app: Make, path: Path, wanted: int) -> None:
    async with make_app():
        pass
    path.chmod(wanted)
    old = os.umask(0o077)
    try:
        async with make_app():
            assert {one.name: mode(one) for one in beside(path)} == {one.name: wanted for one in beside(path)}
            assert len(beside(path)) == 4
    finally:
        os.umask(old)


@as_root
def test_a_file_shared_by_a_group_is_used_by_each_of_it(reachable: Path, as_user: AsUser) -> None:
    path = reachable
    path.parent.chmod(0o2770)
    os.chown(path.parent, 0, SERVICE)
    path.touch()
    path.chmod(0o660)
    os.chown(path, SERVICE + 1, SERVICE)
    for user in (SERVICE + 2, SERVICE + 3, 0, SERVICE + 1):
        as_user(path, user)


@as_root
def test_a_command_of_roots_does_not_lock_the_service_out(reachable: Path, as_user: AsUser) -> None:
    """A backup has been restored, so there is no lock file; the first to come is `sudo aether-bg pause`."""
    from click.testing import CliRunner

    path = reachable
    os.chown(path.parent, SERVICE, SERVICE)
    as_user(path, SERVICE)
    for one in beside(path):
        one.unlink()
    done = CliRunner().invoke(cli, ["purge", str(path), "--yes"], prog_name="aether-bg")
    assert done.exit_code == 0, done.output
    assert Path(f"{path}-lock").stat().st_uid == SERVICE
    as_user(path, SERVICE)


@as_root
def test_an_app_run_once_by_root_does_not_lock_the_service_out(reachable: Path, as_user: AsUser) -> None:
    path = reachable
    os.chown(path.parent, SERVICE, SERVICE)
    as_user(path, SERVICE)
    as_user(path, 0, 0)
    assert {one.stat().st_uid for one in beside(path)} == {SERVICE}
    as_user(path, SERVICE)


@as_root
def test_a_lock_file_of_somebody_else_is_named(reachable: Path, as_user: AsUser) -> None:
    path = reachable
    os.chown(path.parent, SERVICE, SERVICE)
    as_user(path, SERVICE)
    lock = Path(f"{path}-lock")
    os.chown(lock, 0, 0)
    lock.chmod(0o600)
    with pytest.raises(AssertionError, match=rf"StoreReadOnly: database {path}: {lock} cannot be written\. Give that"):
        as_user(path, SERVICE)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.ENOLCK])
@pytest.mark.parametrize("call", ["_open", "follow"])
async def test_an_error_at_opening_names_the_file(
    app: Aether, path: Path, number: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number), f"{path}-lock")

    monkeypatch.setattr(locks, call, fails)
    with pytest.raises(StoreError, match=rf"^database {path}"):
        async with app:
            pass


async def test_an_error_of_the_lock_at_a_write_names_the_file(
    app: Aether, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    app.handler("Work")(lambda: None)
    async with app:
        with monkeypatch.context() as patch:
            patch.setattr(locks.fcntl, "flock", fails)
            with pytest.raises(StoreBroken, match=rf"^database {path}.*{os.strerror(errno.ENOLCK)}"):
                await app.enqueue("Work")
            with pytest.raises(StoreBroken, match=rf"^database {path}"):
                async with app.unit_of_work() as uow:
                    uow.execute("CREATE TABLE mine (id)")
        await app.enqueue("Work")


@pytest.mark.parametrize(
    "sql", ["DROP TABLE aether_jobs", "ALTER TABLE aether_jobs RENAME COLUMN off_schedule TO more"]
)
async def test_an_error_of_our_sql_names_the_file(app: Aether, path: Path, sql: str) -> None:
    """Another program has changed our tables."""
    import sqlite3
    from contextlib import closing

    app.handler("Later")(lambda: None)
    async with app:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute(sql)
        with pytest.raises(StoreBroken, match=rf"^database {path}: SQLite says"):
            await app.enqueue("Later", schedule=timedelta(days=1))
        with pytest.raises(StoreBroken, match=rf"^database {path}: SQLite says"):
            await app.store.get_active()
        with pytest.raises(sqlite3.OperationalError):
            async with app.unit_of_work() as uow:
                uow.execute("SELECT * FROM nowhere")


async def test_statistics_of_a_removed_file(app: Aether, path: Path) -> None:
    async with app:
        path.rename(path.with_name("away.db"))
        with pytest.raises(StoreGone):
            await app.store.stats()
        path.with_name("away.db").rename(path)
        assert (await app.store.stats()).size > 0


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^database .*xxx"):
        Aether(tmp_path / ("x" * 300), scheduler="timer")


async def test_a_folder_that_is_a_file(make_app: Make, path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"its folder .* does not exist"):
        async with make_app(path / "jobs.db"):
            pass


async def test_an_owner_file_that_cannot_be_made(app: Aether, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"{path}-owner")

    monkeypatch.setattr(filelock.FileLock, "acquire", fails)
    with pytest.raises(StoreReadOnly, match=rf"^database {path}: {path}-owner cannot be written"):
        async with app:
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_too_many_open_files_are_named(path: Path) -> None:
    """SQLite only says that it cannot open the file; "give this user write access" would mislead."""
    import resource

    path.touch()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = []
    for opens in (lambda: files.connect(path), lambda: os.open(path, os.O_RDONLY)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            with files.translating(path):
                opens()
        except StoreError as error:
            said.append(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [(type(error), "too many files are open" in str(error)) for error in said] == [(StoreBroken, True)] * 2
