"""The store: a transaction of LMDB for each hook, and its owners."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs

from aether_bg import hookimpl
from aether_bg.errors import ForkedProcess, NotStarted
from aether_bg.model import Alive, Heartbeat, Stats
from aether_bg.owners import OwnerFolder
from aether_bg.rows import RowStore

from .environment import Environment
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
        self._environment: Environment | None = None
        self._seen = 0

    def __repr__(self) -> str:
        return f"LMDBStore({str(self._path)!r})"

    def open(self) -> None:
        self._environment = Environment.enter(self._path, self._map_size)
        self._owners.open()

    def close(self) -> None:
        environment, self._environment = self._opened(), None
        self._owners.close()
        environment.leave(self._busy)

    async def read(self, work: Callable[[LMDBRows], T]) -> T:
        environment = self._opened()
        return await self.in_thread(
            lambda: environment.read(lambda txn: work(LMDBRows(txn, environment, self._owners)))
        )

    async def write(self, work: Callable[[LMDBRows], T]) -> T:
        environment = self._opened()
        return await environment.write(lambda txn: work(LMDBRows(txn, environment, self._owners)), self._busy)

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self.read(lambda rows: rows.stats())

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self.read(lambda rows: self._answer(rows, beat))

    def _answer(self, rows: LMDBRows, beat: Heartbeat) -> Alive:
        alive = self._owners.answer(beat, self._opened().store_id, rows.running_or_due())
        return attrs.evolve(alive, size=self._opened().size()) if beat.join else alive

    def _opened(self) -> Environment:
        if self._environment is None:
            raise NotStarted(repr(self), "it is not open", "Use it inside `async with app` or `app.client()`.")
        if self._environment.pid != os.getpid():
            raise ForkedProcess(repr(self), "this process was forked after it was opened", "Start after forking.")
        return self._environment

    def _look(self) -> None:
        """Every tenth of a second: whether a process has written."""
        if self._environment is not None and (newest := self._environment.last_commit()) != self._seen:
            self._seen = newest
            self.wake()
