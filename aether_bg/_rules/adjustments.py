"""Corrects waiting jobs after the clock has moved or the rules of a zone have changed (docs/protocol.md, R4 to R6)."""

from __future__ import annotations

from datetime import datetime, timedelta

from aether_bg._rules.changes import SHIFTS, Moment, attempt_run, change, note_run, wait
from aether_bg._rules.recurrence import Plan
from aether_bg.model import Change, JobInfo, JobStatus, RunOutcome


def adjust(job: JobInfo, plan: Plan, now: datetime) -> Change | None:
    """The change that a waiting job needs when the clocks are checked. None: it needs no change."""
    return rezoned(job, plan, Moment(now, job.modified_by)) or set_back(job, plan, now)


def set_back(job: JobInfo, plan: Plan, now: datetime) -> Change | None:
    """The change for a job that was waiting when the wall clock was set back. A job that was due stays due, a retry
    waits no longer than planned, and a recurring job goes on from now. A one-shot keeps its instant."""
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
        return None  # it may wait for this occurrence already, moved by microseconds
    return wait(job, following, plan, moment, ())


def rezoned(job: JobInfo, plan: Plan, moment: Moment) -> Change | None:
    """The zone's rules have changed: another occurrence replaces the one that waits or was claimed."""
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
