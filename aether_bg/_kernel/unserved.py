"""Due jobs that wait for a process with their handler, or one that reads their schedule (docs/protocol.md, C7, C8)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import attrs

from aether_bg._kernel.core import Core
from aether_bg.errors import shown
from aether_bg.model import JobInfo, Query

SETTLING: Final = 1.0
"""Seconds that a process may take to start, or to claim what another one has put back, before this is reported."""
AGAIN: Final = 3600.0
"""Seconds between two warnings of the same handler or schedule."""


@attrs.frozen
class Missing:
    """`handlers` that no live process has, `schedules` that this process cannot read, each with the due instant of the
    first job that waits for it."""

    handlers: dict[str, datetime]
    schedules: dict[str, datetime]

    def sentences(self) -> dict[str, str]:
        """By part, as in `health`."""
        told = {}
        if self.handlers:
            told["handlers"] = (
                f"due jobs wait for a process that has their handler: {_listed(self.handlers)}; "
                "start one, or delete the jobs"
            )
        if self.schedules:
            told["schedules"] = (
                f"due jobs wait for a process that can read their schedule: {_listed(self.schedules)}; "
                "add the plugin that knows it, or upgrade this process"
            )
        return told


class Unserved:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._seen: dict[str, float] = {}
        """Handlers and schedules that are missing, and when this process saw it first, by its own clock."""
        self._warned: dict[str, float] = {}

    async def find(self) -> Missing:
        """What is missing now. Raises a `StoreError`."""
        core, alive = self._core, self._core.alive
        handlers: dict[str, datetime] = {}
        schedules: dict[str, datetime] = {}
        if alive is None:
            return Missing(handlers, schedules)
        for name in sorted(alive.due - alive.advertised):
            for job in await self._due(name, 1):
                handlers[name] = job.due_at or job.created_at
        for name in sorted(alive.due.intersection(core.handlers)) if core.unreadable else ():
            for job in await self._due(name, 100):
                if core.cannot_read(job):
                    schedules.setdefault(_schedule(job), job.due_at or job.created_at)
        return Missing(handlers, schedules)

    async def look(self) -> None:
        """Warn of what has been missing for a moment, once an hour."""
        core, alive, now = self._core, self._core.alive, self._core.clock.monotonic()
        self._warned = {name: when for name, when in self._warned.items() if now - when < AGAIN}
        if alive is None or core.stopping or not (alive.due - alive.advertised or core.unreadable):
            self._seen.clear()
            return
        missing = await self.find()
        names = {*missing.handlers, *missing.schedules}
        self._seen = {name: self._seen.get(name, now) for name in names}
        fresh = {name for name in names - self._warned.keys() if now - self._seen[name] >= SETTLING}
        told = Missing(
            {name: since for name, since in missing.handlers.items() if name in fresh},
            {name: since for name, since in missing.schedules.items() if name in fresh},
        )
        for part, sentence in told.sentences().items():
            core.report(part, sentence)
        self._warned |= dict.fromkeys(fresh, now)

    def read_again(self) -> None:
        """A schedule that could not be read for a passing reason (its plugin failed) can be read now."""
        core = self._core
        for text, zone in list(core.unreadable):
            if core.reads(text, zone):
                core.wake()

    async def _due(self, handler: str, limit: int) -> list[JobInfo]:
        now = self._core.clock.now()
        return await self._core.calls.find(Query(handler_name=handler, due_before=now, order="due", limit=limit))


def _schedule(job: JobInfo) -> str:
    return job.expression_value if job.timezone is None else f"{job.expression_value} ({job.timezone})"


def _listed(since: dict[str, datetime]) -> str:
    return ", ".join(f"{shown(name)} since {when.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" for name, when in since.items())
