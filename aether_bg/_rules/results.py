"""How an attempt ended, as values."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeAlias

import attrs

from aether_bg.model import RunOutcome

LEAST_CRASHES: Final = 5
"""Crashes that end an occurrence, even with fewer retries (docs/protocol.md, R3)."""


@attrs.frozen
class Completed:
    """It returned. `error`: what went wrong afterwards, while its scope was closed, or why its result is not kept.
    `result`: what it returned, as JSON, if `has_result`."""

    error: str | None = None
    result: Any = None
    has_result: bool = False


COMPLETED: Final = Completed()
"""It returned, and there is nothing to say about it."""


@attrs.frozen
class Repeated:
    """It returned, and its occurrence turns out to have completed before (docs/protocol.md, C6)."""

    error: str


@attrs.frozen
class Failed:
    """It did not. `retry_at` None: no further attempt at this occurrence."""

    error: str
    outcome: RunOutcome = RunOutcome.FAILED
    retry_at: datetime | None = None


@attrs.frozen
class Snoozed:
    """It asked to be called again at `until`."""

    until: datetime
    error: str | None = None


@attrs.frozen
class Released:
    """It was interrupted by the stop, or never begun (`begun` False). Not counted."""

    begun: bool
    error: str | None = None


@attrs.frozen
class Lost:
    """Its process died. `retry_at`: when to run again while crashes are below their cap."""

    error: str
    retry_at: datetime
    cap: int


Result: TypeAlias = Completed | Repeated | Failed | Snoozed | Released | Lost
