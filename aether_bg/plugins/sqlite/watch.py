"""How an idle writer rests: until an operation comes, or until the system tells of another process's write.

Linux tells of it (inotify). Elsewhere, and where a file system does not tell, `Watch` sees nothing, and the writer
looks at the file every tick. Two calls of the C library ask for it, so that nothing has to be installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import sys
import threading
from typing import Any, Final

_MODIFIED: Final = 0x2
"""IN_MODIFY: SQLite writes to its WAL. What it maps into memory is not told."""


class Watch:
    """Of one WAL. Only `wake` may be called in other threads than that of the writer."""

    def __init__(self, wal: str, *, trusted: bool) -> None:
        self._wal = os.fsencode(wal)
        self._notes = self._bell = self._mark = -1
        self._resting, self._lock = False, threading.Lock()
        self._changes, self._proved = -1, False
        """`_proved`: a write of our own was noted, so those of others are."""
        if trusted and sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # a C library without it, or too many of them are open
                self._libc = _libc()
                self._notes = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
                self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._note()

    def _note(self) -> bool:
        self._mark = self._libc.inotify_add_watch(self._notes, self._wal, _MODIFIED)
        return self._mark >= 0

    def wake(self) -> None:
        if self._resting:
            with self._lock:
                if self._resting:
                    os.eventfd_write(self._bell, 1)

    def begin(self, changes: int) -> bool:
        """From now on `wake` is heard and writes are noted; look for what came before. False: it cannot tell.

        `changes`: rows that we have ever written. The first of them must have been noted: that proves that it can.
        """
        if self._notes < 0 or self._bell < 0:
            return False
        noted = _emptied(self._notes)
        if not self._proved and changes != self._changes:
            self._changes, self._proved = changes, noted
        self._resting = self._proved and self._note()
        return self._resting

    def rest(self, seconds: float) -> bool:
        """Whether something was written meanwhile."""
        ready = select.poll()
        ready.register(self._notes, select.POLLIN)
        ready.register(self._bell, select.POLLIN)
        return self._notes in (fd for fd, _ in ready.poll(max(0.0, seconds) * 1000))

    def end(self) -> None:
        """Nothing is noted while it is awake: that would cost each commit a little."""
        self._resting = False
        _emptied(self._bell)
        self._libc.inotify_rm_watch(self._notes, self._mark)

    def close(self) -> None:
        with self._lock:
            self.forked()

    def forked(self) -> None:
        """In the child, where a lock may be held by a thread that it does not have."""
        self._resting = False
        for fd in (self._notes, self._bell):
            if fd >= 0:
                os.close(fd)
        self._notes = self._bell = -1


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def _emptied(fd: int) -> bool:
    """Whether there was something to read."""
    try:
        return bool(os.read(fd, 65536))
    except OSError:
        return False
