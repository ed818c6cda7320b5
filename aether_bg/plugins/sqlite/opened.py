"""The file while it is open: write lock, writer thread, read connections, owners' locks."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import anyio

from aether_bg.bridge import Bridge, Threads
from aether_bg.errors import StoreBroken
from aether_bg.model import Alive, Heartbeat
from aether_bg.plugins.sqlite import claims, files, queries
from aether_bg.plugins.sqlite.locks import OwnerLocks, WriteLock
from aether_bg.plugins.sqlite.operations import Beat, Operation, Rank
from aether_bg.plugins.sqlite.rows import to_time
from aether_bg.plugins.sqlite.schema import migrate
from aether_bg.plugins.sqlite.writer import Writer

R = TypeVar("R")
_READERS = 4
threads = Threads("aether_bg reader")
"""For opening, reading and closing, shared by all files of this process."""
_OPEN_FOR = 30.0
"""Seconds that other processes may take to create or migrate the file before opening it fails."""


class OpenFile:
    """Made by `OpenFile(...)` in a worker thread, since opening may wait for other processes; ended by `close`."""

    def __init__(self, path: Path, busy: float, bridge: Bridge, wake: Callable[[], object]) -> None:
        self.path, self._busy, self._bridge = path, busy, bridge
        self.pid = os.getpid()
        files.prepare(path)
        self._lock = WriteLock(path.with_name(f"{path.name}-lock"))
        self.locks = OwnerLocks(path)
        try:
            if not self._lock.acquire_within(_OPEN_FOR):
                raise files.busy(path)
            try:
                self.store_id = self._set_up()
            finally:
                self._lock.release()
            self._identity = files.identity(path)
            self.writer = Writer(path, self._lock, deliver=self._deliver, changed=partial(bridge.post, wake))
        except BaseException as error:
            self._lock.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise files.translate(error, path) from error
            raise
        self._idle: list[sqlite3.Connection] = []
        self._limiter = anyio.CapacityLimiter(_READERS)
        self.has_unarmed_index = False
        self._told: dict[UUID, tuple[str, ...]] = {}
        """What the rows of this process's owners say about their problems."""
        _open_files.add(self)

    def _set_up(self) -> UUID:
        """WAL and schema, under the write lock: switching a fresh file to WAL from many processes fails otherwise."""
        from sqlite_utils import Database

        deadline = time.monotonic() + _OPEN_FOR
        with closing(files.connect(self.path)) as conn:
            while True:
                try:
                    mode = conn.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                    if mode != "wal":
                        raise StoreBroken(
                            f"database {self.path}", "its file system does not support WAL", "Use a local disk."
                        )
                    migrate(Database(conn, recursive_triggers=False, execute_plugins=False), self.path)
                    return queries.store_id(conn)
                except sqlite3.Error as error:
                    if not files.is_busy(error) or time.monotonic() > deadline:
                        raise

    # -- writing ---------------------------------------------------------------------------------

    async def write(self, run: Callable[[sqlite3.Connection], R], rank: Rank) -> R:
        """Have the writer run it; wait for the commit. Only what has not begun can be given up (PROTOCOL W2)."""
        finished = anyio.Event()
        op = Operation(run, rank, time.monotonic() + self._busy, finished.set)
        self.writer.submit(op)
        try:
            with anyio.move_on_after(self._busy + 0.5):
                await finished.wait()
        finally:
            if not finished.is_set() and not op.expire():
                with anyio.CancelScope(shield=True):
                    await finished.wait()
        if not finished.is_set():
            raise files.busy(self.path)
        if op.error is not None:
            raise op.error
        result: R = op.result
        return result

    def _deliver(self, ops: list[Operation]) -> None:
        """On the writer's thread: one call into the loop for a whole batch."""
        self._bridge.post(lambda: [op.finished() for op in ops])

    # -- reading ---------------------------------------------------------------------------------

    async def read(self, run: Callable[[sqlite3.Connection], R]) -> R:
        async with self._limiter:
            return await threads.run(self._read, run)

    def _read(self, run: Callable[[sqlite3.Connection], R]) -> R:
        if files.identity(self.path) != self._identity:
            raise files.gone(self.path)
        try:
            conn = self._idle.pop()
        except IndexError:
            conn = files.connect(self.path)
            conn.execute("PRAGMA query_only = ON")
        try:
            result = run(conn)
        except sqlite3.Error as error:
            conn.close()
            raise files.translate(error, self.path) from error
        self._idle.append(conn)
        return result

    def size(self) -> int:
        return os.stat(self.path).st_size + self.writer.wal_size()

    # -- who lives -------------------------------------------------------------------------------

    async def join(self, beat: Heartbeat) -> None:
        await threads.run(self.locks.take, beat.owner)
        await self.write(partial(claims.join, beat=beat), Rank.BEAT)
        self._told[beat.owner] = beat.problems
        self.writer.beat = Beat(partial(_renew, owner=str(beat.owner)), beat.interval, beat.keep_for)

    async def tell(self, beat: Heartbeat) -> None:
        if self._told.get(beat.owner, beat.problems) != beat.problems:
            await self.write(partial(claims.tell, beat=beat), Rank.BEAT)
            self._told[beat.owner] = beat.problems

    async def forget(self, beat: Heartbeat) -> None:
        """Delete the rows of buried owners, and of this one when it leaves; then let go of their locks."""
        gone = [*beat.bury, *([beat.owner] if beat.leave else [])]
        await self.write(lambda conn: claims.forget(conn, [str(owner) for owner in gone]), Rank.BEAT)
        for owner in beat.bury:
            self.locks.bury(owner)
        if beat.leave:
            self.writer.beat = None
            self._told.pop(beat.owner, None)
            self.locks.release(beat.owner)

    def alive(self, conn: sqlite3.Connection, beat: Heartbeat) -> Alive:
        """Reads only; probes the locks of the other owners (PROTOCOL P2)."""
        rows = {UUID(id_): (count, handlers) for id_, count, handlers in conn.execute(queries.ALIVE_OWNERS)}
        orphaned = [UUID(row[0]) for row in conn.execute(queries.ORPHANED) if row[0] != str(beat.owner)]
        known = beat.owner in rows and not (self.writer.beat and self.writer.beat.lost)
        return Alive(
            store_id=self.store_id,
            known=known,
            beats={owner: count for owner, (count, _) in rows.items()},
            dead=(*(o for o in rows if o != beat.owner and self.locks.dead(o)), *orphaned),
            running=tuple((UUID(id_), seq) for id_, seq in conn.execute(queries.HELD, [str(beat.owner)])),
            advertised=frozenset(name for _, handlers in rows.values() for name in json.loads(handlers)),
            due=frozenset(row[0] for row in conn.execute(queries.DUE_HANDLERS, [to_time(beat.now)])),
            size=self.size(),
        )

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Waits for the writer to finish what it has."""
        self.writer.stop()
        self.writer.thread.join(self._busy + 1)
        for conn in self._idle:
            conn.close()
        self._idle.clear()
        if not self.writer.thread.is_alive():  # else it still waits in flock; the process's end frees everything
            self._lock.close()
        self.locks.close()

    def forked(self) -> None:
        """In the child: close its copies of our locks without unlocking them, or the child would keep the dead
        parent alive (PROTOCOL P2)."""
        self._lock.close()
        self.locks.forked()


def _renew(conn: sqlite3.Connection, owner: str) -> bool:
    return claims.renew(conn, owner, to_time(datetime.now(UTC)))


_open_files: weakref.WeakSet[OpenFile] = weakref.WeakSet()


def _after_fork() -> None:
    for file in list(_open_files):
        file.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
