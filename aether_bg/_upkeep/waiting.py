"""Due jobs that do not start: those that wait for another process, and those that this one should have run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

from aether_bg._kernel.shared import Shared
from aether_bg.errors import shown
from aether_bg.model import Alive, JobInfo, JobStatus, Query

MOST: Final = 100
"""Jobs of one handler that are looked at."""


Missing = Mapping[str, Mapping[str, datetime]]
"""`handlers` that no live process has, `schedules` that this process cannot read, each with the due time of the first
job that waits for it (docs/protocol.md, C7 and C8)."""
_SAID: Final = {
    "handlers": ("has their handler", "start one, or delete the jobs"),
    "schedules": ("can read their schedule", "add the plugin that knows it, or upgrade this process"),
}


def sentences(missing: Missing) -> dict[str, str]:
    """By part, as in `health`."""
    return {
        part: f"due jobs wait for a process that {ability}: {_listed(missing[part])}; {remedy}"
        for part, (ability, remedy) in _SAID.items()
        if missing[part]
    }


@attrs.frozen(eq=False)
class Waiting:
    """All methods raise a `StoreError` where the store is in trouble."""

    _shared: Shared

    async def missing(self, alive: Alive) -> Missing:
        """What due jobs wait for now."""
        handlers: dict[str, datetime] = {}
        schedules: dict[str, datetime] = {}
        for name in sorted(alive.due - alive.advertised):
            for job in await self._due(name, limit=1):
                handlers[name] = job.due_at or job.created_at
        for name in sorted(alive.due.intersection(self._shared.handlers)) if self._shared.schedules.unreadable else ():
            for job in await self._due(name):
                if self._shared.schedules.cannot_read(job):
                    schedules.setdefault(_schedule(job), job.due_at or job.created_at)
        return {"handlers": handlers, "schedules": schedules}

    async def overdue(self, alive: Alive | None, seconds: float) -> list[JobInfo]:
        """Jobs that this process could have run, and that have been due for this long. `alive`: the last answer to a
        heartbeat, which says where to look."""
        names, late = set(self._shared.handlers), list[JobInfo]()
        for name in sorted(names if alive is None else names & alive.due):
            if not await self._full(name):
                late += await self._due(name, seconds)
        return [job for job in late if not self._shared.schedules.cannot_read(job)]

    async def _full(self, handler: str) -> bool:
        """As many of its jobs run as may: the others wait for a good reason (docs/protocol.md, L1)."""
        if (limit := self._shared.handlers.limits.get(handler)) is None:
            return False
        running = Query(handler_name=handler, status=(JobStatus.RUNNING,), limit=limit)
        return len(await self._shared.calls.find(running)) >= limit

    async def _due(self, handler: str, seconds: float = 0.0, *, limit: int = MOST) -> list[JobInfo]:
        before = self._shared.clock.now() - timedelta(seconds=seconds)
        return await self._shared.calls.find(Query(handler_name=handler, due_before=before, order="due", limit=limit))


def _schedule(job: JobInfo) -> str:
    return job.expression_value if job.timezone is None else f"{job.expression_value} ({job.timezone})"


def _listed(since: Mapping[str, datetime]) -> str:
    return ", ".join(f"{shown(name)} since {when.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" for name, when in since.items())
