"""Decides what follows an error that a handler raised: another attempt, a snooze, or the end of the occurrence
(docs/protocol.md, R1 and R2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from aether_bg._rules.changes import MOST_ERROR
from aether_bg._rules.results import Failed, Result, Snoozed
from aether_bg.errors import brief, shown
from aether_bg.model import (
    Decision,
    Failure,
    GiveUp,
    GiveUpNow,
    HandlerInfo,
    JobInfo,
    Postpone,
    Raised,
    RetryAt,
    RunOutcome,
    Snooze,
    TimedOut,
)
from aether_bg.schedule._model import Refused, later, utc


def asked_for(error: BaseException) -> list[Snooze | GiveUp]:
    """The `GiveUp` or `Snooze` that the handler raised, also from a task group: an exception group of nothing else."""
    if isinstance(error, Snooze | GiveUp):
        return [error]
    if not isinstance(error, BaseExceptionGroup):
        return []
    inside = [asked_for(each) for each in error.exceptions]
    return [each for several in inside for each in several] if all(inside) else []


def as_asked(asked: Sequence[Snooze | GiveUp], now: datetime) -> Result:
    """`GiveUp` wins over `Snooze`; of several snoozes, the latest wins."""
    for each in asked:
        if isinstance(each, GiveUp):
            return Failed(error=text_of(each))
    results = [_snoozed(each, now) for each in asked if isinstance(each, Snooze)]
    wrong = [each for each in results if isinstance(each, Failed)]
    until = [each.until for each in results if isinstance(each, Snoozed)]
    return wrong[0] if wrong else Snoozed(max(until))


def _snoozed(snooze: Snooze, now: datetime) -> Snoozed | Failed:
    until = snooze.until
    try:
        if isinstance(until, timedelta):
            return Snoozed(later(now, until))
        if isinstance(until, datetime):
            return Snoozed(utc(until))
    except Refused:
        pass
    return Failed(error=f"Snooze({shown(until)}): wants an aware datetime or a timedelta")


def noted(result: Result, notes: Sequence[str]) -> Result:
    """The same result, with a note of what went wrong while its dependencies were closed."""
    said = "\n".join(notes)[:MOST_ERROR]
    error = f"{(result.error or '')[: MOST_ERROR - len(said)]}\n{said}".strip()
    return attrs.evolve(result, error=error)


def after(
    failure: Failure, decision: Decision | None, job: JobInfo, info: HandlerInfo, now: datetime, spread: float
) -> Failed | Snoozed:
    """Follows `decision` if there is one, else the handler's retries and backoff. `spread`: see `Backoff.delay`. Raises
    `Refused` for a decision that names no instant."""
    outcome = RunOutcome.TIMED_OUT if isinstance(failure, TimedOut) else RunOutcome.FAILED
    match failure:
        case TimedOut(seconds):
            error = f"TimedOut: the attempt took longer than {seconds:g} s"
        case Raised(raised):
            error = text_of(raised)
    match decision:
        case RetryAt(when):
            return Failed(error=error, outcome=outcome, retry_at=utc(when))
        case Postpone(until):
            return Snoozed(utc(until), error=error)
        case GiveUpNow(reason):
            return Failed(error=f"{error}\ngiven up: {reason}", outcome=outcome)
    if job.retry_count >= info.retries:
        return Failed(error=error, outcome=outcome)
    delay = info.backoff.delay(job.retry_count + 1, spread)
    return Failed(error=error, outcome=outcome, retry_at=later(now, timedelta(seconds=delay)))


def text_of(error: BaseException) -> str:
    """An error as the row keeps it: its type and message, with the last frames."""
    import traceback

    try:
        lines = traceback.format_exception(error, limit=-4)
        text = "".join([f"{brief(error)}\n", *lines])
    except BaseException:  # of a property of the user's class
        text = brief(error)
    return text
