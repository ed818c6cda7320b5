"""When the WAL is moved into the database: once much has been written, or nothing for a while."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from aether_bg.plugins.sqlite.locks import WriteLock

log = logging.getLogger("aether_bg.sqlite")

PLENTY: Final = 1000
"""Roughly the pages of WAL that lead to a checkpoint. SQLite then starts the WAL again from its beginning, and an
overwritten file syncs in two thirds of the time of one that has grown (measured)."""
LARGEST: Final = 16 * 1024 * 1024
"""Bytes of WAL to keep after it had to grow. A larger WAL is checkpointed, whichever process wrote it."""
IDLE: Final = 1.0
"""Seconds without a write after which the WAL is moved into the database, so that a copy of the file is seldom old."""


class Checkpoints:
    """For the writer's connection, which is passed in each time, and in its thread only."""

    def __init__(self, path: Path, lock: WriteLock) -> None:
        self._path, self._lock = path, lock
        self._commits = self._changes = self._total = 0
        """Commits since the last checkpoint; changes of the connection before it, and before this commit."""
        self._idle_from: float | None = None
        """When the WAL has held more than beats for long enough to checkpoint it; None: it holds nothing more."""

    @property
    def pending(self) -> bool:
        """The WAL holds more than beats."""
        return self._idle_from is not None

    def reopened(self) -> None:
        """Another connection counts its changes from now on."""
        self._changes = self._total = 0

    def committed(self, conn: sqlite3.Connection, *, beats_only: bool) -> None:
        self._commits += 1
        changed, self._total = conn.total_changes != self._total, conn.total_changes
        if changed and not beats_only:  # a claim that finds nothing writes nothing
            self._idle_from = time.monotonic() + IDLE

    def due(self, conn: sqlite3.Connection, *, others: bool) -> bool:
        """`others`: another process has written since the last look."""
        # a commit touches the table and its indexes; rows beyond the first mostly share their pages
        ours = 4 * self._commits + conn.total_changes - self._changes
        idle = self._idle_from is not None and time.monotonic() > self._idle_from
        return idle or ours > PLENTY or ((others or self._commits > 0) and self.wal_size() > LARGEST)

    def wal_size(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except OSError:
            return 0

    def make(self, conn: sqlite3.Connection, mode: str) -> None:
        """Under the write lock: SQLite before 3.51.3 can damage a WAL when a writer and a checkpoint race (P5)."""
        try:
            with self._lock:
                busy, pages, moved = conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            if not busy and moved == pages:  # else a reader still needs some of them
                self._commits, self._changes, self._idle_from = 0, conn.total_changes, None
            elif self._idle_from is not None:
                self._idle_from = time.monotonic() + IDLE
        except sqlite3.Error as error:
            log.warning("checkpoint of %s: %s", self._path, error)
