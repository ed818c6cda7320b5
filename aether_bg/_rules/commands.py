"""The verbs that users call on a job: each makes a change of its row, or refuses (docs/protocol.md, U, N3, R4)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import attrs

from aether_bg._rules.changes import (
    Moment,
    attempt_run,
    change,
    end,
    extra_instant,
    gap_run,
    later,
    note_run,
    refuse,
    spent,
    wait,
)
from aether_bg._rules.recurrence import Gap, Plan, no_occurrence
from aether_bg.errors import InvalidTransition, shown
from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, RunOutcome, Unreadable

_DEFINITION: Final = tuple(field.name for field in attrs.fields(Definition))


def update(
    job: JobInfo, definition: Definition, plan: Plan, before: Plan | None, moment: Moment, *, again: bool = False
) -> Change:
    """Gives the job another schedule, from now (docs/protocol.md, U1). `plan` is the new one; its anchor is now.
    `before` is the old one, None if it cannot be read; a history row closes its overdue occurrences. `again`: a running
    one-shot runs once more."""
    refuse(job, "update", job.status.terminal, "enqueue it again")
    if job.status is JobStatus.RUNNING:
        return change(job, moment, bump=False, definition=definition, trigger_pending=job.trigger_pending or again)
    now = moment.now
    superseded: tuple[JobRun, ...] = ()
    occurrences = job.occurrences
    if job.attempt:
        superseded = (note_run(job, RunOutcome.SUPERSEDED, now),)
        occurrences += not job.off_schedule
    if before is not None and (gap := _overdue(job, before, now)) is not None:
        superseded = (*superseded, gap_run(gap, RunOutcome.SUPERSEDED, now, job.id, job.seq + 1, 2))
    refuse(job, "update", spent(plan, occurrences), "its repeats are used up: enqueue it under another name")
    return wait(
        job,
        plan.first(),
        plan,
        moment,
        superseded,
        definition=definition,
        occurrences=occurrences,
        trigger_pending=False,
    )


def redefine(job: JobInfo, definition: Definition, plan: Plan, moment: Moment) -> Change:
    """Gives the job another definition and the same schedule (docs/protocol.md, U1). What waits still waits, retries
    included."""
    refuse(job, "update", job.status.terminal, "enqueue it again")
    refuse(
        job, "update", spent(plan, job.occurrences),
        f"{job.occurrences} occurrences have ended and repeats={plan.repeats} leaves none: delete it, or raise repeats",
    )  # fmt: skip
    if not job.off_schedule and job.occurrence is not None and plan.until is not None and job.occurrence > plan.until:
        raise no_occurrence(definition.expression_value, plan.until)
    return change(job, moment, bump=False, definition=definition)


def _overdue(job: JobInfo, plan: Plan, now: datetime) -> Gap | None:
    """Occurrences that were due and have not been attempted. A paused job is never overdue."""
    if job.paused:
        return None
    plan, since = plan.grounded(now), job.occurrence
    if job.attempt or job.off_schedule:
        since = plan.following(job.last_occurrence if job.off_schedule else job.occurrence, now)
    return None if since is None or since > now else plan.passed(since, now)


def cancel(job: JobInfo, moment: Moment) -> Change | None:
    """`delete` (docs/protocol.md, U2). None: the job is terminal already. A row that cannot be read releases its name
    too."""
    if job.status.terminal and not (isinstance(job, Unreadable) and job.holds_name):
        return None
    runs = (attempt_run(job, RunOutcome.CANCELLED, moment.now),) if job.status is JobStatus.RUNNING else ()
    return end(job, JobStatus.CANCELLED, moment, runs, holds_name=False)


def pause(job: JobInfo, moment: Moment) -> Change | None:
    refuse(job, "pause", job.status.terminal, "there is nothing to hold back")
    if job.paused:
        return None
    return change(job, moment, bump=job.status is JobStatus.SCHEDULED, paused=True, manual=False)


def resume(job: JobInfo, plan: Plan, moment: Moment) -> Change | None:
    """Overdue one-shots and retries run at once. A recurring job goes on from now, and one skipped row stands for the
    gap (docs/protocol.md, U4)."""
    refuse(job, "resume", job.status.terminal, "use `retry`")
    if not job.paused:
        return None
    now = moment.now
    plan = plan.grounded(now)
    gap = _paused_through(job, plan, now)
    last = job.last_occurrence if gap is None else later(job.last_occurrence, gap.last)
    if job.status is JobStatus.RUNNING or job.off_schedule:  # the regular occurrences that passed as well
        running = job.status is JobStatus.RUNNING
        beside: dict[str, Any] = {"paused": False}
        if gap is not None:
            beside["last_occurrence"] = last
            beside["runs"] = (gap_run(gap, RunOutcome.SKIPPED, now, job.id, job.seq + (not running), 2),)
        return change(job, moment, beside, bump=not running)
    if gap is None:
        due = job.due_at if plan.schedule.recurring or job.due_at is None else max(job.due_at, now)
        return change(job, moment, paused=False, due_at=due)  # a paused job is not late
    run = gap_run(gap, RunOutcome.SKIPPED, now, job.id, job.seq + 1, 1)
    following = plan.after(gap.last)
    if following is None:
        return end(job, JobStatus.COMPLETED, moment, (run,), paused=False, last_occurrence=last)
    return wait(job, following, plan, moment, (run,), paused=False, last_occurrence=last)


def _paused_through(job: JobInfo, plan: Plan, now: datetime) -> Gap | None:
    """The regular occurrences that passed while the job was paused. A waiting retry does not count."""
    if not plan.schedule.recurring or (job.attempt and job.status is JobStatus.SCHEDULED and not job.off_schedule):
        return None
    if job.status is JobStatus.SCHEDULED and not job.off_schedule:
        since = job.occurrence
    else:
        since = plan.following(job.last_occurrence if job.off_schedule else job.occurrence, now)
    return None if since is None else plan.passed(since, now)


def trigger(job: JobInfo, plan: Plan, moment: Moment) -> Change | None:
    """Runs the job now (docs/protocol.md, U3). None: a triggered run is waiting already."""
    now = moment.now
    again = "enqueue it under another name, or purge it first" if job.holds_name else "use `retry`, or enqueue it again"
    refuse(job, "trigger", job.status.terminal, "use `retry`" if job.status is JobStatus.FAILED else again)
    if job.status is JobStatus.RUNNING:
        refuse(job, "trigger", not plan.schedule.recurring, "wait for it to end")
        return None if job.trigger_pending else change(job, moment, bump=False, trigger_pending=True)
    if job.waits_for:
        raise InvalidTransition(
            f"trigger of job {shown(job.job_name)}", f"it runs after other jobs, and {job.waits_for} have not ended",
            "Trigger or delete those; app.explain(job) names them.",
        )  # fmt: skip
    if job.manual:
        return None
    _refuse_expired(job, "trigger", plan, now)
    if job.attempt or job.off_schedule or not plan.schedule.recurring:
        return change(job, moment, manual=True, due_at=now)
    instant = extra_instant(job, plan, now, job.handled_time)
    return change(job, moment, manual=True, off_schedule=True, due_at=now, occurrence=instant)


def retry(job: JobInfo, plan: Plan, moment: Moment) -> Change:
    """The only way back from FAILED and CANCELLED (docs/protocol.md, U5)."""
    now = moment.now
    back = (JobStatus.FAILED, JobStatus.CANCELLED)
    again = "; to run this one again, purge it, or enqueue it under another name" if job.status.terminal else ""
    refuse(job, "retry", job.status not in back, f"only FAILED and CANCELLED jobs can be retried{again}")
    counters = {
        "crash_count": 0, "last_error": None, "holds_name": True, "trigger_pending": False, "rejoins": job.parents > 0,
    }  # fmt: skip
    if not plan.schedule.recurring:
        _refuse_expired(job, "retry", plan, now)
        own = plan.first()
        occurrence = now if own is None else max(own, now)
        return wait(job, occurrence, plan, moment, (), **counters | {"due_at": now})
    following = plan.grounded(now).after(now)
    refuse(job, "retry", following is None or spent(plan, job.occurrences), "its schedule has ended; enqueue it again")
    last = now if job.last_occurrence is None else max(job.last_occurrence, now)  # what has passed by now is over
    return wait(job, following, plan, moment, (), **counters, last_occurrence=last)


def refuse_retry_after(job: JobInfo, parent: JobInfo) -> None:
    """Refuses to retry a child whose parent did not complete: it would be cancelled again (docs/protocol.md, A3)."""
    if job.status.terminal and parent.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise InvalidTransition(
            f"retry of job {shown(job.job_name)}",
            f"it runs after {shown(parent.job_name)} ({parent.id}), which is {parent.status.name}",
            "Retry that one first; this one then waits for it.",
        )  # fmt: skip


def _refuse_expired(job: JobInfo, verb: str, plan: Plan, now: datetime) -> None:
    """Refuses a one-shot whose end has passed: the claim would end it before its first attempt."""
    if (
        plan.until is not None
        and now > plan.until
        and not plan.schedule.recurring
        and (not job.attempt or verb == "retry")
    ):
        raise InvalidTransition(
            f"{verb} of job {shown(job.job_name)}", f"it is {job.status.name}, and its until={plan.until} has passed",
            "Enqueue it with a later one.",
        )  # fmt: skip


def settle(job: JobInfo, status: JobStatus, when: datetime, error: str | None, moment: Moment) -> Change:
    """`update_status` to a terminal state by hand; revokes the token of a running attempt (docs/protocol.md, U6)."""
    refuse(job, f"update_status({status.name})", job.status.terminal or not status.terminal, "use `retry`")
    outcomes = {JobStatus.COMPLETED: RunOutcome.COMPLETED, JobStatus.FAILED: RunOutcome.FAILED}
    running = job.status is JobStatus.RUNNING
    runs = (attempt_run(job, outcomes.get(status, RunOutcome.CANCELLED), moment.now, error),) if running else ()
    cancelled = status is JobStatus.CANCELLED
    return end(
        job,
        status,
        moment,
        runs,
        handled_time=when,
        last_error=error,
        holds_name=job.holds_name and not cancelled and job.unique_for != 0,
    )


def definition_of(job: JobInfo) -> Definition:
    """The part of a row that its author chose."""
    return Definition(**{name: getattr(job, name) for name in _DEFINITION})


def release_name(job: JobInfo, moment: Moment) -> Change:
    """A terminal row gives its name to its replacement (docs/protocol.md, N3)."""
    return change(job, moment, holds_name=False)


def armed(job: JobInfo) -> Change:
    """The scheduler holds this seq durably (docs/protocol.md, D4). Moves the revision, so that a verb that read the row
    earlier does not overwrite this."""
    return change(job, Moment(job.modified_at, job.modified_by), bump=False, armed_seq=job.seq)


def disarmed(job: JobInfo) -> Change:
    """The scheduler no longer holds this seq, although the job waits: it is armed again when its handler is resumed
    (docs/protocol.md, L3)."""
    return change(job, Moment(job.modified_at, job.modified_by), bump=False, armed_seq=-1)
