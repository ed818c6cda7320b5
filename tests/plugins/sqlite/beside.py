"""A process that has the file open in several ways, enqueues, and is killed: `python beside.py WAY DB`.

Prints the id of each job once `enqueue` has returned it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from aether_bg import Aether


def another_process(path: Path) -> Callable[[], None]:
    """A process that opens the file and closes it when told to: as the last one, it would remove the WAL."""

    async def passing() -> None:
        async with Aether(path, scheduler="timer"):
            pass

    told, tell = os.pipe()
    if child := os.fork():

        def pass_by() -> None:
            os.write(tell, b"now")
            assert os.waitpid(child, 0)[1] == 0

        return pass_by
    os.close(tell)
    if os.read(told, 3):  # else the other has ended without a word
        asyncio.run(passing())
    os._exit(0)


def an_app(path: Path) -> Aether:
    app = Aether(path, scheduler="timer", grace=1)
    app.handler("Never")(lambda: None)
    return app


@asynccontextmanager
async def two_apps(path: Path) -> AsyncIterator[Aether]:
    async with an_app(path) as app, an_app(path):
        yield app


@asynccontextmanager
async def an_app_that_has_ended(path: Path) -> AsyncIterator[Aether]:
    async with an_app(path) as app:
        async with an_app(path):
            pass
        yield app


@asynccontextmanager
async def an_app_and_a_client(path: Path) -> AsyncIterator[Aether]:
    async with an_app(path) as app, Aether(path).client():
        yield app


@asynccontextmanager
async def the_users_connection(path: Path) -> AsyncIterator[Aether]:
    conn = sqlite3.connect(path)
    conn.execute("SELECT count(*) FROM sqlite_master").fetchall()
    async with an_app(path) as app:
        yield app


@asynccontextmanager
async def the_users_connection_alone(path: Path) -> AsyncIterator[Aether]:
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("SELECT count(*) FROM sqlite_master").fetchall()
    async with an_app(path):
        pass
    async with an_app(path) as app:
        conn.close()
        yield app


@asynccontextmanager
async def the_command_line(path: Path) -> AsyncIterator[Aether]:
    from click.testing import CliRunner

    from aether_bg.cli.app import cli

    async with an_app(path) as app:
        await app.enqueue("Never", "paused", schedule=timedelta(days=1))

        def commands() -> None:
            for words in ("stats", "list", "check", "pause", "purge --yes", "history"):
                name, *options = words.split()
                jobs = ["paused"] if name in ("pause", "history") else []
                result = CliRunner().invoke(cli, [name, str(path), *jobs, *options])
                assert result.exit_code == 0, (words, result.output, result.exception)

        await asyncio.to_thread(commands)
        yield app


@asynccontextmanager
async def an_app_in_a_handler(path: Path) -> AsyncIterator[Aether]:
    async with an_app(path) as app:
        await in_a_handler(path, another(path))
        yield app


def another(path: Path) -> Callable[[], object]:
    def open_another() -> None:
        with an_app(path).blocking() as jobs:
            jobs.store.stats()

    return open_another


async def in_a_handler(path: Path, work: Callable[[], object]) -> None:
    """Runs `work` as a job of one more app on the file."""

    def once() -> None:
        work()

    app = an_app(path)
    app.handler("Once")(once)
    async with app:
        job = await app.wait(await app.enqueue("Once"), 20)
        assert job.status.name == "COMPLETED", job.last_error


@asynccontextmanager
async def a_copy_of_the_file(path: Path) -> AsyncIterator[Aether]:
    async with an_app(path) as app:
        await in_a_handler(path, lambda: shutil.copy(path, path.with_name("copy.db")))
        yield app


@asynccontextmanager
async def a_copy_of_the_folder(path: Path) -> AsyncIterator[Aether]:
    async with an_app(path) as app:
        await in_a_handler(
            path, lambda: shutil.copytree(path.parent, path.parent.with_name(f"{path.parent.name}-copy"))
        )
        yield app


@asynccontextmanager
async def an_app_of_another_thread(path: Path) -> AsyncIterator[Aether]:
    def other() -> None:
        with an_app(path).blocking() as jobs:
            ready.set()
            end.wait()
            jobs.store.stats()

    ready, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    async with an_app(path) as app:
        ready.wait()
        yield app


WAYS = {
    way.__name__: way
    for way in (
        two_apps, an_app_that_has_ended, an_app_and_a_client, the_users_connection, the_users_connection_alone,
        the_command_line, an_app_in_a_handler, a_copy_of_the_file, a_copy_of_the_folder, an_app_of_another_thread,
    )
}  # fmt: skip


async def main(way: str, path: Path, pass_by: Callable[[], None]) -> None:
    async with WAYS[way](path) as app:
        await app.enqueue("Never", schedule=timedelta(days=1))
        pass_by()
        for _ in range(10):
            sys.stdout.write(f"{await app.enqueue('Never', schedule=timedelta(days=1))}\n")
            sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), another_process(Path(sys.argv[2]))))
