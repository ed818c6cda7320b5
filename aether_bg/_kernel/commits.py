"""Transactions of the store, and the jobs that waited for what they end (docs/protocol.md, A2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from aether_bg._hooks.calls import Calls
from aether_bg._kernel.alarm import Alarm
from aether_bg.model import Call, Settled, Write

log = logging.getLogger("aether_bg")


@attrs.frozen
class Commits:
    _calls: Calls
    _alarm: Alarm

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        """Wakes the scheduler, and what arms it, for the children that are released."""
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
            log.warning("%d jobs that waited are CANCELLED, first %s: %s", len(cancelled), first.job_id, first.error)
