"""Handlers, what they may say about a failure, how an attempt ends, and what follows a failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

import attrs
from attrs import field

from aether_bg.errors import InvalidOption, shown

LONGEST = 100 * 366 * 86400.0
"""Seconds. A longer time would sooner or later lead out of the calendar."""


def in_seconds(value: Any) -> Any:
    """A timedelta in seconds; anything else unchanged, to be checked."""
    return timedelta.total_seconds(value) if isinstance(value, timedelta) else value


def _within(
    rule: str, *, above: float = -math.inf, least: float = -math.inf, most: float
) -> Callable[[object, attrs.Attribute[float], float], None]:
    """A finite number inside these bounds, not a bool. Raises `InvalidOption`."""

    def check(_: object, attribute: attrs.Attribute[float], value: float) -> None:
        number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if not number or isinstance(value, bool) or value <= above or value < least or value > most:
            raise InvalidOption(shown(value), f"must be a finite number {rule}", name=f"{attribute.name} of Backoff")

    return check


_seconds = _within(f"of seconds, above 0 and at most {LONGEST:.0f} (100 years)", above=0, most=LONGEST)


@attrs.frozen
class Backoff:
    """Waiting time before the n-th retry: `first × factor**(n-1)` seconds, at most `max`, spread by ± `jitter`.

    `first` and `max` may be timedeltas.
    """

    first: float = field(default=1.0, converter=in_seconds, validator=_seconds)
    factor: float = field(
        default=2.0, validator=_within(f"of at least 1 and at most {LONGEST:.0f}", least=1, most=LONGEST)
    )
    max: float = field(default=300.0, converter=in_seconds, validator=_seconds)
    jitter: float = field(default=0.25, validator=_within("from 0 to 1", least=0, most=1))

    def delay(self, failures: int, spread: float) -> float:
        """Seconds to wait after this many failures (≥ 1); `spread` in [-1, 1] places it within the jitter."""
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


Invocation: TypeAlias = partial[Any]
"""A handler with its arguments bound. `.func, .args, .keywords` can be shipped to another process."""


@attrs.frozen(kw_only=True, eq=False)
class HandlerInfo:
    """A registered handler: its name, its code, and the limits of its attempts (seconds). `concurrency`: how many may
    run at the same time in the whole store, None for any number (docs/protocol.md, L1); `priority`: of its jobs that
    have none of their own (docs/protocol.md, L5)."""

    name: str
    target: Callable[..., Any]
    is_async: bool
    payload_type: Any
    retries: int = 0
    backoff: Backoff = field(factory=Backoff)
    timeout: float | None = None
    concurrency: int | None = None
    priority: int = 0
    keep_result: bool = False


@attrs.frozen
class Raised:
    """The handler (or something around it) raised."""

    error: BaseException


@attrs.frozen
class TimedOut:
    """The attempt was cancelled after `seconds`."""

    seconds: float


Failure: TypeAlias = Raised | TimedOut


@attrs.frozen
class RetryAt:
    """Try this occurrence again at `when` (aware); counts as a retry."""

    when: datetime


@attrs.frozen
class Postpone:
    """Try this occurrence again at `until` (aware); like a `Snooze`, it costs no retry."""

    until: datetime


@attrs.frozen
class GiveUpNow:
    """No further attempt at this occurrence."""

    reason: str


Decision: TypeAlias = RetryAt | Postpone | GiveUpNow
