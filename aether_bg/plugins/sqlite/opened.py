"""The file while it is open: write lock, writer thread, read connections, owners' locks.

One process opens one path once, and all its apps and clients share it (docs/protocol.md, W10).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import UUID

from aether_bg.bridge import Bridge
from aether_bg.errors import StoreBroken
from aether_bg.plugins.sqlite import files, queries, schema
from aether_bg.plugins.sqlite.hold import Hold, parking
from aether_bg.plugins.sqlite.locks import OwnerLocks, WriteLock
from aether_bg.plugins.sqlite.operations import Operation
from aether_bg.plugins.sqlite.writer import Writer

R = TypeVar("R")
log = logging.getLogger("aether_bg.sqlite")
_OPEN_FOR = 30.0
"""Seconds that other processes may take to create or migrate the file before opening it fails."""


class User(Protocol):
    """Shares the file: one store, on one event loop."""

    bridge: Bridge

    def wake(self) -> None:
        """Something else has written. Called on the loop of `bridge`."""


class OpenFile:
    """Made by `opened`, in a worker thread, since opening may wait for other processes. Raises a `StoreError`."""

    def __init__(self, path: Path) -> None:
        self.path, self.pid = path, os.getpid()
        self.users: list[User] = []
        self.place: _Place | None = None
        self.has_unarmed_index = False
        self.has_listing_indexes = False
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self.locks = OwnerLocks(path)
        with files.translating(path):
            # a file that is not a database of ours is left alone: no lock file beside it either
            conn = self._look_at() if files.check(path) else None
            checked = files.identity(path)
            lock_path = path.with_name(f"{path.name}-lock")
            self._lock: WriteLock | None = None
            self._hold: Hold | None = None
            try:
                self._lock = WriteLock(lock_path, path)
                if not self._lock.acquire_within(_OPEN_FOR):
                    raise files.busy(path)
                try:
                    conn = conn or files.connect(path, like=lock_path)
                    self.store_id = self._set_up(conn)
                    conn.execute("PRAGMA query_only = ON")
                    if not files.same(checked, path):  # a link may have taken its place
                        raise files.irregular(path, "not the file that was there a moment ago")
                    self._hold = Hold(path)
                    self.writer = Writer(
                        path, self._lock, self._hold, trusted=self.locks.trusted, deliver=_deliver,
                        changed=self.wake,
                    )  # fmt: skip
                    self._idle.append(conn)  # from now on it reads
                finally:
                    self._lock.release()
            except BaseException:
                if self._hold is not None:
                    self._hold.release()
                if conn is not None:
                    conn.close()
                if self._lock is not None:
                    self._lock.close()
                raise
            for risk in files.risks(path):
                log.warning("database %s: %s", path, risk)
        _open_files.add(self)

    def _look_at(self) -> sqlite3.Connection:
        """A connection that has read the schema. SQLite itself decides whether this is a database."""
        conn = self._patiently(lambda: files.connect(self.path))
        try:
            self._patiently(lambda: schema.check(conn, self.path))
        except BaseException:
            conn.close()
            raise
        return conn

    def _set_up(self, conn: sqlite3.Connection) -> UUID:
        """WAL and schema, under the write lock: switching a fresh file to WAL from many processes fails otherwise."""

        def set_up() -> UUID:
            if conn.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StoreBroken(f"database {self.path}", "its file system does not support WAL", "Use a local disk.")
            schema.migrate(conn, self.path)
            return queries.store_id(conn)

        return self._patiently(set_up)

    def _patiently(self, work: Callable[[], R]) -> R:
        deadline = time.monotonic() + _OPEN_FOR
        while True:
            try:
                return work()
            except sqlite3.Error as error:
                if not files.is_busy(error) or time.monotonic() > deadline:
                    raise

    def wake(self, but: User | None = None) -> None:
        """Another connection, or this user, has written: tells the others. From any thread."""
        for user in list(self.users):
            if user is not but:
                user.bridge.post(user.wake)

    @property
    def kept(self) -> bool:
        """Whether its path still names this file."""
        return self.writer.transactions.identities.kept

    def reader(self) -> sqlite3.Connection:
        """A new connection that never writes."""
        if not self.kept:
            raise files.gone(self.path)
        with files.translating(self.path):
            conn = files.connect(self.path)
            conn.execute("PRAGMA query_only = ON")
        return conn

    def read(self, run: Callable[[sqlite3.Connection], R]) -> R:
        """In a worker thread, on a connection that never writes."""
        if not self.kept:
            raise files.gone(self.path)
        with files.translating(self.path):
            try:
                conn = self._idle.pop()
            except IndexError:
                conn = self.reader()
            try:
                result = run(conn)
            except BaseException:
                conn.close()
                raise
        self._idle.append(conn)
        if self._closed:  # closed during this read
            self._close_readers()
        return result

    def _close_readers(self) -> None:
        """Each idle connection is closed once, whichever thread takes it."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    def size(self) -> int:
        return os.stat(self.path).st_size + self.writer.transactions.checkpoints.wal_size()

    def close(self, patience: float) -> None:
        """Waits for the writer to finish its work. Its connection is closed last."""
        self._closed = True
        self._close_readers()
        self.writer.stop()
        self.writer.thread.join(patience)
        if not self.writer.thread.is_alive() and self._lock is not None:
            self._lock.close()  # else it still waits in flock; the process's end frees everything
        self.locks.close()

    def forked(self) -> None:
        """In the child: close its copies of our locks without unlocking them, or the child would keep the dead
        parent alive (docs/protocol.md, P2)."""
        if self._lock is not None:
            self._lock.close()
        if self._hold is not None:
            self._hold.forked()
        self.writer.forked()
        self.locks.forked()


def _deliver(ops: list[Operation]) -> None:
    """On the writer's thread: one call into each loop for a whole batch."""
    if len(ops) == 1 and (bridge := ops[0].bridge) is not None:
        bridge.post(ops[0].finished)
        return
    for bridge in {op.bridge for op in ops}:
        if bridge is not None:
            bridge.post(partial(_finish, [op for op in ops if op.bridge is bridge]))


def _finish(ops: list[Operation]) -> None:
    for op in ops:
        op.finished()


# -- one path, once ------------------------------------------------------------------------------


class _Place:
    """What is open at one path."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.file: OpenFile | None = None


_places: dict[str, _Place] = {}
_open_files: weakref.WeakSet[OpenFile] = weakref.WeakSet()


def _place(path: Path) -> _Place:
    return _places.setdefault(os.path.normcase(os.path.realpath(path)), _Place())


def opened(path: Path, user: User) -> OpenFile:
    """The file at `path`, which this process opens once. Raises a `StoreError`. Call it in a worker thread."""
    place = _place(path)
    with place.lock:
        if place.file is None or not place.file.kept:  # who has the file that was there before keeps it
            place.file = OpenFile(path)
            place.file.place = place
        place.file.users.append(user)
        return place.file


def leave(file: OpenFile, user: User, patience: float) -> None:
    """The last user closes it. `patience`: seconds that the writer gets to finish. Call it in a worker thread."""
    place = file.place or _place(file.path)
    with place.lock:
        file.users.remove(user)
        if not file.users:
            if place.file is file:
                place.file = None
            file.close(patience)


def _after_fork() -> None:
    for file in list(_open_files):
        file.forked()
    _places.clear()
    parking.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
