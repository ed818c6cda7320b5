"""Transactions of the store, and the jobs that waited for what they end (docs/protocol.md, A2)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import anyio.lowlevel
import attrs

from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.shared import Shared
from aether_bg.model import Altered, Call, Change, Insert, JobInfo, JobStatus, Query, Settled, Update, Write

log = logging.getLogger("aether_bg")


_PAGE: Final = 500
"""Rows that are read at a time for the observers, whose queue is bounded."""


@attrs.frozen
class Commits:
    _shared: Shared
    _alarm: Alarm

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        """Wakes the scheduler and the arming for the children that are released, and wherever the caller is cancelled:
        what is stored all the same may have made jobs due."""
        try:
            results = await self._shared.calls.transact(writes)
        except Exception:
            raise
        except BaseException:
            self._alarm.wake()
            raise
        of = zip(writes, results, strict=True)
        if told := [result for write, result in of if result is not None and not isinstance(write, Call)]:
            self._tell([child for result in told if isinstance(result, Sequence) for child in result])
        return results

    def follow(self, write: Insert | Update, announce: Callable[[], object]) -> None:
        """The caller was cancelled during the commit: if `write` is stored all the same, that is announced
        (docs/protocol.md, C10)."""
        self._shared.spawn(self._follow, write, announce)

    async def _follow(self, write: Insert | Update, announce: Callable[[], object]) -> None:
        with self._shared.problems.reported("announcing"):
            if await self.stored(write):
                announced = announce()
                if inspect.isawaitable(announced):
                    await announced
                if isinstance(write, Update) and write.change.status.terminal:
                    self._tell(await self._cancelled_with(write.change))

    async def stored(self, write: Insert | Update) -> bool:
        """Whether the store has it: by the row, as it is now."""
        if isinstance(write, Update):
            return was_written(write.change, await self._shared.calls.get(write.change.job_id))
        return await self._shared.calls.get(write.job.id) is not None

    async def _cancelled_with(self, end: Change) -> list[Settled]:
        """The jobs that waited for this one and were cancelled by its end."""
        found, parents = dict[UUID, Settled](), [end.job_id]
        while parents:
            query = Query(children_of=parents.pop(), status=(JobStatus.CANCELLED,), limit=_PAGE)
            for child in await self._shared.calls.find_all(query):
                if child.modified_at == end.modified_at and child.id not in found:
                    found[child.id] = Settled(child.id, child.seq, error=child.last_error)
                    parents.append(child.id)
        return list(found.values())

    def _tell(self, children: Sequence[Settled]) -> None:
        if children:
            self._alarm.wake()
        if cancelled := [child for child in children if child.error is not None]:
            first = cancelled[0]
            if self._shared.observers.present:
                self._shared.spawn(self._show, [child.job_id for child in cancelled])
            log.warning(
                "jobs that waited for another one are CANCELLED: %d, the first is %s: %s",
                len(cancelled),
                first.job_id,
                first.error,
            )

    async def _show(self, cancelled: Sequence[UUID]) -> None:
        """Observers see a delete of each of them."""
        try:
            for start in range(0, len(cancelled), _PAGE):
                ids = tuple(cancelled[start : start + _PAGE])
                for job in await self._shared.calls.find(Query(ids=ids, limit=len(ids))):
                    self._shared.observers.emit(Altered(job, "delete"))
                await anyio.lowlevel.checkpoint()
        except Exception as error:
            self._shared.problems.report("observers of cancelled jobs", error)


def was_written(change: Change, current: JobInfo | None) -> bool:
    """Whether `current`, the row as it is, shows exactly this change."""
    return current is not None and (change.next_seq, change.next_rev, change.modified_at) == (
        current.seq, current.schedule_rev, current.modified_at
    )  # fmt: skip
