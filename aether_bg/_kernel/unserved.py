"""Due jobs that wait for a process with their handler, or one that reads their schedule (docs/protocol.md, C7, C8)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import attrs

from aether_bg._kernel.shared import Shared
from aether_bg.errors import shown
from aether_bg.model import Alive, JobInfo, Query


@attrs.frozen
class Missing:
    """`handlers` that no live process has, `schedules` that this process cannot read, each with the due time of the
    first job that waits for it."""

    handlers: Mapping[str, datetime]
    schedules: Mapping[str, datetime]

    def only(self, names: set[str]) -> Missing:
        keep = [{name: since for name, since in of.items() if name in names} for of in (self.handlers, self.schedules)]
        return Missing(*keep)

    def sentences(self) -> dict[str, str]:
        """By part, as in `health`."""
        said = {}
        if self.handlers:
            said["handlers"] = (
                f"due jobs wait for a process that has their handler: {_listed(self.handlers)}; "
                "start one, or delete the jobs"
            )
        if self.schedules:
            said["schedules"] = (
                f"due jobs wait for a process that can read their schedule: {_listed(self.schedules)}; "
                "add the plugin that knows it, or upgrade this process"
            )
        return said


@attrs.define(eq=False)
class Unserved:
    _shared: Shared
    _seen: dict[str, float] = attrs.field(factory=dict, init=False)
    """Missing handlers and schedules, and when this process first noticed each, by its own clock."""
    _warned: dict[str, float] = attrs.field(factory=dict, init=False)

    async def find(self, alive: Alive) -> Missing:
        """What is missing now. Raises a `StoreError`."""
        handlers: dict[str, datetime] = {}
        schedules: dict[str, datetime] = {}
        for name in sorted(alive.due - alive.advertised):
            for job in await self._due(name, 1):
                handlers[name] = job.due_at or job.created_at
        for name in sorted(alive.due.intersection(self._shared.handlers)) if self._shared.schedules.unreadable else ():
            for job in await self._due(name, 100):
                if self._shared.schedules.cannot_read(job):
                    schedules.setdefault(_schedule(job), job.due_at or job.created_at)
        return Missing(handlers, schedules)

    async def look(self, alive: Alive) -> None:
        """Warns about what has been missing for a moment, at most once an hour."""
        now = self._shared.clock.monotonic()
        self._warned = {name: when for name, when in self._warned.items() if now - when < self._shared.timings.remind}
        missing_some = alive.due - alive.advertised or self._shared.schedules.unreadable
        if self._shared.identity.stopping or not missing_some:
            self._seen.clear()
            return
        missing = await self.find(alive)
        names = {*missing.handlers, *missing.schedules}
        self._seen = {name: self._seen.get(name, now) for name in names}
        fresh = {
            name for name in names - self._warned.keys() if now - self._seen[name] >= self._shared.timings.settling
        }
        for part, sentence in missing.only(fresh).sentences().items():
            self._shared.problems.report(part, sentence)
        self._warned |= dict.fromkeys(fresh, now)

    async def _due(self, handler: str, limit: int) -> list[JobInfo]:
        now = self._shared.clock.now()
        return await self._shared.calls.find(Query(handler_name=handler, due_before=now, order="due", limit=limit))


def _schedule(job: JobInfo) -> str:
    return job.expression_value if job.timezone is None else f"{job.expression_value} ({job.timezone})"


def _listed(since: Mapping[str, datetime]) -> str:
    return ", ".join(f"{shown(name)} since {when.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" for name, when in since.items())
