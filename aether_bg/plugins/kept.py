"""A durable store for one process: rows in memory, and each transaction saved in a place of yours, as texts under keys.

    Aether(KeptStore(MyPlace("jobs")))

A place needs three methods (`Place`): a file, a key-value engine, a bucket. hookspecs.md has one of 40 lines. Memory
holds all jobs, and a claim looks at each that has not ended: good for some ten thousand of these.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from uuid import UUID

from aether_bg.errors import NotADatabase, StoreError
from aether_bg.model import Hold, JobInfo, JobRun, Owner
from aether_bg.plugins.memory import MemoryRows, MemoryStore
from aether_bg.rows import disk_trouble, pack, unpack

__all__ = ["KeptStore", "Place", "TextRows"]

T = TypeVar("T")
Changes: TypeAlias = Mapping[str, str | None]

_ID: Final = "id"
_KINDS: Final[Mapping[str, Any]] = {
    "by_id": JobInfo, "runs_of": JobRun, "holds": Hold, "links_of": tuple[UUID, ...],
    "waiting": tuple[UUID, ...], "owners": Owner,
}  # fmt: skip
"""The tables that are saved, and what each text of them is; the others follow from these."""
_REMEDY: Final = "Name a place of a KeptStore, or one that is empty."
_TICK: Final = 0.1
"""Seconds between two times at which each owner is asked whether its process stops."""


class Place(Protocol):
    """Where the rows survive. The methods are called in threads, one at a time, and may block."""

    def open(self) -> Mapping[str, str]:
        """Everything that was saved. Called before the first app starts. Raises a `StoreError`, such as `StoreBusy`
        when another process has opened it: two would overwrite each other's rows. An `OSError` or `ValueError`, of a
        place that cannot be read, becomes one. If it raises, `close` is not called."""
        ...

    def save(self, changes: Changes) -> None:
        """Keeps these texts under their keys, and deletes those with None: all of them or none, and on the disk when
        this returns. If it raises, nothing is saved: a `StoreTrouble`, or an `OSError`, which becomes one."""
        ...

    def close(self) -> None:
        """After the last app."""
        ...


class TextRows(MemoryRows):
    """Rows in memory that can be kept as texts under keys."""

    def changes(self) -> Changes:
        """What the open transaction has changed."""
        changes: dict[str, str | None] = {}
        for name, kind in _KINDS.items():
            table = getattr(self, name)
            for key, before in table.before.items():
                if kind is JobRun:
                    changes |= _changed(f"{name}/{key}", before or {}, table.get(key) or {})
                else:
                    changes[f"{name}/{key}"] = None if (value := table.get(key)) is None else pack(value)
        return changes

    def load(self, key: str, text: str | None) -> None:
        """Takes in one of these changes."""
        name, _, rest = key.partition("/")
        kind = _KINDS[name]
        value = None if text is None else unpack(text, kind)
        match value:
            case JobInfo():
                self.put_job(value)
            case JobRun():
                self.put_run(value)
            case None if kind is JobInfo:
                if job := self.job(UUID(rest)):
                    self.delete_job(job)
            case None if kind is JobRun:
                id_, token, gap = rest.split("/")
                if run := self.runs_of.get(UUID(id_), {}).get((int(token), int(gap))):
                    self.delete_run(run)
            case None:
                getattr(self, name).discard(rest if kind is Hold else UUID(rest))
            case _:
                getattr(self, name)[rest if kind is Hold else UUID(rest)] = value


def _changed(key: str, before: Mapping[Any, JobRun], after: Mapping[Any, JobRun]) -> Changes:
    """The history of one job: the rows that are new or gone."""
    tokens = {token for token in before.keys() | after.keys() if before.get(token) is not after.get(token)}
    return {f"{key}/{token}/{gap}": pack(after[token, gap]) if (token, gap) in after else None for token, gap in tokens}


class KeptStore(MemoryStore):
    """Keeps its rows in `place`. One process at a time; one object may serve several apps of it, on any threads."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._rows: TextRows = TextRows()
        self._place = place

    def __repr__(self) -> str:
        return f"KeptStore({self._place!r})"

    def open(self, stack: ExitStack) -> None:
        super().open(stack)
        saved, closing = self._read_place(), threading.Event()
        stack.callback(self._close)
        self._rows = self._loaded(saved)
        if _ID not in saved:
            self._save({_ID: str(self._id)})
        threading.Thread(target=self._ask, args=(closing,), name="KeptStore", daemon=True).start()
        stack.callback(closing.set)

    def _read_place(self) -> Mapping[str, str]:
        try:
            return self._place.open()
        except OSError as error:
            raise disk_trouble(repr(self._place), error) from error
        except ValueError as error:
            raise NotADatabase(repr(self._place), f"it cannot be read: {error}", _REMEDY) from error

    def _close(self) -> None:
        with self._lock:
            self._place.close()

    # -- a save waits for the disk, so everything that needs the lock is done in a thread ------------

    async def read(self, work: Callable[[TextRows], T]) -> T:
        self.check_open()
        return await self.in_thread(lambda: self._read(work))

    async def write(self, work: Callable[[TextRows], T]) -> T:
        self.check_open()
        return await self.in_thread(lambda: self._read(partial(self._transaction, work)))

    def _read(self, work: Callable[[TextRows], T]) -> T:
        with self._lock:
            return work(self._rows)

    def _transaction(self, work: Callable[[TextRows], T], rows: TextRows) -> T:
        with rows.transaction():
            result = work(rows)
            if changes := rows.changes():
                self._save(changes)
            return result

    def _save(self, changes: Changes) -> None:
        try:
            self._place.save(changes)
        except OSError as error:
            raise disk_trouble(repr(self._place), error) from error

    def _loaded(self, saved: Mapping[str, str]) -> TextRows:
        rows = TextRows()
        with rows.transaction():
            for key, text in saved.items():
                try:
                    if key == _ID:
                        self._id = UUID(text)
                    else:
                        rows.load(key, text)
                except Exception as error:
                    rule = f"it has {key!r}, which cannot be read: {error}"
                    raise NotADatabase(repr(self._place), rule, _REMEDY) from error
        return rows

    def _ask(self, closing: threading.Event) -> None:
        """A handler may block the event loop until the process ends: the mark of a stop is saved before that."""
        while not closing.wait(_TICK):
            with self._lock, contextlib.suppress(StoreError):  # the next heartbeat meets it too, and reports it
                if not closing.is_set():
                    self._transaction(self._mark_stopping, self._rows)
