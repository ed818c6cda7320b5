"""The parts of every transition: the row with some fields replaced, and the history rows that go with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from aether_bg._rules.recurrence import Gap, Plan
from aether_bg.errors import InvalidTransition, shown
from aether_bg.model import Change, JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.model.filled import filled

_JUST: Final = timedelta(microseconds=1)
SHIFTS: Final = 50_000
"""Microseconds, far below the shortest distance between two occurrences."""
MOST_ERROR: Final = 8 * 1024
"""The number of bytes of an error, in UTF-8, that a row keeps."""


def _state_of(job: JobInfo) -> dict[str, Any]:
    """The fields of a `Change` that leaves the row as it is, without next_seq and next_rev."""
    return {
        "job_id": job.id, "seq": job.seq, "schedule_rev": job.schedule_rev, "status": job.status,
        "due_at": job.due_at, "occurrence": job.occurrence, "last_occurrence": job.last_occurrence,
        "occurrences": job.occurrences, "attempt": job.attempt, "retry_count": job.retry_count,
        "crash_count": job.crash_count, "last_error": job.last_error, "handled_time": job.handled_time,
        "paused": job.paused, "manual": job.manual, "off_schedule": job.off_schedule,
        "trigger_pending": job.trigger_pending, "holds_name": job.holds_name, "armed_seq": job.armed_seq,
        "owner": job.owner, "modified_at": job.modified_at, "modified_by": job.modified_by,
        "definition": None, "runs": (), "rejoins": False, "progress": None,
    }  # fmt: skip


class Moment(NamedTuple):
    """When a job is changed, and by whom, for the audit fields."""

    now: datetime
    by: str | None


def change(job: JobInfo, moment: Moment, *parts: dict[str, Any], bump: bool = True, **new: Any) -> Change:
    """The row with `parts` and `new` applied. Moves seq, or else schedule_rev (docs/protocol.md, C1, U1)."""
    state = _state_of(job)
    state.update(next_seq=job.seq + bump, modified_at=moment.now, modified_by=moment.by)
    for part in parts:
        state.update(part)
    state.update(new)
    state["last_error"] = bounded(state["last_error"])
    state["next_rev"] = job.schedule_rev + (not bump or state["definition"] is not None)
    return filled(Change, state)


def wait(
    job: JobInfo, due: datetime | None, plan: Plan, moment: Moment, runs: tuple[JobRun, ...], *parts: dict[str, Any],
    **new: Any,
) -> Change:  # fmt: skip
    """SCHEDULED at a new occurrence, due after its lag. If the clock was set back and this instant has been an
    occurrence before, it is moved by microseconds, so that each one completes once (docs/protocol.md, C6)."""
    lag = timedelta(0) if due is None else plan.lag(due, job.job_name)
    if due is not None and job.last_occurrence is not None and due <= job.last_occurrence:
        due += timedelta(microseconds=1 + (job.seq + 1) % SHIFTS)
    fresh: dict[str, Any] = {
        "status": JobStatus.SCHEDULED, "due_at": None if due is None else due + lag, "occurrence": due, "attempt": 0,
        "retry_count": 0, "manual": False, "off_schedule": False, "owner": None, "runs": runs,
    }  # fmt: skip
    return change(job, moment, fresh, *parts, **new)


def once_more(job: JobInfo, moment: Moment, run: JobRun, **new: Any) -> Change:
    """SCHEDULED, at the same occurrence."""
    same: dict[str, Any] = {"status": JobStatus.SCHEDULED, "owner": None, "handled_time": moment.now, "runs": (run,)}
    return change(job, moment, same, **new)


def end(
    job: JobInfo, status: JobStatus, moment: Moment, runs: tuple[JobRun, ...], *parts: dict[str, Any],
    **new: Any,
) -> Change:  # fmt: skip
    """Terminal. Frees a name that is held only until the job ends (docs/protocol.md, N10)."""
    last: dict[str, Any] = {
        "status": status, "due_at": None, "owner": None, "manual": False, "off_schedule": False,
        "trigger_pending": False, "handled_time": moment.now, "runs": runs,
        "holds_name": job.holds_name and job.unique_for != 0,
    }  # fmt: skip
    return change(job, moment, last, *parts, **new)


def next_occurrence(job: JobInfo, plan: Plan, moment: Moment, run: JobRun, **new: Any) -> Change:
    """The occurrence has ended: go on to the next one, to an extra one requested in the meantime, or to the end."""
    now = moment.now
    plan, last = plan.grounded(now), job.last_occurrence
    count = job.occurrences
    if not job.off_schedule:
        last = job.occurrence if last is None or job.occurrence is None else max(last, job.occurrence)
        count += 1
    new.update(handled_time=now, last_occurrence=last, occurrences=count)
    ended_well = run.outcome in (RunOutcome.COMPLETED, RunOutcome.DUPLICATE)
    following = None if spent(plan, count) else plan.following(last, now, None if job.off_schedule else job.occurrence)
    if following is None and not job.trigger_pending:
        status = JobStatus.COMPLETED if ended_well or job.off_schedule else JobStatus.FAILED
        return end(job, status, moment, (run,), new)
    if job.trigger_pending and not plan.schedule.recurring:  # the handler requested it (docs/protocol.md, N7)
        occurrence = following or extra_instant(job, plan, now, job.occurrence)
        return wait(job, occurrence, plan, moment, (run,), new, trigger_pending=False, due_at=following or now)
    if job.trigger_pending:
        again = {"due_at": now, "manual": True, "off_schedule": True, "trigger_pending": False}
        return wait(job, extra_instant(job, plan, now, job.occurrence), plan, moment, (run,), new, again)
    runs: tuple[JobRun, ...] = (run,)
    if following is not None and following <= now and job.misfire != "all" and plan.schedule.recurring:
        missed = plan.all_but_newest(
            following, now - plan.lag(following, job.job_name)
        )  # what has passed by now, except the newest (docs/protocol.md, C4)
        if missed is not None:
            closed, following = missed
            runs = (run, *_meanwhile(job, plan, closed, now))
            new["last_occurrence"] = later(last, closed.last)
    return wait(job, following, plan, moment, runs, new)


def _meanwhile(job: JobInfo, plan: Plan, closed: Gap, now: datetime) -> list[JobRun]:
    """Occurrences that passed before the attempt began are for the misfire policy; later ones overlapped with it."""
    begun = min((job.started_at or closed.first) - _JUST, closed.last)
    before = plan.passed(closed.first, begun)
    during = closed if before is None else None
    if before is not None and before.last < closed.last and (first := plan.after(before.last)) is not None:
        during = plan.passed(first, closed.last)
    word = RunOutcome.SKIPPED if job.misfire == "skip" else RunOutcome.COALESCED
    parts = [(before, word), (during, RunOutcome.OVERLAPPED)]
    gaps = [(gap, outcome) for gap, outcome in parts if gap is not None]
    return [gap_run(gap, outcome, now, job.id, job.seq, n) for n, (gap, outcome) in enumerate(gaps, 1)]


def later(one: datetime | None, other: datetime) -> datetime:
    """`last_occurrence` only grows, even when the clock is set back (docs/protocol.md, C4)."""
    return other if one is None else max(one, other)


def extra_instant(job: JobInfo, plan: Plan, now: datetime, last: datetime | None) -> datetime:
    """The occurrence of an extra run is its trigger instant. If that is also an instant of the schedule, or the clock
    has not moved, seq makes it unique (docs/protocol.md, C6)."""
    free = (last is None or last < now) and plan.after(now - _JUST) != now
    return now if free else now + timedelta(microseconds=job.seq + 1)


def spent(plan: Plan, occurrences: int) -> bool:
    return plan.repeats is not None and occurrences >= plan.repeats


def attempt_run(job: JobInfo, outcome: RunOutcome, now: datetime, error: str | None = None) -> JobRun:
    """The history row of an attempt that has ended."""
    return JobRun(
        job_id=job.id, token=job.seq, attempt=job.attempt, occurrence=job.occurrence, outcome=outcome,
        started_at=job.started_at, finished_at=now, error=bounded(error), owner=job.owner,
    )  # fmt: skip


def bounded(error: str | None) -> str | None:
    """An error as a row keeps it: at most `MOST_ERROR` bytes, without characters that UTF-8 cannot encode."""
    if error is None or (len(error) <= MOST_ERROR // 4 and error.isascii()):
        return error
    return error[:MOST_ERROR].encode(errors="backslashreplace")[:MOST_ERROR].decode(errors="ignore")


def note_run(job: JobInfo, outcome: RunOutcome, now: datetime, error: str | None = None) -> JobRun:
    """A history row without an attempt, under the seq that the change makes."""
    return JobRun(
        job_id=job.id, token=job.seq + 1, gap=1, attempt=job.attempt, occurrence=job.occurrence, outcome=outcome,
        finished_at=now, error=error or job.last_error,
    )  # fmt: skip


def gap_run(gap: Gap, outcome: RunOutcome, now: datetime, job_id: Any, token: int, number: int) -> JobRun:
    return JobRun(
        job_id=job_id, token=token, gap=number, occurrence=gap.first, last_occurrence=gap.last, count=gap.count,
        outcome=outcome, finished_at=now, error=None if gap.exact else f"at least {gap.count}",
    )  # fmt: skip


def refuse(job: JobInfo, verb: str, wrong: bool, remedy: str) -> None:
    if wrong:
        raise InvalidTransition(
            f"{verb} of job {shown(job.job_name)}", f"it is {job.status.name}", remedy[0].upper() + remedy[1:] + "."
        )
