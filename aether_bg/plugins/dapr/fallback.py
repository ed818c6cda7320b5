"""Runs jobs without Dapr: while it is away, or does not deliver what is due, this process claims due rows itself.

It then does what the embedded timer does. The seq fences it: a trigger that comes late finds the row changed and starts
nothing (docs/protocol.md, C1).
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from typing import Final
from uuid import UUID

import anyio

from aether_bg.errors import shown
from aether_bg.model import JobInfo, JobStatus, Query
from aether_bg.plugins.dapr.contact import Contact
from aether_bg.plugins.dapr.door import Door
from aether_bg.plugins.dapr.names import name_of
from aether_bg.protocols import Kernel

_log: Final = logging.getLogger("aether_bg.dapr")
_PAGE: Final = 500
_PAGES: Final = 4
_LOOK: Final = 1.0
_ASK: Final = 5.0


class Fallback:
    """Watches over Dapr during one start. `after`: seconds of patience. `active`: why this process claims by itself
    now."""

    def __init__(self, kernel: Kernel, after: float, contact: Contact, door: Door) -> None:
        self.active: str | None = None
        self._kernel, self._after, self._contact, self._door = kernel, after, contact, door
        self._due: dict[tuple[UUID, int], float] = {}
        """Due rows that Dapr has not delivered, and since when this process has seen them so (monotonic seconds)."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch, if it does not yet. It goes on while triggers cannot be received (another program has the
        app port)."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(), context=Context())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(min(_LOOK, self._after / 4))
            try:
                if (reason := await self._needed()) is not None:
                    await self._stand_in(reason)
            except Exception as error:  # the watch goes on, whatever it meets
                self._kernel.report("dapr fallback", error)

    async def _needed(self) -> str | None:
        """Why the process should no longer wait for Dapr."""
        contact = self._contact
        if contact.away is not None and time.monotonic() - contact.away_since >= self._after:
            return f"Dapr has been away for {self._after:g} s"
        now = time.monotonic()
        rows = {(row.id, row.seq): row for row in await self._not_brought()}
        self._due = {key: self._due.get(key, now) for key in rows}
        late = [rows[key] for key, since in self._due.items() if now - since >= self._after]
        if not late:
            return None
        return (
            f"Dapr has not brought {len(late)} due jobs for {self._after:g} s, the first is {shown(late[0].job_name)} "
            f"({self._door.likely_cause()})"
        )

    async def _not_brought(self) -> list[JobInfo]:
        """Due rows whose trigger has not come, or not lately; earliest first, a bounded number of them."""
        kernel, after, found = self._kernel, None, list[JobInfo]()
        for _ in range(_PAGES):
            now: datetime = kernel.clock.now()
            query = Query(status=(JobStatus.SCHEDULED,), due_before=now, order="due", after=after, limit=_PAGE)
            rows = await kernel.store.find(query)
            for row in rows:
                age = self._door.handed_back.age(name_of(kernel.store_id, row.id, row.seq))
                if row.claimable(now) and (age is None or age > self._after):
                    found.append(row)
            if len(rows) < _PAGE:
                break
            after = rows[-1].id
        return found

    async def _stand_in(self, reason: str) -> None:
        """Claims what is due until Dapr is back; if it was there but delivered nothing, until it delivers something."""
        kernel, contact, door = self._kernel, self._contact, self._door
        was_away, came, asked = contact.away is not None, door.came, 0.0
        self.active = reason
        kernel.report("dapr", f"{reason}; until it does its part, this process claims due jobs itself")
        try:
            while True:
                due = await kernel.fire_due()
                if contact.away is None and (was_away or door.came != came):
                    break
                if contact.away is None and time.monotonic() - asked >= _ASK:  # perhaps nothing else is due for long
                    asked = time.monotonic()
                    await contact.ask_for_trigger()
                await kernel.sleep_until(due)
        finally:
            self.active = None
            self._due.clear()
        _log.info("Dapr brings jobs again: this process no longer claims them itself.")
