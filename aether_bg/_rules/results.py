"""Values that say how an attempt ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeAlias

import attrs

from aether_bg.model import RunOutcome

LEAST_CRASHES: Final = 5
"""The number of crashes that ends an occurrence, even with fewer retries (docs/protocol.md, R3)."""


@attrs.frozen
class Completed:
    """The handler returned. `error`: what went wrong afterwards, while its scope was closed, or why its result is not
    kept. `result`: what it returned, as JSON, if `has_result`."""

    error: str | None = None
    result: Any = None
    has_result: bool = False


COMPLETED: Final = Completed()
"""The handler returned, and there is nothing to add."""


@attrs.frozen
class Repeated:
    """The handler returned, but its occurrence had completed before (docs/protocol.md, C6)."""

    error: str


@attrs.frozen
class Failed:
    """The handler failed. `retry_at` None: no further attempt at this occurrence."""

    error: str
    outcome: RunOutcome = RunOutcome.FAILED
    retry_at: datetime | None = None


@attrs.frozen
class Snoozed:
    """The handler asked to be called again at `until`."""

    until: datetime
    error: str | None = None


@attrs.frozen
class Released:
    """The stop interrupted the attempt, or it never began (`begun` False). It does not count."""

    begun: bool
    error: str | None = None


@attrs.frozen
class Lost:
    """Its process died. `retry_at`: when to run again while crashes are below their cap."""

    error: str
    retry_at: datetime
    cap: int


Result: TypeAlias = Completed | Repeated | Failed | Snoozed | Released | Lost
