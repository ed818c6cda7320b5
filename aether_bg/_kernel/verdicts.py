"""What is to become of an attempt: whether it runs at all, and what follows from a failure (PROTOCOL C7, R1, R2)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from aether_bg._handlers.handlers import Handler
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.core import Core
from aether_bg._rules import states
from aether_bg._rules.occurrences import Plan
from aether_bg._rules.states.parts import MOST_ERROR
from aether_bg.errors import brief, shown
from aether_bg.model import Change, Failure, GiveUp, GiveUpNow, Raised, RetryAt, RunOutcome, Snooze, TimedOut
from aether_bg.schedule._model import Refused, later, utc


async def judge(core: Core, attempt: Attempt, plan: Plan | None) -> states.Ending | Change | None:
    """None: run it."""
    job = attempt.job
    if plan is None or job.handler_name not in core.handlers:
        return states.Released(begun=False)  # another process can run it (docs/protocol.md, C7 and C8)
    now, change = core.clock.now(), None
    if states.doubtful(job, plan, now) and not core.stopping:
        change = await core.aside(states.misfired, job, plan, now, core.options.by())
    return states.Released(begun=False) if core.stopping or attempt.releasing or attempt.revoked else change


def asked_for(error: BaseException) -> list[Snooze | GiveUp]:
    """What the handler asked for by raising it, in a task group too: an exception group of nothing else."""
    if isinstance(error, Snooze | GiveUp):
        return [error]
    if not isinstance(error, BaseExceptionGroup):
        return []
    inside = [asked_for(each) for each in error.exceptions]
    return [each for several in inside for each in several] if all(inside) else []


def as_asked(core: Core, asked: Sequence[Snooze | GiveUp]) -> states.Ending:
    """`GiveUp` counts before `Snooze`; of several snoozes, the latest."""
    for each in asked:
        if isinstance(each, GiveUp):
            return states.Failed(error=text_of(each))
    endings = [snoozed(core, each) for each in asked if isinstance(each, Snooze)]
    wrong = [each for each in endings if isinstance(each, states.Failed)]
    until = [each.until for each in endings if isinstance(each, states.Snoozed)]
    return wrong[0] if wrong else states.Snoozed(max(until))


def snoozed(core: Core, snooze: Snooze) -> states.Snoozed | states.Failed:
    until = snooze.until
    try:
        if isinstance(until, timedelta):
            return states.Snoozed(later(core.clock.now(), until))
        if isinstance(until, datetime):
            return states.Snoozed(utc(until))
    except Refused:
        pass
    return states.Failed(error=f"Snooze({shown(until)}): wants an aware datetime or a timedelta")


def noted(ending: states.Ending, notes: Sequence[str]) -> states.Ending:
    """The same, with what went wrong while its dependencies were closed."""
    told = "\n".join(notes)[:MOST_ERROR]
    error = f"{(ending.error or '')[: MOST_ERROR - len(told)]}\n{told}".strip()
    return attrs.evolve(ending, error=error)


def decide(core: Core, attempt: Attempt, handler: Handler, failure: Failure) -> states.Ending:
    """Another attempt or none: as the plugins say, else by the handler's retries and backoff."""
    job, info = attempt.job, handler.info
    outcome = RunOutcome.TIMED_OUT if isinstance(failure, TimedOut) else RunOutcome.FAILED
    match failure:
        case TimedOut(seconds):
            error = f"TimedOut: the attempt took longer than {seconds:g} s"
        case Raised(raised):
            error = text_of(raised)
        case crashed:
            error = str(crashed)
    try:
        decision = core.calls.decide(attempt.context, failure)
        if isinstance(decision, RetryAt):
            decision = RetryAt(utc(decision.when))
    except Exception as trouble:
        core.report("dispatch_decide", trouble)
        decision = None
    match decision:
        case RetryAt(when):
            return states.Failed(error=error, outcome=outcome, retry_at=when)
        case GiveUpNow(reason):
            return states.Failed(error=f"{error}\ngiven up: {reason}", outcome=outcome)
    if job.retry_count >= info.retries:
        return states.Failed(error=error, outcome=outcome)
    delay = info.backoff.delay(job.retry_count + 1, random.uniform(-1, 1))
    return states.Failed(error=error, outcome=outcome, retry_at=later(core.clock.now(), timedelta(seconds=delay)))


def text_of(error: BaseException) -> str:
    """An error as kept on the row: its type and message, with the last frames."""
    import traceback

    try:
        lines = traceback.format_exception(error, limit=-4)
        text = "".join([f"{brief(error)}\n", *lines])
    except BaseException:  # of a property of the user's class
        text = brief(error)
    return text
