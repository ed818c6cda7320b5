"""One thread owns the write connection; operations of the same moment share a commit (docs/protocol.md, W1 to W3)."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

from aether_bg.errors import StoreError, UnitOfWorkTimeout
from aether_bg.plugins.sqlite import files
from aether_bg.plugins.sqlite.checkpoints import LARGEST, Checkpoints
from aether_bg.plugins.sqlite.guard import Guard
from aether_bg.plugins.sqlite.hold import Hold
from aether_bg.plugins.sqlite.inbox import TICK, Inbox
from aether_bg.plugins.sqlite.locks import WriteLock
from aether_bg.plugins.sqlite.operations import OWN, SELDOM, Beat, Operation, Rank
from aether_bg.plugins.sqlite.watch import Watch

log = logging.getLogger("aether_bg.sqlite")

MOST_OPERATIONS: Final = 500
LONGEST_BATCH: Final = 0.020


class Writer:
    """The thread and its queue. `deliver` is called with finished operations, on the writer's thread."""

    def __init__(
        self,
        path: Path,
        lock: WriteLock,
        hold: Hold,
        *,
        trusted: bool,
        deliver: Callable[[list[Operation]], object],
        changed: Callable[[], object],
    ) -> None:
        self._path, self._lock, self._hold = path, lock, hold
        self._deliver, self._changed = deliver, changed
        self._left: list[Operation] = []
        self._conn, self.guard = self._connect()
        self._conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # which opens the WAL
        self.identities = files.Identities(path)
        self._version = self._pragma("data_version")
        self.checkpoints = Checkpoints(path, lock)
        self._next_look = 0.0
        self._inbox = Inbox(Watch(f"{path}-wal", trusted=trusted))
        self.current: Operation | None = None
        self._denied: int | None = None
        """The version of the schema whose trigger would have changed our tables."""
        self.beats: dict[UUID, Beat] = {}
        """Of the owners in this process."""
        self.thread = threading.Thread(target=self._main, name=f"aether_bg writer {path.name}", daemon=True)
        self.thread.start()

    @property
    def stuck(self) -> Operation | None:
        """The operation that has run for longer than it may: nothing else can be written until it ends."""
        current = self.current
        return current if current is not None and current.stuck else None

    # -- from other threads ----------------------------------------------------------------------

    def submit(self, operation: Operation) -> None:
        self._inbox.put(operation)

    def keep(self, owner: UUID, beat: Beat) -> None:
        """Keep the beat of this owner from now on."""
        self.beats[owner] = beat
        self._inbox.watch.wake()

    def stop(self) -> None:
        """Takes no more operations; the thread ends after those it has. Join it before closing the lock."""
        self._inbox.put(None)

    def forked(self) -> None:
        """In the child."""
        self._inbox.watch.forked()

    # -- the thread ------------------------------------------------------------------------------

    def _main(self) -> None:
        going = True
        while going or self._left:
            batch, going = self._gather(going)
            try:
                batch[:0] = self._beats_due()
                if batch:
                    self._finish(self._commit(batch))
                self._look()
            except BaseException as error:  # the thread outlives every surprise; its operations fail
                log.exception("writer of %s", self._path)
                self._finish([self._fail(op, self._ours(error)) for op in batch if not op.done])
        self._close()

    def _gather(self, going: bool) -> tuple[list[Operation], bool]:
        """The operations that wait now; waits a tick for the first one."""
        found: list[Operation | None] = list(self._left)
        self._left = []
        try:
            if not found and going:
                found.append(self._inbox.first(self._rest(), self._conn.total_changes, self._others_wrote))
            while len(found) < MOST_OPERATIONS:
                found.append(self._inbox.next())
        except queue.Empty:
            if not found:
                self._next_look = 0.0
        batch = [op for op in found if op is not None]
        batch.sort(key=lambda op: op.rank)
        return batch, going and None not in found

    def _rest(self) -> float:
        """Seconds for which nothing needs to be done, if nothing comes: none while the WAL holds more than beats."""
        if self.checkpoints.pending:
            return 0.0
        return min((beat.rest() for beat in list(self.beats.values())), default=SELDOM)

    def _others_wrote(self) -> bool:
        try:
            return self._pragma("data_version") != self._version
        except sqlite3.Error:
            return True  # the look says what is wrong

    def _commit(self, batch: list[Operation]) -> list[Operation]:
        """Runs one transaction; returns the operations that are finished. The rest of a long batch is left for the next
        one."""
        if not self.identities.kept:
            return [self._fail(op, files.gone(self._path)) for op in batch if op.take()]
        ran: list[Operation] = []
        with self._lock:
            if failed := self._begin(batch):
                return failed
            shared = len(batch) > 1
            started = time.monotonic()
            for index, op in enumerate(batch):
                if ran and time.monotonic() - started > LONGEST_BATCH:
                    self._left = batch[index:]
                    break
                if not op.take():
                    continue
                ran.append(op)
                self._run(op, savepoint=shared)
                if not self._conn.in_transaction:
                    self._left = batch[index + 1 :]
                    return self._broken(ran)
            return self._end(ran)

    def _begin(self, batch: list[Operation]) -> list[Operation]:
        """BEGIN IMMEDIATE, waiting for other programs until the last deadline; otherwise returns the operations that
        failed."""
        while True:
            try:
                self._conn.execute("BEGIN IMMEDIATE")
                if self._denied is not None:  # only a statement that runs reads a changed schema
                    self._conn.execute("SELECT 1 FROM main.aether_meta").fetchall()
                    self._denied = self._denied if self._denied == self._pragma("schema_version") else None
                return []
            except sqlite3.Error as error:
                if not files.is_busy(error):
                    self._reopen()
                    return [self._fail(op, files.translate(error, self._path)) for op in batch if op.take()]
            now = time.monotonic()
            if all(op.deadline <= now for op in batch):
                return [self._fail(op, files.busy(self._path)) for op in batch if op.take()]

    def _run(self, op: Operation, *, savepoint: bool) -> None:
        if savepoint:
            self._conn.execute("SAVEPOINT one")
        op.started, self.current = time.monotonic(), op
        self.guard.begin(op)
        try:
            op.result = op.run(self._conn)
        except BaseException as error:  # the user's code runs here; whatever it raises is the operation's
            op.error = error
        late, self.current = self.guard.out_of_time, None
        self.guard.end(op)
        if op.limit is None and late and op.error is not None:
            op.error = files.slow(self._path, OWN)
        if op.abandoned or (op.limit is not None and late and not isinstance(op.error, UnitOfWorkTimeout)):
            op.error = too_long(op)
        if not self._conn.in_transaction:
            return
        if op.error is not None:
            if getattr(op.error, "sqlite_errorcode", 0) == sqlite3.SQLITE_AUTH:
                self._denied = self._pragma("schema_version")
            self._conn.execute("ROLLBACK TO one" if savepoint else "ROLLBACK")
            if not savepoint:
                self._conn.execute("BEGIN IMMEDIATE")
        if savepoint:
            self._conn.execute("RELEASE one")

    def _end(self, ran: list[Operation]) -> list[Operation]:
        if not all(op.seal() or op.error is not None for op in ran):  # given up while another one kept it waiting
            self._conn.execute("ROLLBACK")
            return self._each_alone(ran)
        try:
            self._conn.execute("COMMIT")
        except sqlite3.IntegrityError as error:  # a deferred constraint of the user's tables: one of them breaks it
            self._conn.execute("ROLLBACK")
            if len(ran) == 1:
                return [self._fail(ran[0], ran[0].error or error)]
            return self._each_alone(ran)
        except sqlite3.Error as error:
            return self._undone(ran, error)
        if not self.identities.kept:  # committed, but to what cannot be found by its name any more
            return [self._fail(op, files.gone(self._path)) for op in ran]
        self.checkpoints.committed(self._conn, beats_only=all(op.rank is Rank.BEAT for op in ran))
        return [self._settle(op) for op in ran]

    def _broken(self, ran: list[Operation]) -> list[Operation]:
        """The whole transaction was rolled back with one operation (W1): what ran before it has not happened."""
        *before, culprit = ran
        if culprit.error is None:
            culprit.error = _rolled_back()
        if files.lost_transaction(culprit.error):
            return self._undone(ran, culprit.error)
        return [self._settle(culprit), *self._each_alone(before)]

    def _each_alone(self, ops: list[Operation]) -> list[Operation]:
        done: list[Operation] = []
        for op in ops:
            op.result = op.error = None
            if op.abandoned:
                done.append(self._fail(op, too_long(op)))
                continue
            op.again()
            try:
                self._conn.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                done.append(self._fail(op, files.translate(error, self._path)))
                continue
            self._run(op, savepoint=False)
            if self._conn.in_transaction:
                done += self._end([op])
            else:
                done.append(self._fail(op, op.error or _rolled_back()))
        return done

    def _undone(self, ran: list[Operation], error: BaseException) -> list[Operation]:
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")
        self._reopen()
        return [self._fail(op, error) for op in ran]

    # -- outcomes of operations ------------------------------------------------------------------

    def _settle(self, op: Operation) -> Operation:
        return op if op.error is None else self._fail(op, op.error)

    def _fail(self, op: Operation, error: BaseException) -> Operation:
        """Trouble of the store becomes a `StoreError`; an error in the user's SQL stays what it is (W8)."""
        trouble = files.lost_transaction(error) or files.is_busy(error) or files.is_read_only(error)
        op.result, op.error = None, error if op.theirs and not trouble else self._ours(error)
        return op

    def _ours(self, error: BaseException) -> BaseException:
        return files.translate(error, self._path) if isinstance(error, sqlite3.Error | OSError) else error

    def _finish(self, ops: list[Operation]) -> None:
        for op in ops:
            op.done = True
        if ops:
            self._deliver(ops)

    # -- between batches -------------------------------------------------------------------------

    def _beats_due(self) -> list[Operation]:
        return [due for beat in list(self.beats.values()) if (due := beat.due())]

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + TICK
        if not self.identities.kept:
            if self.checkpoints.pending and self.identities.wal_is_away:
                self.checkpoints.make(
                    self._conn, "PASSIVE"
                )  # what was acknowledged is then in the database, without its WAL
            return
        version = self._pragma("data_version")
        if others := version != self._version:
            self._version = version
            self._inbox.stir()
            self._changed()
        if self.checkpoints.due(self._conn, others=others):
            self.checkpoints.make(self._conn, "PASSIVE")

    def _pragma(self, name: str) -> int:
        value: int = self._conn.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    # -- the connection --------------------------------------------------------------------------

    def _connect(self) -> tuple[sqlite3.Connection, Guard]:
        conn = files.connect(self._path)
        conn.execute(f"PRAGMA journal_size_limit = {LARGEST}")
        conn.execute("PRAGMA temp_store = MEMORY")  # else each savepoint opens, fills and unlinks a file of its own
        return conn, Guard(conn)

    def _reopen(self) -> None:
        """After an I/O error, trust nothing that the connection holds (W2)."""
        if not self.identities.kept:
            return
        try:
            fresh, guard = self._connect()
        except sqlite3.Error as error:
            log.warning("reopening %s: %s", self._path, error)
            return
        self._conn.close()
        self._conn, self.guard = fresh, guard
        self._version = -1
        self.checkpoints.reopened()

    def _close(self) -> None:
        """SQLite removes the WAL by its name when the last connection is closed: not while it may be another one."""
        if sound := self.identities.kept or self.identities.wal_is_away:
            self.checkpoints.make(self._conn, "TRUNCATE")
        with self._lock:
            if sound:
                self._hold.release()
            self._conn.close()
        self._hold.release()
        self._inbox.watch.close()


def too_long(op: Operation) -> UnitOfWorkTimeout:
    return UnitOfWorkTimeout(
        f"unit of work ({op.name()})", f"must end within {op.limit or OWN:g} s, since it holds the database for all",
        "Wait and compute outside of it. SQLiteStore(unit_timeout=…) allows more.",
    )  # fmt: skip


def _rolled_back() -> StoreError:
    return StoreError(
        "a unit of work", "its SQL rolled the whole transaction back", "Avoid OR ROLLBACK and RAISE(ROLLBACK)."
    )
