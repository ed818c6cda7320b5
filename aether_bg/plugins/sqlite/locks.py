"""OS locks: one for fair writing across processes, one per owner that says "I am alive" (docs/protocol.md, P1, P2, P5).

Where the platform has no `flock` the write lock is left to SQLite's own, and owners are judged by lease alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

if TYPE_CHECKING:
    from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MODE: Final = 0o600
_OPEN: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "lustre"}


class WriteLock:
    """`with lock:` around each write transaction. Never deleted, so that all wait on one file.

    Tries first and then waits in `flock`, which the kernel hands over in turn; a polling lock starves (measured).
    """

    def __init__(self, path: Path, database: Path) -> None:
        self._fd = -1
        if fcntl:
            self._fd = _open(path, os.O_CREAT)
            follow(self._fd, database)

    def __enter__(self) -> None:
        if self._fd < 0:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def acquire_within(self, seconds: float) -> bool:
        """Takes the lock as `with` does; False if it was not free by then: close this, and a late lock is released.

        A wait in `flock` cannot be ended, so it happens in a thread of its own, on a descriptor of its own.
        """
        if self._fd < 0 or _lockable(self._fd):
            return True
        fd, ended = os.dup(self._fd), threading.Event()
        failed: list[OSError] = []

        def wait() -> None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                failed.append(error)
            os.close(fd)  # the other descriptor holds the lock, if it is still open
            ended.set()

        threading.Thread(target=wait, name="aether_bg write lock", daemon=True).start()
        came = ended.wait(seconds)
        if failed:
            raise failed[0]
        return came

    def close(self) -> None:
        """Close without unlocking: after a fork the lock belongs to the parent as well."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def follow(file: int | Path, database: Path) -> None:
    """Gives `file` the mode and owner of the database as far as this user may, as SQLite does for the WAL: every user
    who can write the database can then lock it, whichever user came first."""
    try:
        wanted, found = os.stat(database), os.stat(file)
    except OSError:
        return  # no database yet: it is made after the lock
    if (mode := wanted.st_mode & 0o666) != stat.S_IMODE(found.st_mode):
        with contextlib.suppress(PermissionError):
            os.chmod(file, mode)
    if (wanted.st_uid, wanted.st_gid) == (found.st_uid, found.st_gid):
        return
    for user in (wanted.st_uid, -1):  # only root gives a file away; its owner may pass it to a group that it is in
        with contextlib.suppress(PermissionError):
            os.chown(file, user, wanted.st_gid)
            return


def _open(path: Path, more: int = 0) -> int:
    """For locking only: a user who may only read the file can lock it too."""
    try:
        return os.open(path, _OPEN | os.O_RDWR | more, _MODE)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, _OPEN | os.O_RDONLY)


class OwnerLocks:
    """Lock files of the owners of one database, and locks of dead owners, held during recovery."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._mine: dict[UUID, FileLock] = {}
        self._recovering: dict[UUID, int] = {}
        self.trusted = fcntl is not None and not on_network(database)
        """False: leases alone decide who is dead."""

    def path(self, owner: UUID) -> Path:
        return self._database.with_name(f"{self._database.name}-owner-{owner}")

    def take(self, owner: UUID) -> None:
        """Create and lock this owner's file, before its row is inserted (docs/protocol.md, P1)."""
        from filelock import FileLock, Timeout  # only a process that runs jobs needs it

        lock = FileLock(self.path(owner), timeout=0, mode=_MODE, thread_local=False)
        with contextlib.suppress(Timeout):  # no other process knows this UUID; without a lock the lease decides
            lock.acquire()
        self._mine[owner] = lock
        if fcntl:
            follow(self.path(owner), self._database)

    def release(self, owner: UUID) -> None:
        """Unlink first, then unlock: no other process may find an unlocked file after a clean stop."""
        if owner in self._mine:
            with contextlib.suppress(OSError):
                self.path(owner).unlink(missing_ok=True)
            self.abandon(owner)

    def abandon(self, owner: UUID) -> None:
        """Unlocks and leaves the file: an owner that has not left counts as dead."""
        if (lock := self._mine.pop(owner, None)) is not None:
            lock.release(force=True)

    def dead(self, owner: UUID, *, keep: bool = True) -> bool:
        """Proven dead: its lock could be taken on the very file that it created. `keep`: hold the lock until
        `recovered`."""
        if not self.trusted:
            return False
        if owner in self._recovering:
            return True
        with _opened(self.path(owner)) as fd:
            if fd is None or not _lockable(fd) or not _same_file(fd, self.path(owner)):
                return False  # missing, held, or replaced meanwhile: unknown, so the lease decides
            if keep:
                self._recovering[owner] = os.dup(fd)  # the lock goes with the open file, which the copy keeps open
            return True

    def recovered(self, owner: UUID) -> None:
        """The dead owner's jobs have been taken back: remove its file, then release its lock."""
        with contextlib.suppress(OSError):
            self.path(owner).unlink(missing_ok=True)
        if (fd := self._recovering.pop(owner, None)) is not None:
            os.close(fd)

    def close(self) -> None:
        self.forked()
        for owner in list(self._mine):
            self.abandon(owner)

    def forked(self) -> None:
        """In the child: close the copies of dead owners' locks. filelock closes its own (since 4.0)."""
        for fd in self._recovering.values():
            os.close(fd)
        self._recovering.clear()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open without O_CREAT: probing must never make the file (docs/protocol.md, P2)."""
    try:
        fd = _open(path)
    except OSError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _lockable(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def on_network(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether `path` lies on a file system whose locks cannot be trusted (Linux only; elsewhere False)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    folder = os.path.join(os.path.dirname(os.path.realpath(path)), "")
    best, kind = 0, ""
    for line in lines:
        _, point, fs, *_ = line.split(" ")
        where = os.path.join(point.replace("\\040", " "), "")
        if folder.startswith(where) and len(where) >= best:  # of two on one point the later covers the earlier
            best, kind = len(where), fs
    return kind in _NETWORK
