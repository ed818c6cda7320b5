"""Who is alive: a lock that the system releases when its process dies, and beats from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from uuid import UUID

import attrs
from filelock import FileLock, Timeout

from aether_bg.model import Heartbeat, Owner

from .rows import Rows, Tables
from .writer import Writer

TICK = 0.1  # seconds between two looks for what other processes have written


class Locks:
    """One file per owner in a folder, locked while its process lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[UUID, FileLock] = {}

    def hold(self, owner: UUID) -> None:
        if owner not in self._held:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock = self._lock(owner)
            lock.acquire()
            self._held[owner] = lock

    def drop(self, owners: Iterable[UUID]) -> None:
        """Removes owners that have no row any more. Unlink first: no process may find an unlocked file after a clean
        stop."""
        for owner in owners:
            self._path(owner).unlink(missing_ok=True)
            if lock := self._held.pop(owner, None):
                lock.release()

    def close(self) -> None:
        """An owner that has not left looks dead to the others: its file stays, unlocked."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def released(self, owners: Iterable[UUID]) -> set[UUID]:
        """Those of `owners` whose process is proven dead."""
        return {owner for owner in owners if owner not in self._held and self._is_free(owner)}

    def _is_free(self, owner: UUID) -> bool:
        if not self._path(owner).exists():
            return False  # that proves nothing; its beats decide
        lock = self._lock(owner)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _lock(self, owner: UUID) -> FileLock:
        return FileLock(self._path(owner), timeout=5, mode=0o600, thread_local=False)

    def _path(self, owner: UUID) -> Path:
        return self._folder / f"{owner}.lock"


@attrs.define(eq=False)
class _Beating:
    interval: float
    until: float
    due: float
    stop_asked: Callable[[], bool]
    announced: bool = False
    last: Future[None] | None = None


class Pulse:
    """A thread that keeps this process's beats moving, and reports commits of other processes."""

    def __init__(self, tables: Tables, writer: Writer, wake: Callable[[], None]) -> None:
        self._tables, self._writer, self._wake = tables, writer, wake
        self._beating: dict[UUID, _Beating] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmdb-pulse", daemon=True)
        self._thread.start()

    def keep(self, beat: Heartbeat) -> None:
        """Beat for this owner every `interval` seconds, until `keep_for` seconds from now."""
        now = time.monotonic()
        new = _Beating(beat.interval, now, now + beat.interval, beat.stop_asked)
        beating = self._beating.setdefault(beat.owner, new)
        beating.until = now + beat.keep_for

    def cease(self, owner: UUID) -> None:
        self._beating.pop(owner, None)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen = 0
        while not self._stop.wait(TICK):
            newest = self._tables.env.info()["last_txnid"]
            if newest != seen:
                seen = newest
                self._wake()
            now = time.monotonic()
            for owner, beating in list(self._beating.items()):
                stopping = beating.stop_asked()  # the event loop, which may be blocked, need not say so
                due = beating.due <= now < beating.until or stopping > beating.announced
                if due and (beating.last is None or beating.last.done()):
                    beating.due, beating.announced = now + beating.interval, stopping
                    beating.last = self._writer.submit(partial(_beat, owner=owner, stop_asked=stopping))


def _beat(rows: Rows, owner: UUID, stop_asked: bool) -> None:
    """Does nothing for an owner that is not registered: it must learn that it was recovered."""
    if known := rows.owner(owner):
        rows.put_owner(owner, Owner(known.beat + 1, known.handlers, known.stopping or stop_asked))
