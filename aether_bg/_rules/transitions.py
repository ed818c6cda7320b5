"""What becomes of a job when an attempt has a result or starts too late (docs/protocol.md, C4, R1 to R3)."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Final, assert_never

import attrs

from aether_bg._rules.adjustments import rezoned
from aether_bg._rules.changes import Moment, attempt_run, end, gap_run, later, next_occurrence, once_more, wait
from aether_bg._rules.recurrence import KEPT, Gap, Plan
from aether_bg._rules.results import COMPLETED, Completed, Failed, Lost, Released, Repeated, Result, Snoozed
from aether_bg.model import Change, Completion, JobInfo, JobStatus, RunOutcome

_JUST: Final = timedelta(microseconds=1)
EXPIRED: Final = "expired"
"""The error of a one-shot that was too late to run."""
_IN_TIME: Final = timedelta(seconds=1)
"""If the end equals the due instant, a start within this time still counts as before the end."""


def put_back(job: JobInfo, moment: Moment) -> Change:
    """It was claimed, and no attempt has begun: it waits again, and the attempt does not count."""
    return finish(job, Released(begun=False), None, moment)


def finish(job: JobInfo, result: Result, plan: Plan | None, moment: Moment) -> Change:
    """Applies the outcome of the current attempt of `job` (RUNNING, as claimed or as read again).

    `plan` None: this process cannot read its schedule. If the change needs the next occurrence, the job is put back for
    a process that can read it (docs/protocol.md, C8).
    """
    now = moment.now
    if result is COMPLETED and plan is not None and _is_last(job, plan):
        return Completion.of(job, now, moment.by, partial(_completed, job, plan, moment))
    match result:
        case Snoozed(until, error):
            return once_more(job, moment, attempt_run(job, RunOutcome.SNOOZED, now, error), due_at=until)
        case Released(begun, error):
            run = attempt_run(job, RunOutcome.RELEASED, now, error)
            return once_more(job, moment, run, attempt=job.attempt - (not begun))
        case Failed(error, outcome, retry_at) if retry_at is not None:
            run = attempt_run(job, outcome, now, error)
            again = {"due_at": retry_at, "retry_count": job.retry_count + 1, "last_error": error}
            return once_more(job, moment, run, **again)
        case Lost(error, retry_at, cap):
            run = attempt_run(job, RunOutcome.CRASHED, now, error)
            crashes = job.crash_count + 1
            lost = {"crash_count": crashes, "last_error": error}
            if crashes >= 2 * cap or (crashes >= cap and plan is not None and not plan.schedule.recurring):
                return end(job, JobStatus.FAILED, moment, (run,), **lost)
            if crashes >= cap and plan is not None:
                return next_occurrence(job, plan, moment, run, **lost)
            return once_more(job, moment, run, due_at=retry_at, **lost)
    if plan is None:
        return once_more(job, moment, attempt_run(job, RunOutcome.RELEASED, now))
    match result:
        case Completed():
            return _completed(job, plan, moment, result)
        case Repeated(error):
            run = attempt_run(job, RunOutcome.DUPLICATE, now, error)
            return next_occurrence(job, plan, moment, run, last_error=None, crash_count=0)
        case Failed(error, outcome):
            return next_occurrence(job, plan, moment, attempt_run(job, outcome, now, error), last_error=error)
        case _:
            assert_never(result)


def _completed(job: JobInfo, plan: Plan, moment: Moment, done: Completed = COMPLETED) -> Change:
    run = attempt_run(job, RunOutcome.COMPLETED, moment.now, done.error)
    if done.has_result:
        run = attrs.evolve(run, result=done.result, has_result=True)
    return next_occurrence(job, plan, moment, run, last_error=None, crash_count=0)


def _is_last(job: JobInfo, plan: Plan) -> bool:
    """Whether nothing follows the attempt of a one-shot that keeps its name; otherwise `next_occurrence` decides."""
    if job.unique_for == 0:
        return False
    if plan.schedule.recurring or job.off_schedule or job.trigger_pending or job.occurrence is None:
        return False
    due = plan.first()
    return due is None or due <= later(job.last_occurrence, job.occurrence)


def abandon(job: JobInfo, error: str, moment: Moment) -> Change:
    """FAILED, even if recurring: its schedule fails, and it will fail again."""
    return end(
        job, JobStatus.FAILED, moment, (attempt_run(job, RunOutcome.FAILED, moment.now, error),), last_error=error
    )


def doubtful(job: JobInfo, plan: Plan, now: datetime) -> bool:
    """Whether a claim needs judging: it starts later than its grace or after its end (docs/protocol.md, R2), or it has
    a zone, whose rules may have changed (R6)."""
    if job.occurrence is None or job.attempt != 1 or job.off_schedule:
        return False
    if not plan.schedule.recurring:
        return _expired(job, plan, now)
    return job.timezone is not None or _late(job, now)


def _late(job: JobInfo, now: datetime) -> bool:
    return job.occurrence is not None and now - job.occurrence - _lag(job) > timedelta(seconds=job.misfire_grace)


def _lag(job: JobInfo) -> timedelta:
    """Jitter does not count as lateness (docs/protocol.md, R8)."""
    if job.occurrence is None or job.due_at is None:
        return timedelta(0)
    return max(job.due_at - job.occurrence, timedelta(0))


def _expired(job: JobInfo, plan: Plan, now: datetime) -> bool:
    """A one-shot that must not run any more. Its end holds even if a verb has moved `due_at` to now; lateness is
    counted from `due_at`."""
    if plan.until is not None and now > max(plan.until, (job.occurrence or now) + _IN_TIME):
        return True
    return job.misfire == "skip" and now - (job.due_at or now) > timedelta(seconds=job.misfire_grace)


def misfired(job: JobInfo, plan: Plan, moment: Moment) -> Change | None:
    """Judges a claim (docs/protocol.md, R2). None: run it. Otherwise the change that closes what was missed and moves
    on.

    A one-shot ends. It keeps its name: to enqueue the same job once more is still the same job, not a new one.

    One occurrence remains to run: the newest (`once`), the oldest of the newest 1,000 (`all`), or the first that is not
    late (`skip`).
    """
    now = moment.now
    plan, due = plan.grounded(now), job.occurrence
    if due is None or not doubtful(job, plan, now):
        return None
    if not plan.schedule.recurring:
        run = attrs.evolve(gap_run(Gap(due, due, 1), RunOutcome.SKIPPED, now, job.id, job.seq, 0), error=EXPIRED)
        return end(job, JobStatus.CANCELLED, moment, (run,), last_error=EXPIRED)
    if (moved := rezoned(job, plan, moment)) is not None or not _late(job, now):
        return moved
    gap: Gap | None
    kept: datetime | None
    now -= _lag(job)
    if job.misfire == "skip":
        gap, outcome = plan.passed(due, now - timedelta(seconds=job.misfire_grace)), RunOutcome.SKIPPED
        kept = None if gap is None else plan.after(gap.last)
    elif job.misfire == "once":
        gap, kept = plan.all_but_newest(due, now) or (None, None)
        outcome = RunOutcome.COALESCED
    else:
        kept, outcome = plan.newest_of(KEPT, due, now), RunOutcome.SKIPPED
        gap = None if kept is None else plan.passed(due, kept - _JUST)
    if gap is None:
        return None
    run = gap_run(gap, outcome, moment.now, job.id, job.seq, 0)
    if kept is None:
        return end(job, JobStatus.COMPLETED, moment, (run,), last_occurrence=later(job.last_occurrence, gap.last))
    return wait(job, kept, plan, moment, (run,), last_occurrence=later(job.last_occurrence, gap.last))
