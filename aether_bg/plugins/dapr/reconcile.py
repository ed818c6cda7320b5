"""Comparing what Dapr holds with what the store says (PROTOCOL D2).

Dapr's names are read first, then the rows: a row read later is at least as new as the name, so a name that is not
current then never will be again. Only exact names of this store are deleted. What a row believes to be armed and Dapr
does not hold (its data were wiped, say) is armed anew. Rows never armed are the outbox's, except after an outage:
then the outbox may be in the middle of a long pause.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import anyio
import attrs

from aether_bg.model import JobInfo, JobStatus, Query
from aether_bg.plugins.dapr.names import read_name, waits
from aether_bg.protocols import Reader

T = TypeVar("T")
_PAGE: Final = 500
_AT_ONCE: Final = 32


@attrs.frozen
class Reconciled:
    """How many names were held for this store, deleted as stale, armed anew."""

    held: int
    deleted: int
    armed: int


class Holder(Protocol):
    async def names(self) -> list[str]: ...
    async def delete(self, name: str) -> None: ...


async def reconcile(
    store: Reader, store_id: UUID, holder: Holder, arm: Callable[[JobInfo], Awaitable[object]], *, unarmed: bool = False
) -> Reconciled:
    """One comparison. `unarmed`: arm also what nobody has armed yet.

    Raises what the store, `holder` or `arm` raise; done is then what was done until there.
    """
    held: dict[tuple[UUID, int], str] = {}
    for name in await holder.names():
        ids = read_name(name)
        if ids is not None and ids[0] == store_id:
            held[ids[1], ids[2]] = name
    stale = await _stale(store, held)
    await _each(stale, holder.delete)

    def wanted(row: JobInfo) -> bool:
        return waits(row) and (unarmed or row.armed_seq == row.seq)

    missing = await _missing(store, held, wanted)
    armed = 0
    for page in _pages(missing, _PAGE):  # earliest first, and read again: they may have moved on
        rows = await store.find(Query(ids=tuple(page), limit=len(page)))
        again = sorted(filter(wanted, rows), key=_due)
        await _each(again, arm)
        armed += len(again)
    return Reconciled(held=len(held), deleted=len(stale), armed=armed)


async def _stale(store: Reader, held: dict[tuple[UUID, int], str]) -> list[str]:
    found = []
    for page in _pages(held, _PAGE):
        ids = tuple({job_id for job_id, _ in page})
        rows = {row.id: row for row in await store.find(Query(ids=ids, limit=len(ids)))}
        for job_id, seq in page:
            row = rows.get(job_id)
            if row is None or row.seq != seq or not waits(row):
                found.append(held[job_id, seq])
    return found


async def _missing(store: Reader, held: dict[tuple[UUID, int], str], wanted: Callable[[JobInfo], bool]) -> list[UUID]:
    """Ids of wanted rows that are not held, earliest due first."""
    found: list[tuple[datetime, UUID]] = []
    after: UUID | None = None
    while True:
        rows = await store.find(Query(status=(JobStatus.SCHEDULED,), after=after, limit=_PAGE))
        found += [(_due(row), row.id) for row in rows if wanted(row) and (row.id, row.seq) not in held]
        if len(rows) < _PAGE:
            return [job_id for _, job_id in sorted(found)]
        after = rows[-1].id


def _due(row: JobInfo) -> datetime:
    assert row.due_at is not None  # `waits` has seen to that
    return row.due_at


def _pages(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


async def _each(items: Sequence[T], do: Callable[[T], Awaitable[Any]]) -> None:
    """`do` each item, some at a time, in order of start."""
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
