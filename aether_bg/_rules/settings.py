"""The settings of one app, checked where they are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from aether_bg._rules import validation as checks
from aether_bg.model import Backoff, JobStatus
from aether_bg.model.attempts import LONGEST
from aether_bg.protocols import Clock
from aether_bg.schedule._model import plain_length


class SystemClock:
    """The machine's time, read at most five times a millisecond: events that happen together get the same time, which
    is converted once."""

    def __init__(self) -> None:
        self._read = (-1.0, datetime.min.replace(tzinfo=UTC))

    def now(self) -> datetime:
        at, (until, now) = time.monotonic(), self._read
        if at >= until:
            now = datetime.now(UTC)
            self._read = (at + 0.0002, now)
        return now

    def monotonic(self) -> float:
        return time.monotonic()

    def __repr__(self) -> str:
        return "<SystemClock>"


acting: ContextVar[str | None] = ContextVar("acting", default=None)
"""The person for whom the caller acts, if a page or another front end knows the name."""
Keep = timedelta | int
"""How long a terminal job is kept, or how many are kept."""


@attrs.frozen(kw_only=True)
class Options:
    """The settings of one app; see `Aether`. Seconds and bytes."""

    concurrency: int
    grace: float
    lease: float
    clock: Clock
    actor: str | Callable[[], str | None] | None
    retention: Mapping[JobStatus, Keep]
    max_payload: int
    prune_declared: bool = False

    @classmethod
    def checked(
        cls, *, concurrency: Any, grace: Any, lease: Any, clock: Any, actor: Any, retention: Any, max_payload: Any,
        prune_declared: Any = False,
    ) -> Options:  # fmt: skip
        clock = SystemClock() if clock is None else clock
        if not callable(getattr(clock, "now", None)) or not callable(getattr(clock, "monotonic", None)):
            checks.refuse("clock", clock, "must have now() and monotonic()", "Leave it out for the machine's clock.")
        if actor is not None and not isinstance(actor, str) and not callable(actor):
            checks.refuse(
                "actor", actor, "must be a name, or a function that returns one", 'For example: actor="billing".'
            )
        if not isinstance(prune_declared, bool):
            checks.refuse("prune_declared", prune_declared, "must be True or False")
        return cls(
            prune_declared=prune_declared,
            concurrency=checks.whole("concurrency", concurrency, least=1),
            grace=checks.seconds("grace", grace, zero=True),
            lease=checks.seconds("lease", lease),
            clock=clock,
            actor=actor,
            retention=_retention(retention),
            max_payload=checks.whole("max_payload", max_payload, least=1),
        )

    def by(self) -> str | None:
        """Who acts now, for the audit fields."""
        if (name := acting.get()) is not None:
            return name
        return self.actor() if callable(self.actor) else self.actor


def handler_bounds(
    name: Any, *, retries: Any, backoff: Any, timeout: Any, concurrency: Any, priority: Any, keep_result: Any
) -> dict[str, Any]:
    """How the attempts of a handler are bounded: the fields of its `HandlerInfo`, checked."""
    if callable(name):
        checks.refuse("name", name, "must be a name, not the handler", 'Write @app.handler("SendEmail").')
    checks.name(name, "handler")
    checks.whole("retries", retries, least=0)
    if backoff is not None and not isinstance(backoff, Backoff):
        checks.refuse("backoff", backoff, "must be a Backoff", "For example: Backoff(first=1, factor=2).")
    if concurrency is not None:
        checks.whole("concurrency", concurrency, least=1)
    checks.priority(priority)
    if not isinstance(keep_result, bool):
        checks.refuse("keep_result", keep_result, "must be True or False")
    return {
        "retries": retries, "backoff": backoff or Backoff(), "concurrency": concurrency, "priority": priority,
        "timeout": None if timeout is None else checks.seconds("timeout", timeout), "keep_result": keep_result,
    }  # fmt: skip


def _retention(value: Any) -> dict[JobStatus, Keep]:
    """None, one rule for every terminal status, or a mapping from status to rule."""
    if value is None:
        return {}
    terminal = [status for status in JobStatus if status.terminal]
    if not isinstance(value, Mapping):
        value = dict.fromkeys(terminal, value)
    kept: dict[JobStatus, Keep] = {}
    for key, rule in value.items():
        status = next(
            (s for s in terminal if key == s or (isinstance(key, str) and key.lower() == s.name.lower())), None
        )
        if status is None:
            checks.refuse(
                "retention",
                key,
                "must be for completed, failed or cancelled jobs",
                'For example: {"completed": timedelta(days=7)}.',
            )
        if isinstance(rule, bool) or not isinstance(rule, timedelta | int) or _negative(rule):
            checks.refuse(
                "retention",
                rule,
                "must be an age (timedelta) or count, not negative",
                "For example: timedelta(days=7).",
            )
        kept[status] = _at_most(rule)
    return kept


def _at_most(rule: Keep) -> Keep:
    """A rule that means "for ever", as a number that can be computed with."""
    return min(rule, checks.LARGEST) if isinstance(rule, int) else min(plain_length(rule), timedelta(seconds=LONGEST))


def _negative(rule: Keep) -> bool:
    return rule < timedelta(0) if isinstance(rule, timedelta) else rule < 0
