"""Declared jobs at the start: each is enqueued; if that fails, it is reported and the app still starts
(docs/protocol.md, N6)."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import anyio
import attrs

from aether_bg._app.enqueue import Enqueuer
from aether_bg._kernel.kernel import Kernel
from aether_bg._rules import commands
from aether_bg._upkeep.heartbeat import Heartbeats
from aether_bg.errors import InputError, JobConflict, JobError, Stale, shown
from aether_bg.model import JobInfo, JobStatus, Query

log = logging.getLogger("aether_bg")

PART: Final = "declarations"
"""The name in `health`."""
GONE: Final = "its declaration is gone from the code"
NAMED: Final = 10
"""How many jobs one line of the log names."""
AGAIN: Final = 1.0
"""Seconds between tries of a declaration that waits for a running job to end."""


async def gone(kernel: Kernel, declared: Container[str]) -> list[JobInfo]:
    """Jobs that are marked as declared and have none of these names (docs/protocol.md, N9)."""
    found = await kernel.shared.calls.find_all(Query(declared=True))
    return [job for job in found if job.job_name not in declared]


async def end(kernel: Kernel, job: JobInfo) -> bool:
    """Ends a job that is no longer declared. False: it has changed in the meantime; the next check finds it again if
    necessary."""
    change = commands.cancel(job, kernel.shared.clock.moment())
    assert change is not None  # it has not ended
    try:
        await kernel.journal.update(attrs.evolve(change, last_error=GONE), job, "delete")
    except Stale:
        return False
    return True


class Declarations:
    """`declared`: arguments of `enqueue`. What could not be applied is shown by `health`, and with the owner in the
    store."""

    def __init__(
        self, kernel: Kernel, heartbeats: Heartbeats, enqueuer: Enqueuer, declared: Sequence[Mapping[str, Any]]
    ) -> None:  # fmt: skip
        self._kernel, self._heartbeats, self._enqueuer, self._declared = kernel, heartbeats, enqueuer, declared
        self._open: dict[str, str] = {}
        self._waiting: list[Mapping[str, Any]] = []

    @property
    def problem(self) -> str | None:
        """The declarations that have not been applied, and why."""
        return "; ".join(self._open.values()) or None

    async def apply(self) -> None:
        """Raises a `StoreError` when the store is in trouble, and no other error."""
        self._waiting = [arguments for arguments in self._declared if await self._waits(arguments)]
        if self._open:
            await self._heartbeats.show(tuple(self._open.values()))
        if self._waiting:
            self._kernel.spawn(self._later, "declaring again")

    async def drop_gone(self) -> None:
        """Logs the jobs that no code declares any more, or ends them (docs/protocol.md, N9). Raises a `StoreError`."""
        known = {arguments["job_name"] for arguments in self._declared}
        jobs = await gone(self._kernel, known | (await self._heartbeats.beat()).declared)
        names = ", ".join(shown(job.job_name) for job in jobs[:NAMED]) + (", …" if len(jobs) > NAMED else "")
        if jobs and not self._kernel.options.prune_declared:
            log.warning("no code declares these jobs any more: %s; delete them, or pass prune_declared=True", names)
        elif jobs:
            for job in jobs:
                await end(self._kernel, job)
            log.info("ended, since no code declares them any more: %s", names)

    async def _later(self) -> None:
        while self._waiting:
            await anyio.sleep(AGAIN)
            before = dict(self._open)
            self._waiting = [arguments for arguments in self._waiting if await self._waits(arguments)]
            if self._open != before:
                await self._heartbeats.show(tuple(self._open.values()))

    async def _waits(self, arguments: Mapping[str, Any]) -> bool:
        """Enqueues it, or reports why not. True: it must wait, because the job of that name is running."""
        name = arguments["job_name"]
        try:
            await self._enqueuer.enqueue(**arguments, declared=True)
        except (InputError, JobError) as error:
            problem = f"the declaration of {shown(name)} is not applied: {error}"
            if problem != self._open.get(name):
                self._open[name] = problem
                self._kernel.report(PART, problem)
            held = error.existing if isinstance(error, JobConflict) else None
            return held is not None and held.status is JobStatus.RUNNING
        self._open.pop(name, None)
        return False
