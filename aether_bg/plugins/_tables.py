"""Dicts that change together or not at all: the engine of the stores that keep their rows in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Table(dict[K, V], Generic[K, V]):
    """A dict that can take back what was done to it by `table[key] = value` and `discard`."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[K, V | None] = {}
        """What the open transaction has changed, as it was; None: it was not there."""

    def __setitem__(self, key: K, value: V) -> None:
        self.before.setdefault(key, self.get(key))
        super().__setitem__(key, value)

    def discard(self, key: K) -> None:
        if key in self:
            self.before.setdefault(key, self[key])
            del self[key]

    def undo(self) -> None:
        for key, value in self.before.items():
            self.pop(key, None)
            if value is not None:
                super().__setitem__(key, value)


class Tables:
    """Its tables are attributes."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        tables = [table for table in vars(self).values() if isinstance(table, Table)]
        try:
            yield
        except BaseException:
            for table in tables:
                table.undo()
            raise
        finally:
            for table in tables:
                table.before.clear()
