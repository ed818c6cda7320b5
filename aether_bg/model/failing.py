"""What the author of a handler says of failing: how long to wait, not now, never again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
from attrs import field

from aether_bg.errors import InvalidOption, shown

LONGEST = 100 * 366 * 86400.0
"""Seconds: a length of time beyond it leads out of the calendar sooner or later."""


def _within(
    *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> Callable[[object, attrs.Attribute[float], float], None]:
    """A finite number inside these bounds; bool is none. Raises `InvalidOption`."""
    rule = f"above {above}" if above > -math.inf else f"at least {least}"
    rule += f" and at most {most}" if most < math.inf else ""

    def check(_: object, attribute: attrs.Attribute[float], value: float) -> None:
        number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if not number or isinstance(value, bool) or value <= above or value < least or value > most:
            raise InvalidOption(f"Backoff({attribute.name}={shown(value)})", f"must be a finite number, {rule}")

    return check


@attrs.frozen
class Backoff:
    """Waiting time before the n-th retry: `first × factor**(n-1)` seconds, at most `max`, spread by ± `jitter`."""

    first: float = field(default=1.0, validator=_within(above=0, most=LONGEST))
    factor: float = field(default=2.0, validator=_within(least=1, most=LONGEST))
    max: float = field(default=300.0, validator=_within(above=0, most=LONGEST))
    jitter: float = field(default=0.25, validator=_within(least=0, most=1))

    def delay(self, failures: int, spread: float) -> float:
        """Seconds to wait after so many failures (≥ 1); `spread` in [-1, 1] places it within the jitter."""
        try:
            plain = min(float(self.first * self.factor ** min(failures - 1, 64)), self.max)
        except OverflowError:
            plain = self.max
        return min(plain * (1 + self.jitter * spread), self.max)


class Snooze(Exception):
    """Raised by a handler: not now, but at `until` (an aware datetime, or a timedelta from now). Costs no retry."""

    def __init__(self, until: Any) -> None:
        self.until = until
        super().__init__(until)


class GiveUp(Exception):
    """Raised by a handler: no retry will help. The occurrence has failed, for `reason`."""

    def __init__(self, reason: str = "gave up") -> None:
        self.reason = reason
        super().__init__(reason)
