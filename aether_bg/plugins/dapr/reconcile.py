"""Compares what Dapr holds with the store (docs/protocol.md, D2).

Dapr's names are read first, then the rows: a row read later is at least as new as the name, so a name that is not
current then never will be again. Only exact names of this store are deleted. A row that counts as armed but that Dapr
does not hold (for example, its data were deleted) is armed again. Rows never armed belong to the outbox, except after
an outage: then the outbox may be in the middle of a long pause.

If Dapr cannot list its jobs, because there are too many for one message, it is asked for each row by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import anyio
import attrs

from aether_bg.model import JobInfo, JobStatus, Query
from aether_bg.plugins.dapr.names import name_of, read_name, stays, waits
from aether_bg.protocols import Reader

T = TypeVar("T")
_PAGE: Final = 500
_AT_ONCE: Final = 32


@attrs.frozen
class Reconciled:
    """How many names were deleted as stale, and how many rows armed again."""

    deleted: int
    armed: int


class Absent(Protocol):
    """What Dapr is known to hold."""

    async def of(self, rows: Sequence[JobInfo]) -> Sequence[JobInfo]:
        """Those of `rows` whose present seq Dapr does not hold."""
        ...

    async def stale(self, store: Reader) -> list[str]:
        """Names of this store that are not current."""
        ...


@attrs.frozen
class _List:
    names: dict[tuple[UUID, int], str]

    async def of(self, rows: Sequence[JobInfo]) -> Sequence[JobInfo]:
        return [row for row in rows if (row.id, row.seq) not in self.names]

    async def stale(self, store: Reader) -> list[str]:
        found = []
        for page in _pages(self.names, _PAGE):
            ids = tuple({job_id for job_id, _ in page})
            rows = {row.id: row for row in await store.find(Query(ids=ids, limit=len(ids)))}
            for job_id, seq in page:
                row = rows.get(job_id)
                if row is None or row.seq != seq or not stays(row):
                    found.append(self.names[job_id, seq])
        return found


@attrs.frozen
class _Rows:
    store_id: UUID
    holds: Callable[[str], Awaitable[bool]]

    async def of(self, rows: Sequence[JobInfo]) -> Sequence[JobInfo]:
        gone = []

        async def look(row: JobInfo) -> None:
            if not await self.holds(name_of(self.store_id, row.id, row.seq)):
                gone.append(row)

        await _each(rows, look)
        return gone

    async def stale(self, store: Reader) -> list[str]:
        """Names that the row marks as armed and that must not be held any more: jobs changed, paused or cancelled."""
        found = []
        async for rows in _all(store, JobStatus.SCHEDULED, JobStatus.CANCELLED):
            for row in rows:
                if row.armed_seq >= 0 and (row.armed_seq != row.seq or not stays(row)):
                    found.append(name_of(self.store_id, row.id, row.armed_seq))
        return found


def absent_from_list(store_id: UUID, names: Iterable[str]) -> Absent:
    """By the names of all jobs that Dapr holds for the app id, other programs' included."""
    held = {}
    for name in names:
        ids = read_name(name)
        if ids is not None and ids[0] == store_id:
            held[ids[1], ids[2]] = name
    return _List(held)


def absent_by_row(store_id: UUID, holds: Callable[[str], Awaitable[bool]]) -> Absent:
    """By asking `holds` for each name."""
    return _Rows(store_id, holds)


async def reconcile(
    store: Reader,
    absent: Absent,
    forget: Callable[[str], Awaitable[object]],
    arm: Callable[[JobInfo], Awaitable[object]],
    *,
    unarmed: bool = False,
) -> Reconciled:
    """One comparison. `unarmed`: also arm what nothing has armed yet.

    Raises what the store, `absent`, `forget` or `arm` raise; what was done before that stays done.
    """
    stale = await absent.stale(store)
    await _each(stale, forget)

    def wanted(row: JobInfo) -> bool:
        return waits(row) and (unarmed or row.armed_seq == row.seq)

    missing: list[tuple[datetime, UUID]] = []
    async for rows in _all(store, JobStatus.SCHEDULED):
        missing += [(_due(row), row.id) for row in await absent.of([row for row in rows if wanted(row)])]
    armed = 0
    for page in _pages([job_id for _, job_id in sorted(missing)], _PAGE):  # read again: they may have moved on
        found = await store.find(Query(ids=tuple(page), limit=len(page)))
        again = sorted(filter(wanted, found), key=_due)
        await _each(again, arm)
        armed += len(again)
    return Reconciled(deleted=len(stale), armed=armed)


async def _all(store: Reader, *status: JobStatus) -> AsyncIterator[Sequence[JobInfo]]:
    after: UUID | None = None
    while True:
        rows = await store.find(Query(status=status, after=after, limit=_PAGE))
        yield rows
        if len(rows) < _PAGE:
            return
        after = rows[-1].id


def _due(row: JobInfo) -> datetime:
    assert row.due_at is not None  # it waits
    return row.due_at


def _pages(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


async def _each(items: Sequence[T], do: Callable[[T], Awaitable[Any]]) -> None:
    """Calls `do` for each item, some at a time, in order of start."""
    rest = iter(items)

    async def worker() -> None:
        for item in rest:
            await do(item)

    try:
        async with anyio.create_task_group() as group:
            for _ in range(min(_AT_ONCE, len(items))):
                group.start_soon(worker)
    except ExceptionGroup as several:  # the first is as good as any: they are the sidecar's
        raise several.exceptions[0] from None
