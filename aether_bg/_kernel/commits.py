"""Transactions of the store, and the jobs that waited for what they end (docs/protocol.md, A2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import anyio.lowlevel
import attrs

from aether_bg._hooks.calls import Calls
from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.observers import Observers
from aether_bg._kernel.problems import Problems
from aether_bg._kernel.tasks import Spawn
from aether_bg.model import Altered, Call, Query, Settled, Write

log = logging.getLogger("aether_bg")


_PAGE: Final = 500
"""Rows that are read at a time for the observers, whose queue is bounded."""


@attrs.frozen
class Commits:
    _calls: Calls
    _alarm: Alarm
    _observers: Observers
    _problems: Problems
    _spawn: Spawn

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        """Wakes the scheduler and the arming for the children that are released."""
        results = await self._calls.transact(writes)
        if any(results):
            told = [result for write, result in zip(writes, results, strict=True) if not isinstance(write, Call)]
            self._tell([child for result in told if isinstance(result, Sequence) for child in result])
        return results

    def _tell(self, children: Sequence[Settled]) -> None:
        if children:
            self._alarm.wake()
        if cancelled := [child for child in children if child.error is not None]:
            first = cancelled[0]
            if self._observers.present:
                self._spawn(self._show, [child.job_id for child in cancelled])
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
                for job in await self._calls.find(Query(ids=ids, limit=len(ids))):
                    self._observers.emit(Altered(job, "delete"))
                await anyio.lowlevel.checkpoint()
        except Exception as error:
            self._problems.report("observers of cancelled jobs", error)
