"""The connection that writes: operations share a transaction, each has its own outcome (docs/protocol.md, W1 to W8)."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from pathlib import Path
from typing import Final

from aether_bg.errors import StoreError, UnitOfWorkTimeout
from aether_bg.plugins.sqlite import files
from aether_bg.plugins.sqlite.checkpoints import LARGEST, Checkpoints
from aether_bg.plugins.sqlite.guard import Guard
from aether_bg.plugins.sqlite.locks import WriteLock
from aether_bg.plugins.sqlite.operations import OWN, Operation, Rank

log = logging.getLogger("aether_bg.sqlite")

LONGEST_BATCH: Final = 0.020


class Transactions:
    """In the thread of the writer only. Other threads may read `current`, `guard`, `identities` and the WAL's size."""

    def __init__(self, path: Path, lock: WriteLock) -> None:
        self._path, self._lock = path, lock
        self.conn, self.guard = self._connect()
        self.conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # which opens the WAL
        self.identities = files.Identities(path)
        self.checkpoints = Checkpoints(path, lock)
        self.current: Operation | None = None
        self.left: list[Operation] = []
        """Of the last batch: not begun, for the next transaction."""
        self._version = self._pragma("data_version")
        self._denied: int | None = None
        """The version of the schema whose trigger would have changed our tables."""

    def commit(self, batch: list[Operation]) -> list[Operation]:
        """Runs one transaction; returns the operations that are finished. The rest of a long batch is left for the next
        one. After an error that was not foreseen nothing is left: each operation is committed or has failed."""
        try:
            return self._commit(batch)
        except BaseException as error:
            log.exception("a transaction of %s", self._path)
            self.left = []
            return self._undone(batch, self._ours(error))

    def _commit(self, batch: list[Operation]) -> list[Operation]:
        if not self.identities.kept:
            return [self.fail(op, files.gone(self._path)) for op in batch if op.take()]
        ran: list[Operation] = []
        with self._lock:
            if failed := self._begin(batch):
                return failed
            shared = len(batch) > 1
            started = time.monotonic()
            for index, op in enumerate(batch):
                if ran and time.monotonic() - started > LONGEST_BATCH:
                    self.left = batch[index:]
                    break
                if not op.take():
                    continue
                ran.append(op)
                self._run(op, savepoint=shared)
                if not self.conn.in_transaction:
                    self.left = batch[index + 1 :]
                    return self._broken(ran)
            return self._end(ran)

    def _begin(self, batch: list[Operation]) -> list[Operation]:
        """BEGIN IMMEDIATE, waiting for other programs until the last deadline; otherwise returns the operations that
        failed."""
        while True:
            try:
                self.conn.execute("BEGIN IMMEDIATE")
                if self._denied is not None:  # only a statement that runs reads a changed schema
                    self.conn.execute("SELECT 1 FROM main.aether_meta").fetchall()
                    self._denied = self._denied if self._denied == self._pragma("schema_version") else None
                return []
            except sqlite3.Error as error:
                if not files.is_busy(error):
                    self._reopen()
                    return [self.fail(op, files.translate(error, self._path)) for op in batch if op.take()]
            now = time.monotonic()
            if all(op.deadline <= now for op in batch):
                return [self.fail(op, files.busy(self._path)) for op in batch if op.take()]

    def _run(self, op: Operation, *, savepoint: bool) -> None:
        if savepoint:
            self.conn.execute("SAVEPOINT one")
        op.started, self.current = time.monotonic(), op
        self.guard.begin(op)
        try:
            op.result = op.run(self.conn)
        except BaseException as error:  # the user's code runs here; whatever it raises is the operation's
            op.error = error
        late, self.current = self.guard.out_of_time, None
        self.guard.end(op)
        if op.limit is None and late and op.error is not None:
            op.error = files.slow(self._path, OWN)
        if op.abandoned or (op.limit is not None and late and not isinstance(op.error, UnitOfWorkTimeout)):
            op.error = too_long(op)
        if not self.conn.in_transaction:
            return
        if op.error is not None:
            if getattr(op.error, "sqlite_errorcode", 0) == sqlite3.SQLITE_AUTH:
                self._denied = self._pragma("schema_version")
            self.conn.execute("ROLLBACK TO one" if savepoint else "ROLLBACK")
        if savepoint:
            self.conn.execute("RELEASE one")

    def _end(self, ran: list[Operation]) -> list[Operation]:
        if not all(op.seal() or op.error is not None for op in ran):  # given up while another one kept it waiting
            self.conn.execute("ROLLBACK")
            return self._each_alone(ran)
        try:
            self.conn.execute("COMMIT")
        except sqlite3.IntegrityError as error:  # a deferred constraint of the user's tables: one of them breaks it
            self.conn.execute("ROLLBACK")
            if len(ran) == 1:
                return [self.fail(ran[0], ran[0].error or error)]
            return self._each_alone(ran)
        except sqlite3.Error as error:
            return self._undone(ran, error)
        if not self.identities.kept:  # committed, but to what cannot be found by its name any more
            return [self.fail(op, files.gone(self._path)) for op in ran]
        self.checkpoints.committed(self.conn, beats_only=all(op.rank is Rank.BEAT for op in ran))
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
                done.append(self.fail(op, too_long(op)))
                continue
            op.again()
            try:
                self.conn.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                done.append(self.fail(op, files.translate(error, self._path)))
                continue
            self._run(op, savepoint=False)
            done += self._end([op]) if self.conn.in_transaction else self._broken([op])
        return done

    def _undone(self, ops: list[Operation], error: BaseException) -> list[Operation]:
        with contextlib.suppress(sqlite3.Error):
            self.conn.rollback()
        self._reopen()
        return [op if op.done else self.fail(op, error) for op in ops]

    # -- outcomes of operations ------------------------------------------------------------------

    def _settle(self, op: Operation) -> Operation:
        op.done = True
        return op if op.error is None else self.fail(op, op.error)

    def fail(self, op: Operation, error: BaseException) -> Operation:
        """Trouble of the store becomes a `StoreError`; an error in the user's SQL stays what it is (W8)."""
        op.done = True
        trouble = files.lost_transaction(error) or files.is_busy(error) or files.is_read_only(error)
        op.result, op.error = None, error if op.theirs and not trouble else self._ours(error)
        return op

    def _ours(self, error: BaseException) -> BaseException:
        return files.translate(error, self._path) if isinstance(error, sqlite3.Error | OSError) else error

    # -- the connection --------------------------------------------------------------------------

    def others_wrote(self) -> bool:
        """Since this connection was opened or `catch_up` was called."""
        return self._pragma("data_version") != self._version

    def catch_up(self) -> None:
        self._version = self._pragma("data_version")

    def _pragma(self, name: str) -> int:
        value: int = self.conn.execute(f"PRAGMA {name}").fetchone()[0]
        return value

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
        self.conn.close()
        self.conn, self.guard = fresh, guard
        self._version = -1
        self.checkpoints.reopened()


def too_long(op: Operation) -> UnitOfWorkTimeout:
    return UnitOfWorkTimeout(
        f"unit of work ({op.name()})", f"must end within {op.limit or OWN:g} s, since it holds the database for all",
        "Wait and compute outside of it. SQLiteStore(unit_timeout=…) allows more.",
    )  # fmt: skip


def _rolled_back() -> StoreError:
    return StoreError(
        "a unit of work", "its SQL rolled the whole transaction back", "Avoid OR ROLLBACK and RAISE(ROLLBACK)."
    )
