"""The store: a transaction of LMDB for each hook, and its owners."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import attrs

from aether_bg import hookimpl
from aether_bg.model import Alive, Heartbeat, Stats
from aether_bg.owners import OwnerFolder
from aether_bg.rows import RowStore

from .environment import Environment, Transaction
from .rows import LMDBRows

T = TypeVar("T")


class LMDBStore(RowStore[LMDBRows]):
    """Jobs in an LMDB environment: a folder on a local disk, created if it does not exist."""

    def __init__(self, path: str | os.PathLike[str], *, map_size: int = 16 << 30, busy: float = 30) -> None:
        """`map_size`: the most bytes it can grow to; the file has holes, so it takes only what it needs.

        `busy`: seconds to wait for another process that holds the one lock of writers, then `StoreBusy`.
        """
        super().__init__()
        self._path, self._map_size, self._busy = Path(path), map_size, busy
        self._owners = OwnerFolder(self._path / "owners", self._look)
        self._environment: Environment
        self._seen = 0

    def __repr__(self) -> str:
        return f"LMDBStore({str(self._path)!r})"

    def open(self, stack: ExitStack) -> None:
        self._environment = Environment.enter(self._path, self._map_size)
        stack.callback(self._environment.leave, self._busy)
        self._owners.open()
        stack.callback(self._owners.close)

    async def read(self, work: Callable[[LMDBRows], T]) -> T:
        self.check_open()
        environment, rows = self._environment, self._rows(work)
        return await self.in_thread(lambda: environment.read(rows))

    async def write(self, work: Callable[[LMDBRows], T]) -> T:
        self.check_open()
        return await self._environment.write(self._rows(work), self._busy)

    def _rows(self, work: Callable[[LMDBRows], T]) -> Callable[[Transaction], T]:
        environment = self._environment
        return lambda txn: work(LMDBRows(txn, environment, self._owners))

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self.read(lambda rows: rows.stats())

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self.read(lambda rows: self._answer(rows, beat))

    def _answer(self, rows: LMDBRows, beat: Heartbeat) -> Alive:
        alive = self._owners.answer(beat, self._environment.store_id, rows.running_or_due())
        return attrs.evolve(alive, size=self._environment.size()) if beat.join else alive

    def _look(self) -> None:
        """Every tenth of a second: whether a process has written."""
        if (newest := self._environment.last_commit()) != self._seen:
            self._seen = newest
            self.wake()
