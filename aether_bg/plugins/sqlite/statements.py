"""Statements for many rows of one kind.

Each statement is one hand-over of the interpreter lock, and with a busy event loop a hand-over costs more than the
row. What is the same in all rows, most columns of most batches, is bound once.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

from aether_bg.plugins.sqlite.columns import literal

MOST_ROWS: Final = 128
"""Per statement. Lists are filled up to a power of two with rows of NULL, which match nothing, so that few statements
are ever compiled."""
_NAMED: Final = re.compile(r"{(\w+)}")


class Statement:
    """`head` and `tail` name `columns` in braces; where there is more than one row, a list of VALUES stands between.

    The columns of `tail` are always in the list. `single`: what one row runs instead, with all its columns in order.
    """

    def __init__(self, columns: tuple[str, ...], head: str, tail: str, single: str = "") -> None:
        self._columns, self._head, self._tail = columns, head, tail
        self._in_head, self._in_tail = ([columns.index(name) for name in _NAMED.findall(part)] for part in (head, tail))
        self._single = single or _NAMED.sub("?", head + tail)
        self._bound = range(len(columns)) if single else (*self._in_head, *self._in_tail)
        self._text = cache(self._many)

    def run(self, conn: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """How many rows it has written."""
        return sum(self.each(conn, rows))

    def each(self, conn: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> Iterator[int]:
        """The same, statement by statement."""
        if len(rows) < 2:
            for row in rows:
                yield conn.execute(self._single, [row[index] for index in self._bound]).rowcount
            return
        listed, once = {index: index for index in self._in_tail}, list[Any]()
        columns = list(zip(*rows, strict=True))
        for index in self._in_head:
            column = columns[index]
            if index in listed:
                continue
            if column.count(column[0]) == len(rows):
                once.append(column[0])
            else:  # as its own, or as an earlier one that has the same values
                listed[index] = next((one for one in listed if columns[one] == column), index)
        own = [index for index, place in listed.items() if index == place]
        flat = list(chain.from_iterable(zip(*(columns[index] for index in own), strict=True)))
        width, places = len(own), tuple(listed.items())
        for start in range(0, len(rows), MOST_ROWS):
            some = flat[start * width : (start + MOST_ROWS) * width]
            size = 1 << (len(some) // width - 1).bit_length()
            some += [None] * (size * width - len(some))
            yield conn.execute(self._text(places, size), once + some).rowcount

    def _many(self, listed: tuple[tuple[int, int], ...], size: int) -> str:
        own = [index for index, place in listed if index == place]
        place = dict.fromkeys(self._columns, "?")
        place |= {self._columns[index]: f"v.column{own.index(place) + 1}" for index, place in listed}
        row = f"({', '.join('?' * len(own))})"
        values = f" FROM (VALUES {', '.join([row] * size)}) AS v"
        return f"{self._head.format_map(place)}{values}{self._tail.format_map(place)}"


def insert(
    table: str, columns: tuple[str, ...], conflict: str = "", others: Mapping[str, Any] | None = None
) -> Statement:
    """The first column is not NULL in any row. `others`: columns that have this stored value in each row."""
    fixed = {name: literal(value) for name, value in (others or {}).items() if name not in columns}
    into = f"INSERT INTO main.{table} ({', '.join((*columns, *fixed))})"
    single = f"{into} VALUES ({', '.join((*'?' * len(columns), *fixed.values()))}){conflict}"  # quicker than a SELECT
    values = ", ".join((*(f"{{{name}}}" for name in columns), *fixed.values()))
    return Statement(columns, f"{into} SELECT {values}", f" WHERE {{{columns[0]}}} IS NOT NULL{conflict}", single)
