"""A reliable copy of a live database: SQLite's online backup, verified before it gets its name."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import anyio
import anyio.lowlevel

from aether_bg.bridge import Bridge
from aether_bg.errors import InvalidOption, StoreBroken, StoreFolderMissing
from aether_bg.plugins.sqlite import files
from aether_bg.plugins.sqlite.locks import follow
from aether_bg.plugins.sqlite.schema import applied

Progress = Callable[[int, int], object]
"""Called with the bytes copied so far and the bytes in all; if it raises, the backup ends."""

_PAGES: Final = 256
"""Copied between two calls of it."""
_ANSWER: Final = 10.0
"""The longest wait for the loop to make the last of these calls, in seconds."""


def backup(conn: sqlite3.Connection, database: Path, target: Path, progress: Progress) -> int:
    """Copies what is committed now to the new file `target`; returns its bytes. `conn`: a connection to `database` that
    reads.

    Nothing is at `target` before the copy is whole, verified and synced. Raises `InvalidOption` if `target` exists, and
    a `StoreError` that names the file in trouble.
    """
    if not target.parent.is_dir():
        raise StoreFolderMissing(f"backup {target}", f"its folder {target.parent} does not exist", "Create it first.")
    if os.path.lexists(target):
        raise _taken(target)
    part = target.with_name(f".aether-backup-{uuid4().hex[:12]}")
    try:
        with files.translating(target):
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(files.connect(part)) as copy:
                _copy(conn, copy, database, progress)
                _verify(copy, database)
            follow(part, database)
            size = part.stat().st_size
            _give_name(part, target)
        return size
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{part}{end}")


async def live(
    connected: Callable[[], AbstractContextManager[sqlite3.Connection]],
    database: Path,
    target: Path,
    progress: Progress,
) -> None:
    """Runs `backup` in a thread; `progress` is called on this event loop. When cancelled it ends after the current
    step."""
    stopped, failed, bridge = threading.Event(), list[BaseException](), Bridge()

    def on_loop(done: int, total: int, told: threading.Event) -> None:
        try:
            if not stopped.is_set():
                progress(done, total)
        except BaseException as error:
            failed.append(error)
            stopped.set()
        finally:
            told.set()

    def tell(done: int, total: int) -> None:
        told = threading.Event()
        if bridge.post(partial(on_loop, done, total, told)) and done >= total:
            told.wait(_ANSWER)  # the copy is whole: what was raised meanwhile must still end it
        if stopped.is_set():
            raise InterruptedError

    def work() -> None:
        with connected() as conn:
            backup(conn, database, target, tell)

    async def stop_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with anyio.create_task_group() as group:
        group.start_soon(stop_when_cancelled)
        try:
            await files.threads.run(work)
        except Exception as error:  # raised outside of the group, which would wrap it
            failed.append(error)
        await anyio.lowlevel.checkpoint_if_cancelled()
        group.cancel_scope.cancel()
    if failed:
        raise failed[0]


def _copy(conn: sqlite3.Connection, copy: sqlite3.Connection, database: Path, progress: Progress) -> None:
    """In one read transaction: otherwise every write of another process would restart it."""
    with files.translating(database):
        size = conn.execute("PRAGMA page_size").fetchone()[0]
        conn.execute("BEGIN")
        conn.execute("SELECT 1 FROM sqlite_master").fetchone()
    try:
        conn.backup(copy, pages=_PAGES, progress=lambda _, left, total: progress((total - left) * size, total * size))
    finally:
        conn.execute("ROLLBACK")
    copy.execute("PRAGMA journal_mode = DELETE")  # one file, which can be read from a medium that is read-only
    copy.execute("DELETE FROM main.aether_owners")  # none of them runs on the copy: what they ran is taken back at once


def _taken(target: Path) -> InvalidOption:
    return InvalidOption(f"backup {target}", "must be a new file, but something is there", "Name another file.")


def _verify(copy: sqlite3.Connection, database: Path) -> None:
    said = [str(row[0]) for row in copy.execute("PRAGMA integrity_check(5)")]
    if said != ["ok"] or not applied(copy):
        raise StoreBroken(
            f"database {database}",
            f"its backup does not hold ({'; '.join(said)})",
            "Run `aether-bg check` on the database, and look at the disks.",
        )


def _give_name(part: Path, target: Path) -> None:
    """Never replaces another file; durable when it returns."""
    from aether_bg.rows import sync_folder  # brings cattrs, which a store needs for nothing else

    try:
        os.link(part, target)
    except FileExistsError:
        raise _taken(target) from None
    except OSError:  # a file system without links
        part.rename(target)
    with suppress(OSError):  # some file systems sync no folders
        sync_folder(target.parent)
