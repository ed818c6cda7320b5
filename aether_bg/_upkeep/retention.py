"""Deletes ended jobs that are no longer kept (docs/protocol.md, N5)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import anyio
import attrs

from aether_bg._kernel.shared import Shared
from aether_bg._rules.settings import Keep
from aether_bg.model import JobStatus, Purge

LARGE: Final = 1024**3
"""Bytes from which a store without retention is reported."""
PAUSE: Final = 0.01
"""Seconds between two parts, so that other writes get their turn."""


@attrs.frozen(kw_only=True, eq=False)
class Retention:
    """`keep`: by status; without any, all jobs are kept."""

    _shared: Shared
    _keep: Mapping[JobStatus, Keep]

    async def run(self) -> None:
        while True:
            for status, keep in self._keep.items():
                while await self._shared.calls.purge(self._purge(status, keep)):
                    await anyio.sleep(PAUSE)
            await anyio.sleep(self._shared.timings.retention)

    def _purge(self, status: JobStatus, keep: Keep) -> Purge:
        if isinstance(keep, timedelta):
            return Purge(status=status, before=self._shared.clock.now() - keep)
        return Purge(status=status, keep=keep)

    def warn_of_size(self, size: int) -> None:
        """`size`: bytes of the store."""
        if size > LARGE and not self._keep:
            text = f"the store holds {size / LARGE:.1f} GiB and no retention is set: "
            self._shared.problems.report("retention", text + "pass retention=timedelta(days=…), or purge")
