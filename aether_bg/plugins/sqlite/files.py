"""Opening the file, and telling what is wrong with it: each kind of trouble has its own error."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from aether_bg.errors import (
    AetherError,
    NotADatabase,
    StoreBroken,
    StoreBusy,
    StoreError,
    StoreFolderMissing,
    StoreFull,
    StoreGone,
    StoreIsDirectory,
    StoreReadOnly,
)

MODE: Final = 0o600
BUSY_MS: Final = 100
"""How long one BEGIN waits for an outsider's lock before the writer looks at its deadlines again."""

_MAGIC: Final = b"SQLite format 3\0"


def prepare(path: Path) -> None:
    """Check `path` and create the file, private, where there is none. Raises the fitting `StoreError`."""
    if not path.parent.is_dir():
        raise StoreFolderMissing(
            f"database {path}", f"its folder {path.parent} does not exist", "Create the folder first."
        )
    try:
        found = path.lstat()
    except FileNotFoundError:
        _create(path)
        return
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise irregular(path, kind)
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise _read_only(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise translate(error, path) from error
    if start and start != _MAGIC:
        raise NotADatabase(f"file {path}", "it is not a SQLite database", "Name another file.")


def irregular(path: Path, kind: str = "a folder") -> StoreIsDirectory:
    return StoreIsDirectory(f"database {path}", f"it is {kind}", "Name a regular file inside an existing folder.")


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), MODE))
    except OSError as error:
        raise translate(error, path) from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode (transactions are begun by hand), with this plugin's pragmas."""
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        conn.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("PRAGMA trusted_schema = OFF")
        conn.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        conn.close()
        raise
    return conn


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at `path` now; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def lost_transaction(error: BaseException) -> bool:
    """Errors after which SQLite itself may have rolled back everything, for want of disk or I/O (PROTOCOL W1)."""
    return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CORRUPT)


def is_busy(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_read_only(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translate(error: BaseException, path: Path) -> AetherError:
    """The `StoreError` for what sqlite3 or the OS said."""
    if isinstance(error, AetherError):
        return error
    what = f"database {path}"
    if isinstance(error, OSError):
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return _read_only(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _full(path)
        if error.errno in (errno.ELOOP, errno.EISDIR):
            return StoreIsDirectory(what, "it is a link or a folder", "Name a regular file.")
        return StoreBroken(what, f"the operating system refused it ({error})", "Look at the path and the disk.")
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return busy(path)
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if is_read_only(error):
        return _read_only(path)
    if code == sqlite3.SQLITE_NOTADB:
        return NotADatabase(f"file {path}", "it is not a SQLite database", "Name another file.")
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreBroken(what, f"it is damaged ({error})", "Restore a backup, or save what `.recover` can read.")
    if isinstance(error, sqlite3.Error):
        return StoreBroken(what, f"SQLite says: {error}", "Look at the disk, then run `aether-bg check`.")
    return StoreError(what, f"{type(error).__name__}: {error}")


def busy(path: Path) -> StoreBusy:
    return StoreBusy(
        f"database {path}",
        "another program has held its write lock past the deadline",
        "Look for a long transaction elsewhere; nothing was changed, so try again.",
    )


def gone(path: Path) -> StoreGone:
    return StoreGone(
        f"database {path}",
        "the file was removed or replaced while it was open",
        "Stop this process and put the file back; what was written to the old one cannot be reached by its name.",
    )


def _full(path: Path) -> StoreFull:
    return StoreFull(f"database {path}", "no space is left for it", "Free some; then it goes on by itself.")


def _read_only(path: Path) -> StoreReadOnly:
    return StoreReadOnly(f"database {path}", "it, or its folder, cannot be written", "Give this user write access.")
