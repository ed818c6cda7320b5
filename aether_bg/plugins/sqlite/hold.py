"""A lock on the open database that nothing else in this process can drop (docs/protocol.md, W10).

SQLite locks a file with POSIX locks. When anything in this process opens that file and closes it (a copy, another
SQLite library), all of them are gone without an error. The next clean close in another process then believes that it is
the last one and removes the WAL that this process still writes: acknowledged commits are lost. So one more descriptor
locks the bytes that SQLite shares, as an open file description lock: only unlocking that very descriptor ends it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HAS_OFD: Final = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
"""Without such locks, the files are only compared before and after each commit."""

_SHARED: Final = (0x40000000 + 2, 510)
"""The bytes of the database that every connection locks; the connection that closes last locks them exclusively."""
_SHM_ALIVE: Final = (128, 1)
"""The byte of the -shm file that every process locks; a process that finds it free empties the file."""
_OPEN: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_MOST_PARKED: Final = 32

_File = tuple[int, int]


class _Parking:
    """Descriptors that no longer hold a lock, and their files. Closing one would drop the POSIX locks of every other
    connection of this process to its file, so it is kept here to be used again."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._fds: dict[int, _File] = {}

    def take(self, path: Path) -> int:
        """A descriptor of the file at `path`: a parked one, or a new one."""
        wanted = _file(os.stat(path))
        with self._guard:
            for fd, file in self._fds.items():
                if file == wanted:
                    del self._fds[fd]
                    return fd
        return os.open(path, _OPEN)

    def park(self, fds: list[int]) -> None:
        with self._guard:
            self._fds.update((fd, _file(os.fstat(fd))) for fd in fds)
            spare = [fd for fd in self._fds if os.fstat(fd).st_nlink == 0]
            if len(self._fds) > _MOST_PARKED:
                spare = list(self._fds)
            if spare:
                self._close_unused(spare)

    def _close_unused(self, fds: list[int]) -> None:
        """Closes those whose files are not open elsewhere in this process."""
        opened: dict[_File, int] = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it has been closed
                file = _file(os.stat(f"/proc/self/fd/{name}"))
                opened[file] = opened.get(file, 0) + 1
        for fd in fds:
            if opened.get(self._fds[fd]) == 1:
                os.close(fd)
                del self._fds[fd]

    def forked(self) -> None:
        """In the child, which holds no locks yet."""
        self._guard = threading.Lock()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


parking: Final = _Parking()


class Hold:
    """Created after a connection has opened the WAL. `release` it before the last one is closed, which removes the
    WAL."""

    def __init__(self, path: Path) -> None:
        self._fds: list[int] = []
        if not HAS_OFD:
            return
        for file, where in ((path, _SHARED), (Path(f"{path}-shm"), _SHM_ALIVE)):
            with contextlib.suppress(OSError):  # a file system that has no such locks
                self._fds.append(parking.take(file))
                _lock(self._fds[-1], fcntl.F_RDLCK, where)

    def release(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                _lock(fd, fcntl.F_UNLCK, (0, 0))
        parking.park(self._fds)
        self._fds.clear()

    def forked(self) -> None:
        """In the child, which has no lock of its own to lose: its copies would keep the lock alive."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _lock(fd: int, kind: int, where: tuple[int, int]) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, *where, 0))


def _file(found: os.stat_result) -> _File:
    return found.st_dev, found.st_ino
