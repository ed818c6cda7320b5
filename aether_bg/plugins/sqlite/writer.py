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

from aether_bg.plugins.sqlite.hold import Hold
from aether_bg.plugins.sqlite.inbox import TICK, Inbox
from aether_bg.plugins.sqlite.locks import WriteLock
from aether_bg.plugins.sqlite.operations import SELDOM, Beat, Operation
from aether_bg.plugins.sqlite.transactions import Transactions
from aether_bg.plugins.sqlite.watch import Watch

log = logging.getLogger("aether_bg.sqlite")

MOST_OPERATIONS: Final = 500


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
        self.transactions = Transactions(path, lock)
        self._next_look = 0.0
        self._inbox = Inbox(Watch(f"{path}-wal", trusted=trusted))
        self.beats: dict[UUID, Beat] = {}
        """Of the owners in this process."""
        self.thread = threading.Thread(target=self._main, name=f"aether_bg writer {path.name}", daemon=True)
        self.thread.start()

    @property
    def stuck(self) -> Operation | None:
        """The operation that has run for longer than it may: nothing else can be written until it ends."""
        current = self.transactions.current
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
        going, transactions = True, self.transactions
        while going or transactions.left:
            batch, going = self._gather(going)
            try:
                batch[:0] = self._beats_due()
                if batch:
                    self._deliver(transactions.commit(batch))
                self._look()
            except BaseException as error:  # the thread outlives every surprise
                log.exception("writer of %s", self._path)
                self._deliver([transactions.fail(op, error) for op in batch if not op.done])
        self._close()

    def _gather(self, going: bool) -> tuple[list[Operation], bool]:
        """The operations that wait now; waits a tick for the first one."""
        transactions = self.transactions
        found: list[Operation | None] = [*transactions.left]
        transactions.left = []
        try:
            if not found and going:
                found.append(self._inbox.first(self._rest(), transactions.conn.total_changes, self._others_wrote))
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
        if self.transactions.checkpoints.pending:
            return 0.0
        return min((beat.rest() for beat in list(self.beats.values())), default=SELDOM)

    def _others_wrote(self) -> bool:
        try:
            return self.transactions.others_wrote()
        except sqlite3.Error:
            return True  # the look says what is wrong

    # -- between batches -------------------------------------------------------------------------

    def _beats_due(self) -> list[Operation]:
        return [due for beat in list(self.beats.values()) if (due := beat.due())]

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + TICK
        transactions, checkpoints = self.transactions, self.transactions.checkpoints
        if not transactions.identities.kept:
            if checkpoints.pending and transactions.identities.wal_is_away:
                # what was acknowledged is then in the database, without its WAL
                checkpoints.make(transactions.conn, "PASSIVE")
            return
        if others := transactions.others_wrote():
            transactions.catch_up()
            self._inbox.stir()
            self._changed()
        if checkpoints.due(transactions.conn, others=others):
            checkpoints.make(transactions.conn, "PASSIVE")

    def _close(self) -> None:
        """SQLite removes the WAL by its name when the last connection is closed: not while it may be another one."""
        transactions, identities = self.transactions, self.transactions.identities
        if sound := identities.kept or identities.wal_is_away:
            transactions.checkpoints.make(transactions.conn, "TRUNCATE")
        with self._lock:
            if sound:
                self._hold.release()
            transactions.conn.close()
        self._hold.release()
        self._inbox.watch.close()
