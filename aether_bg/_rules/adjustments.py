"""Waiting rows that a moved clock or new zone rules have made wrong (docs/protocol.md, R4 to R6)."""

from __future__ import annotations

from datetime import datetime, timedelta

from aether_bg._rules.changes import SHIFTS, Moment, attempt_run, change, note_run, wait
from aether_bg._rules.recurrence import Plan
from aether_bg.model import Change, JobInfo, JobStatus, RunOutcome


def adjust(job: JobInfo, plan: Plan, now: datetime) -> Change | None:
    """What a waiting job needs at a look at the clocks. None: nothing."""
    return rezoned(job, plan, Moment(now, job.modified_by)) or set_back(job, plan, now)


def set_back(job: JobInfo, plan: Plan, now: datetime) -> Change | None:
    """The wall clock was set back while it waits: what was due already stays due, a retry waits no longer than was
    meant, a recurring job goes on from now. A one-shot keeps its instant."""
    due, moment, recurring = job.due_at, Moment(now, job.modified_by), plan.schedule.recurring
    if job.status is not JobStatus.SCHEDULED or due is None or due <= now or job.modified_at <= now:
        return None
    regular = recurring and not job.attempt and not job.off_schedule
    if due <= job.modified_at and not (regular and job.paused):
        return change(job, moment, due_at=now)
    if job.attempt:
        since = job.modified_at if job.handled_time is None else job.handled_time
        return change(job, moment, due_at=now + max(due - since, timedelta(0)), handled_time=now)
    following = plan.following(job.last_occurrence, now) if regular else None
    if following is None or job.occurrence is None or following >= job.occurrence - timedelta(microseconds=SHIFTS):
        return None  # it may wait for that very one, told from an earlier one by microseconds
    return wait(job, following, plan, moment, ())


def rezoned(job: JobInfo, plan: Plan, moment: Moment) -> Change | None:
    """The rules of its zone have changed: another occurrence takes the place of the one that waits, or was claimed."""
    begun = job.attempt - (job.status is JobStatus.RUNNING)
    if job.timezone is None or job.occurrence is None or begun or job.off_schedule or not plan.schedule.recurring:
        return None
    due = plan.replaced(job.occurrence, job.last_occurrence)
    if due is None:
        return None
    why = f"the rules of {job.timezone} have changed: it is due at {due:%Y-%m-%d %H:%M:%S} UTC instead"
    if job.status is JobStatus.RUNNING:
        run = attempt_run(job, RunOutcome.SUPERSEDED, moment.now, why)
    else:
        run = note_run(job, RunOutcome.SUPERSEDED, moment.now, why)
    return wait(job, due, plan, moment, (run,))
