"""Declared jobs at the start: each is enqueued; what cannot be is reported, and the app starts all the same
(docs/protocol.md, N6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from aether_bg._app.enqueue import Enqueuer
from aether_bg._kernel.kernel import Kernel
from aether_bg.errors import InputError, JobConflict, JobError, shown
from aether_bg.model import JobStatus

PART: Final = "declarations"
"""What `health` calls it."""
AGAIN: Final = 1.0
"""Seconds between tries of a declaration that waits for a running job to end."""


class Declarations:
    """`declared`: arguments of `enqueue`. What could not be applied is shown by `health`, and with the owner in the
    store."""

    def __init__(self, kernel: Kernel, enqueuer: Enqueuer, declared: Sequence[Mapping[str, Any]]) -> None:
        self._kernel, self._enqueuer, self._declared = kernel, enqueuer, declared
        self._open: dict[str, str] = {}
        self._waiting: list[Mapping[str, Any]] = []

    @property
    def problem(self) -> str | None:
        """What has not been applied, and why."""
        return "; ".join(self._open.values()) or None

    async def apply(self) -> None:
        """Raises a `StoreError` when the store is in trouble, and nothing else."""
        self._waiting = [arguments for arguments in self._declared if await self._waits(arguments)]
        if self._open:
            await self._kernel.heartbeats.show(tuple(self._open.values()))
        if self._waiting:
            self._kernel.spawn(self._later, "declaring again")

    async def _later(self) -> None:
        while self._waiting:
            await anyio.sleep(AGAIN)
            before = dict(self._open)
            self._waiting = [arguments for arguments in self._waiting if await self._waits(arguments)]
            if self._open != before:
                await self._kernel.heartbeats.show(tuple(self._open.values()))

    async def _waits(self, arguments: Mapping[str, Any]) -> bool:
        """Enqueue it, or report why not. True: only because the job of that name runs now."""
        name = arguments["job_name"]
        try:
            await self._enqueuer.enqueue(**arguments)
        except (InputError, JobError) as error:
            problem = f"the declaration of {shown(name)} is not applied: {error}"
            if problem != self._open.get(name):
                self._open[name] = problem
                self._kernel.report(PART, problem)
            held = error.existing if isinstance(error, JobConflict) else None
            return held is not None and held.status is JobStatus.RUNNING
        self._open.pop(name, None)
        return False
