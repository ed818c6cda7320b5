"""Which processes are alive, for a store whose processes share a folder on a local disk.

Each owner has a file there. A lock on it proves life and death: the system releases it however the process ends. The
file's time counts its beats, a second for each; a thread of this process moves it. So a heartbeat writes nothing into
the store.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final
from uuid import UUID

import attrs

from aether_bg.model import Alive, Heartbeat, JobInfo, Owner
from aether_bg.rows import disk_trouble

try:
    import fcntl
except ImportError:  # Windows: only the leases decide
    fcntl = None  # type: ignore[assignment]

__all__ = ["OwnerFolder"]

TICK: Final = 0.1
"""Seconds between two looks of the thread."""
_log = logging.getLogger("aether_bg")
_STOPPING: Final = ".stopping"


@attrs.define
class _Beating:
    interval: float
    until: float
    due: float
    stop_asked: Callable[[], bool]


def _nothing() -> None: ...


class OwnerFolder:
    """Carries the owners of a store: `answer` is its `store_heartbeat`, `knows` the check of its `store_claim`.

    Open it with the store, and close it with the store: a thread works in between. Every tenth of a second it calls
    `look`, which may find out whether another process has written, and call `kernel.wake`. Methods may block for a
    moment, and may be called in any thread.
    """

    def __init__(self, folder: Path, look: Callable[[], object] = _nothing) -> None:
        self._folder, self._look = folder, look
        self._locks: dict[UUID, int] = {}
        self._beating: dict[UUID, _Beating] = {}
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        _folders.add(self)

    def open(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name="aether_bg owners", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """An owner that has not left looks dead from now on: its file stays, without a lock."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._beating.clear()
        self.drop_locks()

    def drop_locks(self) -> None:
        """Without unlocking: in a forked child they stay with the parent (docs/protocol.md, P2)."""
        while self._locks:
            os.close(self._locks.popitem()[1])

    def knows(self, owner: UUID) -> bool:
        """Whether it is registered; no other owner can claim (docs/protocol.md, P4)."""
        return self._file(owner).exists()

    def count(self) -> int:
        """How many are registered."""
        return len(self._registered())

    def answer(self, beat: Heartbeat, store_id: UUID, jobs: Iterable[JobInfo]) -> Alive:
        """Carries out the beat, and answers it. `jobs`: as for `Alive.of`. Raises a `StoreTrouble`."""
        jobs = list(jobs)  # first: whose job is among them has joined, so its file is found below
        try:
            return self._answer(beat, store_id, jobs)
        except OSError as error:
            raise disk_trouble(str(self._folder), error) from error

    def _answer(self, beat: Heartbeat, store_id: UUID, jobs: list[JobInfo]) -> Alive:
        with self._guard:
            if beat.join:
                self._remove(beat.owner)  # what a join that failed has left
                self._join(beat)
            for gone in beat.gone:
                self._remove(gone)
            if self.knows(beat.owner):
                self._keep(beat)
                if beat.stopping:
                    self._mark(beat.owner)
            else:
                self._remove(beat.owner)
            owners = self._registered()
            return Alive.of(beat, store_id, owners, jobs, [id_ for id_ in owners if self._is_dead(id_)])

    # -- files: made complete and locked, removed before they are unlocked -------------------------

    def _file(self, owner: UUID) -> Path:
        return self._folder / str(owner)

    def _join(self, beat: Heartbeat) -> None:
        """Its file appears when it is complete and locked."""
        new = self._file(beat.owner).with_suffix(".new")
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, json.dumps({"handlers": beat.handlers, "declares": beat.declares}).encode())
        if fcntl:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._locks[beat.owner] = fd
        else:
            os.close(fd)
        new.rename(self._file(beat.owner))

    def _remove(self, owner: UUID) -> None:
        self._beating.pop(owner, None)
        for name in (self._file(owner), self._file(owner).with_suffix(_STOPPING)):
            name.unlink(missing_ok=True)
        if (fd := self._locks.pop(owner, None)) is not None:
            os.close(fd)

    def _mark(self, owner: UUID) -> None:
        """It is stopping. A file of its own says so: it outlives the process (docs/protocol.md, S7)."""
        self._file(owner).with_suffix(_STOPPING).touch(0o600)

    def _registered(self) -> dict[UUID, Owner]:
        owners = dict[UUID, Owner]()
        for file in self._folder.iterdir():
            with contextlib.suppress(ValueError, FileNotFoundError):  # not an owner's; removed at this moment
                id_, beat = UUID(file.name), int(file.stat().st_mtime)
                stopping = file.with_suffix(_STOPPING).exists()
                owners[id_] = attrs.evolve(_read(file), beat=beat, stopping=stopping)
        return owners

    def _is_dead(self, owner: UUID) -> bool:
        """Proven dead: the lock of the very file that it made is free."""
        if fcntl is None or owner in self._locks:
            return False
        try:
            fd = os.open(self._file(owner), os.O_RDWR)  # without O_CREAT (docs/protocol.md, P2)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(fd).st_nlink > 0  # else it has left meanwhile
        except OSError:
            return False
        finally:
            os.close(fd)

    # -- beats -------------------------------------------------------------------------------------

    def _keep(self, beat: Heartbeat) -> None:
        now = time.monotonic()
        due = known.due if (known := self._beating.get(beat.owner)) else now + beat.interval
        self._beating[beat.owner] = _Beating(beat.interval, now + beat.keep_for, due, beat.stop_asked)

    def _run(self) -> None:
        failing = False
        while not self._closing.wait(TICK):
            try:
                with self._guard:
                    self._beat()
                self._look()
                failing = False
            except Exception:
                if not failing:  # once, not each tick
                    _log.exception("%s: owners may look dead, or other processes' jobs start late", self._folder)
                failing = True

    def _beat(self) -> None:
        now = time.monotonic()
        for owner, beating in self._beating.items():
            if beating.stop_asked() and self.knows(owner):  # the event loop, which may be blocked, need not say so
                self._mark(owner)
            if beating.due <= now < beating.until:
                beating.due = now + beating.interval
                with contextlib.suppress(FileNotFoundError):  # recovered: the next heartbeat says so
                    beats = int(self._file(owner).stat().st_mtime) + 1
                    os.utime(self._file(owner), (beats, beats))


def _read(file: Path) -> Owner:
    """What it says of its handlers. Nothing, if the power failed before it was written."""
    try:
        about = json.loads(file.read_bytes())
        return Owner(0, tuple(about["handlers"]), declares=tuple(about["declares"]))
    except (ValueError, LookupError, TypeError):
        return Owner(0, ())


_folders: weakref.WeakSet[OwnerFolder] = weakref.WeakSet()
"""Those of this process, for its forked children."""


def _forked() -> None:
    for folder in _folders:
        folder.drop_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
