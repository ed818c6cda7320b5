"""Processes that share a limit take turns: one that has filled it for a while lets the others go first
(docs/protocol.md, L2)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import longer
from aether_bg.model import Claimed


@attrs.define(eq=False)
class Turns:
    _shared: Shared
    _began: float | None = attrs.field(default=None, init=False)
    """When this process began to fill a limit, while other jobs waited for it."""
    _length: float = attrs.field(init=False)
    """Of its next turn."""
    _aside: float = attrs.field(default=0.0, init=False)
    """Until then, the others go first."""

    def __attrs_post_init__(self) -> None:
        self._length = self._shared.timings.turn[0]

    @property
    def limits(self) -> Mapping[str, int]:
        limits = self._shared.handlers.limits
        return dict.fromkeys(limits, 0) if limits and self._wait > 0 else limits

    @property
    def _wait(self) -> float:
        return self._aside - self._shared.clock.monotonic()

    def looked(self, claimed: Claimed) -> datetime | None:
        """After a claim: when to look again, if this process now stands aside."""
        limits, timings, now = self._shared.handlers.limits, self._shared.timings, self._shared.clock.monotonic()
        if limits and self._wait <= 0:
            if not claimed.short or not self._shared.identity.company:
                self._began, self._length = None, timings.turn[0]
            elif self._began is None and any(job.handler_name in limits for job in claimed.jobs):
                self._began = now
            elif self._began is not None and now - self._began > self._length:
                self._began, self._length = None, longer(self._length, timings.turn)
                self._aside = now + timings.aside
        return self._shared.clock.now() + timedelta(seconds=self._wait) if limits and self._wait > 0 else None
