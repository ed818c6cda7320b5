"""Every statement that a store runs, and every hop between threads, written down as they happen."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
import attrs
import pytest

from aether_bg.bridge import Bridge, Threads
from aether_bg.plugins.sqlite.inbox import Inbox


@attrs.frozen
class Statement:
    """`conn` tells connections apart; `sql` is without the comments that mark the writer's own, and without the name
    of the database before a table."""

    conn: int
    text: str
    params: Any

    @property
    def sql(self) -> str:
        return self.text.replace(" main.aether_", " aether_")

    @property
    def verb(self) -> str:
        return self.sql.split(None, 1)[0].upper()


@attrs.define
class Recording:
    statements: list[Statement] = attrs.field(factory=list)
    hops: int = 0
    """Calls from another thread into the event loop, and from the loop to a worker thread."""
    turns: int = 0
    """Of the asyncio loop: each is a look at sockets and timers."""
    wakes: int = 0
    """Ends of a wait: of the asyncio loop, of a writer, of a thread that reads."""

    def clear(self) -> None:
        self.statements.clear()
        self.hops = self.turns = self.wakes = 0

    def written(self) -> list[Statement]:
        """Of the connections that write: what they ran, but for looks at the file (PRAGMA) between batches."""
        writers = {one.conn for one in self.statements if one.verb == "BEGIN"}
        return [one for one in self.statements if one.conn in writers and one.verb != "PRAGMA"]

    @property
    def commits(self) -> int:
        return sum(one.verb == "COMMIT" for one in self.statements)


@contextmanager
def recording() -> Iterator[Recording]:
    """While it lasts: of connections opened and of hops made meanwhile."""
    found = Recording()

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, params: Any = (), /) -> sqlite3.Cursor:
            plain = re.sub(r"\s*/\*.*?\*/", "", " ".join(sql.split()))
            found.statements.append(Statement(id(self), plain, params))
            return super().execute(sql, params)

        def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
            several = list(rows)
            for row in several:
                found.statements.append(Statement(id(self), " ".join(sql.split()), row))
            return super().executemany(sql, several)

    connect, post, to_thread = sqlite3.connect, Bridge.post, anyio.to_thread.run_sync

    def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
        return connect(*args, factory=Connection, **options)

    def posting(bridge: Bridge, fn: Callable[[], object]) -> bool:
        found.hops += 1
        return post(bridge, fn)

    turn: Any = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]

    def turning(loop: Any) -> None:
        found.turns += 1
        found.wakes += not loop._ready
        turn(loop)

    async def hopping(*args: Any, **options: Any) -> Any:
        found.hops += 1
        return await to_thread(*args, **options)

    first, start = Inbox.first, Threads._start

    def waiting(*args: Any) -> Any:
        try:
            return first(*args)
        finally:
            found.wakes += 1

    def starting(threads: Threads, work: Callable[[], None]) -> None:
        found.wakes += 1
        start(threads, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inbox, "first", waiting)
        patch.setattr(Threads, "_start", starting)
        patch.setattr(sqlite3, "connect", connecting)
        patch.setattr(Bridge, "post", posting)
        patch.setattr(asyncio.BaseEventLoop, "_run_once", turning)
        patch.setattr(anyio.to_thread, "run_sync", hopping)
        yield found


def kinds(statements: Sequence[Statement]) -> dict[str, Statement]:
    """One of each, whatever number of rows or arguments a statement is made for; the last that was run."""
    return {re.sub(r"(\([?, ]+\))(, \1)+", r"\1, …", one.sql): one for one in statements}
