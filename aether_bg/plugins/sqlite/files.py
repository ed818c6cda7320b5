"""Opens the file, and gives each kind of trouble its own error."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aether_bg.bridge import Threads
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

threads: Final = Threads("aether_bg reader")
"""For opening, reading, copying and closing, shared by all files of this process."""
BUSY_MS: Final = 100
"""How long one BEGIN waits for another program's lock before the writer checks its deadlines again."""
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)

Identity = tuple[int, int]


def check(path: Path) -> bool:
    """Whether there is a file at `path`; raises the fitting `StoreError` if there cannot be one. Never opens it:
    closing it again would drop the locks that SQLite holds on it for this process (docs/protocol.md, W10)."""
    with translating(path):
        if not path.parent.is_dir():
            raise StoreFolderMissing(
                f"database {path}", f"its folder {path.parent} does not exist", "Create the folder first."
            )
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise irregular(path, kind(found))
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise _read_only(path)
    return True


def risks(path: Path) -> list[str]:
    """What lets other users of this machine read or replace the database, in words."""
    if os.name != "posix":
        return []
    found: list[str] = []
    file, folder = os.stat(path), os.stat(path.parent)
    if file.st_mode & 0o077:
        found.append(f"its mode is {stat.S_IMODE(file.st_mode):04o}, more than 0600: others can read or write it")
    if file.st_uid != os.geteuid():
        found.append(f"it belongs to another user (uid {file.st_uid})")
    if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
        found.append(
            f"its folder {path.parent} has mode {stat.S_IMODE(folder.st_mode):04o}: others can replace the file"
        )
    if folder.st_uid not in (os.geteuid(), 0):
        found.append(f"its folder {path.parent} belongs to another user (uid {folder.st_uid})")
    return found


def same(before: Identity | None, path: Path) -> bool:
    """Whether the file at `path` is a regular one, and still the one that was checked, if one was."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and before in (None, (found.st_dev, found.st_ino))


def kind(found: os.stat_result) -> str:
    """What is at this path instead of a file."""
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a link" if stat.S_ISLNK(found.st_mode) else "not a file"


def irregular(path: Path, kind: str = "a folder") -> StoreIsDirectory:
    return StoreIsDirectory(f"database {path}", f"it is {kind}", "Name a regular file inside an existing folder.")


def connect(path: Path, *, like: Path | None = None) -> sqlite3.Connection:
    """A connection in autocommit mode (transactions are begun by hand), with this plugin's pragmas.

    `like`: the file is created if there is none, with the mode and owner of this one; otherwise it must exist.
    """
    how = "mode=rw" if like is None else f"mode=rwc&modeof={quote(os.fsencode(like.absolute()))}"
    uri = f"{path.absolute().as_uri()}?{how}"
    conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
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


def identity(path: Path | str) -> Identity | None:
    """The file at `path` now, if there is one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Identities:
    """Which files the database and its WAL are. Created when a connection has opened both."""

    def __init__(self, path: Path) -> None:
        self._path, self._wal = str(path), f"{path}-wal"
        self._were = self._now()

    def _now(self) -> tuple[Identity | None, Identity | None]:
        return identity(self._path), identity(self._wal)

    @property
    def kept(self) -> bool:
        """Whether both are still the same files: then what is committed now can be found by its name."""
        return self._now() == self._were

    @property
    def wal_is_away(self) -> bool:
        """Whether only the WAL was removed, and nothing is in its place: a checkpoint still saves what is in it."""
        return self._now() == (self._were[0], None)


def lost_transaction(error: BaseException) -> bool:
    """Errors after which SQLite itself may have rolled back everything: disk, I/O, memory (docs/protocol.md, W1)."""
    return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CORRUPT)


def is_busy(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_read_only(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_out_of_files() -> bool:
    """SQLite does not say why it cannot open a file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _OUT_OF_FILES
    return False


def _out_of_files(what: str) -> StoreBroken:
    return StoreBroken(what, "too many files are open", "Close some, or raise the limit: `ulimit -n`.")


def translate(error: BaseException, path: Path) -> AetherError:
    """The `StoreError` for what sqlite3 or the OS said."""
    if isinstance(error, AetherError):
        return error
    what = f"database {path}"
    if isinstance(error, OSError):
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return _read_only(path, error.filename)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _full(path)
        if error.errno in (errno.ELOOP, errno.EISDIR):
            return StoreIsDirectory(what, "it is a link or a folder", "Name a regular file.")
        if error.errno in _OUT_OF_FILES:
            return _out_of_files(what)
        return StoreBroken(what, f"the operating system refused it ({error})", "Look at the path and the disk.")
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return busy(path)
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if code == sqlite3.SQLITE_CANTOPEN and _is_out_of_files():
        return _out_of_files(what)
    if code == sqlite3.SQLITE_CANTOPEN and identity(path) is None:
        return gone(path)
    if is_read_only(error):
        return _read_only(path)
    if code == sqlite3.SQLITE_NOTADB:
        return NotADatabase(f"file {path}", "it is not a SQLite database", "Name another file.")
    if code == sqlite3.SQLITE_AUTH:
        return StoreBroken(
            what, "a trigger that aether_bg did not create would change its tables", "Drop the trigger, then go on."
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreBroken(what, f"it is damaged ({error})", "Restore a backup, or save what `.recover` can read.")
    if isinstance(error, sqlite3.Error):
        return StoreBroken(what, f"SQLite says: {error}", "Look at the disk, then run `aether-bg check`.")
    return StoreError(what, f"{type(error).__name__}: {error}")


@contextmanager
def translating(path: Path) -> Iterator[None]:
    """Inside, errors of sqlite3 and of the operating system become a `StoreError` that names the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from error


def busy(path: Path) -> StoreBusy:
    return StoreBusy(
        f"database {path}",
        "another program has held its write lock past the deadline",
        "Look for a long transaction elsewhere; nothing was changed, so try again.",
    )


def stuck(path: Path, unit: str) -> StoreBusy:
    return StoreBusy(
        f"database {path}",
        f"a unit of work of this process ({unit}) holds it and does not end",
        "Nothing was changed. If it never ends, restart this process.",
    )


def slow(path: Path, seconds: float) -> StoreBusy:
    return StoreBusy(
        f"database {path}",
        f"a statement of aether_bg has taken more than {seconds:g} s",
        "Nothing was changed. Look for a slow trigger on a table of yours that refers to ours, or for a slow disk.",
    )


def gone(path: Path) -> StoreGone:
    return StoreGone(
        f"database {path}",
        "it or its -wal file was removed or replaced while it was open",
        "Stop every process that uses it, put the file back, and start again; "
        "what was written to the old one cannot be reached by its name.",
    )


def _full(path: Path) -> StoreFull:
    return StoreFull(f"database {path}", "no space is left for it", "Free some; then it goes on by itself.")


def _read_only(path: Path, which: object = None) -> StoreReadOnly:
    own = which is None or os.fsdecode(str(which)) == str(path)
    return StoreReadOnly(
        f"database {path}",
        "it, or its folder, cannot be written" if own else f"{which} cannot be written",
        "Give this user write access." if own else "Give that file the owner and the mode of the database.",
    )
