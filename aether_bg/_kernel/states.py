"""What may happen to a job: every move between states as a pure function from a row to a `Change`.

No I/O, no clock, no hooks: who calls decides when and commits the result. DESIGN section 3, PROTOCOL C, R and U.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, assert_never

import attrs

from aether_bg._kernel.occurrences import KEPT, Gap, Plan
from aether_bg.errors import InvalidTransition, shown
from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, RunOutcome

LEAST_CRASHES: Final = 5
"""Crashes that end an occurrence, even with fewer retries (PROTOCOL R3)."""
_JUST: Final = timedelta(microseconds=1)
_STATE: Final = tuple(
    name
    for name in (field.name for field in attrs.fields(Change))
    if name in attrs.fields_dict(JobInfo) and name not in ("seq", "schedule_rev", "modified_at", "modified_by")
)

_state_of: Callable[[JobInfo], dict[str, Any]] = eval(
    f"lambda job: {{{', '.join(f'{name!r}: job.{name}' for name in _STATE)}}}"
)

# -- how an attempt ended -------------------------------------------------------------------------


@attrs.frozen
class Completed:
    """It returned. `error`: what went wrong afterwards, while its scope was closed."""

    error: str | None = None


@attrs.frozen
class Failed:
    """It did not. `retry_at` None: no further attempt at this occurrence."""

    error: str
    outcome: RunOutcome = RunOutcome.FAILED
    retry_at: datetime | None = None


@attrs.frozen
class Snoozed:
    """It asked to be called again at `until`."""

    until: datetime


@attrs.frozen
class Released:
    """It was interrupted by the stop, or never begun (`begun` False). Not counted."""

    begun: bool


@attrs.frozen
class Lost:
    """Its process died. `retry_at`: when to run again while crashes are below their cap."""

    error: str
    retry_at: datetime
    cap: int


Ending: TypeAlias = Completed | Failed | Snoozed | Released | Lost


def finish(job: JobInfo, ending: Ending, plan: Plan, now: datetime, by: str | None) -> Change:
    """The outcome of the attempt that `job` (RUNNING, as claimed or as read again) is at."""
    match ending:
        case Completed(error):
            run = _attempt(job, RunOutcome.COMPLETED, now, error)
            return _next_occurrence(job, plan, now, by, run, last_error=None, crash_count=0)
        case Failed(error, outcome, retry_at):
            run = _attempt(job, outcome, now, error)
            if retry_at is not None:
                again = {"due_at": retry_at, "retry_count": job.retry_count + 1, "last_error": error}
                return _again(job, now, by, run, **again)
            return _next_occurrence(job, plan, now, by, run, last_error=error)
        case Snoozed(until):
            return _again(job, now, by, _attempt(job, RunOutcome.SNOOZED, now), due_at=until)
        case Released(begun):
            run = _attempt(job, RunOutcome.RELEASED, now)
            return _again(job, now, by, run, attempt=job.attempt - (not begun))
        case Lost(error, retry_at, cap):
            run = _attempt(job, RunOutcome.CRASHED, now, error)
            crashes = job.crash_count + 1
            lost = {"crash_count": crashes, "last_error": error}
            if crashes >= 2 * cap or (crashes >= cap and not plan.schedule.recurring):
                return _end(job, JobStatus.FAILED, now, by, (run,), **lost)
            if crashes >= cap:
                return _next_occurrence(job, plan, now, by, run, **lost)
            return _again(job, now, by, run, due_at=retry_at, **lost)
        case _:
            assert_never(ending)


def abandon(job: JobInfo, error: str, now: datetime, by: str | None) -> Change:
    """FAILED, even if recurring: its handler or its schedule cannot be had here, and nothing will change that."""
    return _end(job, JobStatus.FAILED, now, by, (_attempt(job, RunOutcome.FAILED, now, error),), last_error=error)


def misfired(job: JobInfo, plan: Plan, now: datetime, by: str | None) -> Change | None:
    """Judge a claim (PROTOCOL R2). None: run it. Else the change that closes what was missed and moves on.

    It keeps one occurrence to run: the newest (`once`), the oldest of the newest 1,000 (`all`), the first that is
    not late (`skip`).
    """
    due, grace = job.occurrence, timedelta(seconds=job.misfire_grace)
    first_try = job.attempt == 1 and not job.extra and due is not None and plan.schedule.recurring
    if due is None or not first_try or now - due <= grace:
        return None
    if job.misfire == "all" and plan.few(due, now):
        return None
    gap = plan.passed(due, now - grace if job.misfire == "skip" else now)
    if gap is None:
        return None
    if job.misfire == "skip":
        kept, outcome, closed = plan.after(gap.last), RunOutcome.SKIPPED, gap
    elif job.misfire == "once":
        if gap.count == 1:
            return None
        kept, outcome = gap.kept[-1], RunOutcome.COALESCED
        closed = Gap(first=due, last=gap.kept[-2], count=gap.count - 1, kept=gap.kept)
    else:
        if len(gap.kept) <= KEPT:
            return None
        kept, outcome = gap.kept[1], RunOutcome.SKIPPED
        closed = Gap(first=due, last=gap.kept[0], count=gap.count - KEPT, kept=gap.kept)
    run = _gap(closed, outcome, now, job.id, job.seq, 0)
    if kept is None:
        return _end(job, JobStatus.COMPLETED, now, by, (run,), last_occurrence=closed.last)
    return _wait(job, kept, now, by, (run,), last_occurrence=closed.last)


# -- verbs -----------------------------------------------------------------------------------------


def update(job: JobInfo, definition: Definition, plan: Plan, now: datetime, by: str | None) -> Change:
    """Another definition (PROTOCOL U1). `plan` is the new one; its anchor is now."""
    _refuse(job, "update", job.status.terminal, "enqueue it anew")
    if job.status is JobStatus.RUNNING:
        return _change(job, now, by, bump=False, definition=definition)
    superseded: tuple[JobRun, ...] = ()
    occurrences = job.occurrences
    if job.attempt:
        superseded = (_note(job, RunOutcome.SUPERSEDED, now),)
        occurrences += not job.extra
    _refuse(job, "update", _spent(plan, occurrences), "its repeats are used up: let it end, or enqueue it anew")
    return _wait(
        job, plan.first(), now, by, superseded, definition=definition, occurrences=occurrences, run_again=False
    )


def cancel(job: JobInfo, now: datetime, by: str | None) -> Change | None:
    """`delete` (PROTOCOL U2). None: it is terminal already."""
    if job.status.terminal:
        return None
    runs = (_attempt(job, RunOutcome.CANCELLED, now),) if job.status is JobStatus.RUNNING else ()
    return _end(job, JobStatus.CANCELLED, now, by, runs, holds_name=False)


def pause(job: JobInfo, now: datetime, by: str | None) -> Change | None:
    _refuse(job, "pause", job.status.terminal, "there is nothing to hold back")
    if job.paused:
        return None
    return _change(job, now, by, bump=job.status is JobStatus.SCHEDULED, paused=True, manual=False)


def resume(job: JobInfo, plan: Plan, now: datetime, by: str | None) -> Change | None:
    """Overdue one-shots and retries at once; a recurring job from now, the gap one skipped row (PROTOCOL U4)."""
    _refuse(job, "resume", job.status.terminal, "use `retry`")
    if not job.paused:
        return None
    gap = _paused_through(job, plan, now)
    if job.status is JobStatus.RUNNING or job.extra:  # the regular ones that passed beside it
        running = job.status is JobStatus.RUNNING
        beside: dict[str, Any] = {"paused": False}
        if gap is not None:
            beside["last_occurrence"] = gap.last
            beside["runs"] = (_gap(gap, RunOutcome.SKIPPED, now, job.id, job.seq + (not running), 2),)
        return _change(job, now, by, beside, bump=not running)
    if gap is None:
        return _change(job, now, by, paused=False)
    run = _gap(gap, RunOutcome.SKIPPED, now, job.id, job.seq + 1, 1)
    following = plan.after(gap.last)
    if following is None:
        return _end(job, JobStatus.COMPLETED, now, by, (run,), paused=False, last_occurrence=gap.last)
    return _wait(job, following, now, by, (run,), paused=False, last_occurrence=gap.last)


def _paused_through(job: JobInfo, plan: Plan, now: datetime) -> Gap | None:
    """The regular occurrences that passed while it was paused; a retry that waits is none of them."""
    if not plan.schedule.recurring or (job.attempt and job.status is JobStatus.SCHEDULED and not job.extra):
        return None
    if job.status is JobStatus.SCHEDULED and not job.extra:
        since = job.occurrence
    else:
        since = plan.after(job.last_occurrence if job.extra else job.occurrence)
    return None if since is None else plan.passed(since, now)


def trigger(job: JobInfo, plan: Plan, now: datetime, by: str | None) -> Change | None:
    """Run now (PROTOCOL U3). None: a triggered run is waiting already."""
    _refuse(job, "trigger", job.status.terminal, "use `retry`, or enqueue it anew")
    if job.status is JobStatus.RUNNING:
        _refuse(job, "trigger", not plan.schedule.recurring, "wait for it to end")
        return None if job.run_again else _change(job, now, by, bump=False, run_again=True)
    if job.manual:
        return None
    if job.attempt or job.extra or not plan.schedule.recurring:
        return _change(job, now, by, manual=True, due_at=now)
    instant = _instant(job, plan, now, job.handled_time)
    return _change(job, now, by, manual=True, extra=True, due_at=now, occurrence=instant)


def retry(job: JobInfo, plan: Plan, now: datetime, by: str | None) -> Change:
    """The one way back from FAILED and CANCELLED (PROTOCOL U5)."""
    back = (JobStatus.FAILED, JobStatus.CANCELLED)
    _refuse(job, "retry", job.status not in back, "only FAILED and CANCELLED jobs can be retried")
    counters = {"crash_count": 0, "last_error": None, "holds_name": True, "run_again": False}
    if not plan.schedule.recurring:
        own = plan.first()
        occurrence = now if own is None else max(own, now)
        return _wait(job, occurrence, now, by, (), **counters | {"due_at": now})
    following = plan.after(now)
    _refuse(job, "retry", following is None or _spent(plan, job.occurrences), "its schedule has ended; enqueue it anew")
    last = now if job.last_occurrence is None else max(job.last_occurrence, now)  # what passed meanwhile is over
    return _wait(job, following, now, by, (), **counters, last_occurrence=last)


def settle(job: JobInfo, status: JobStatus, when: datetime, error: str | None, now: datetime, by: str | None) -> Change:
    """`update_status` to a terminal state by hand; revokes a running attempt's token (PROTOCOL U6)."""
    _refuse(job, f"update_status({status.name})", job.status.terminal or not status.terminal, "use `retry`")
    outcomes = {JobStatus.COMPLETED: RunOutcome.COMPLETED, JobStatus.FAILED: RunOutcome.FAILED}
    running = job.status is JobStatus.RUNNING
    runs = (_attempt(job, outcomes.get(status, RunOutcome.CANCELLED), now, error),) if running else ()
    cancelled = status is JobStatus.CANCELLED
    return _end(
        job, status, now, by, runs, handled_time=when, last_error=error, holds_name=job.holds_name and not cancelled
    )


def hasten(job: JobInfo, now: datetime) -> Change | None:
    """The wall clock went back while it waits: it waits from now no longer than was meant (PROTOCOL R4)."""
    if job.handled_time is None or job.due_at is None or job.handled_time <= now:
        return None
    due = now + max(job.due_at - job.handled_time, timedelta(0))
    return _change(job, now, job.modified_by, due_at=due, handled_time=now)


def release_name(job: JobInfo, now: datetime, by: str | None) -> Change:
    """A terminal row gives its name up to its replacement (PROTOCOL N3)."""
    return _change(job, now, by, holds_name=False)


def armed(job: JobInfo) -> Change:
    """The scheduler holds this seq durably (PROTOCOL D4)."""
    return _change(job, job.modified_at, job.modified_by, bump=False, rev=False, armed_seq=job.seq)


# -- the parts -------------------------------------------------------------------------------------


def _change(
    job: JobInfo, now: datetime, by: str | None, *parts: dict[str, Any], bump: bool = True, rev: bool = True, **new: Any
) -> Change:
    """The row as it is, but for `parts` and `new`. Moves seq, or else schedule_rev (PROTOCOL C1, U1)."""
    state = _state_of(job)
    for part in parts:
        state.update(part)
    state.update(new)
    return Change(
        job_id=job.id,
        seq=job.seq,
        schedule_rev=job.schedule_rev,
        next_seq=job.seq + bump,
        next_rev=job.schedule_rev + (rev and (not bump or "definition" in state)),
        modified_at=now,
        modified_by=by,
        **state,
    )


def _wait(
    job: JobInfo, due: datetime | None, now: datetime, by: str | None, runs: tuple[JobRun, ...], **new: Any
) -> Change:
    """SCHEDULED at a fresh occurrence."""
    fresh: dict[str, Any] = {
        "status": JobStatus.SCHEDULED, "due_at": due, "occurrence": due, "attempt": 0, "retry_count": 0,
        "manual": False, "extra": False, "owner": None, "runs": runs,
    }  # fmt: skip
    return _change(job, now, by, fresh, new)


def _again(job: JobInfo, now: datetime, by: str | None, run: JobRun, **new: Any) -> Change:
    """SCHEDULED, the same occurrence."""
    return _change(
        job, now, by, {"status": JobStatus.SCHEDULED, "owner": None, "handled_time": now, "runs": (run,)}, new
    )


def _end(
    job: JobInfo, status: JobStatus, now: datetime, by: str | None, runs: tuple[JobRun, ...], **new: Any
) -> Change:
    """Terminal."""
    last: dict[str, Any] = {
        "status": status, "due_at": None, "owner": None, "manual": False, "extra": False, "run_again": False,
        "handled_time": now, "runs": runs,
    }  # fmt: skip
    return _change(job, now, by, last, new)


def _next_occurrence(job: JobInfo, plan: Plan, now: datetime, by: str | None, run: JobRun, **new: Any) -> Change:
    """The occurrence has ended: on to the next one, to the extra one asked for meanwhile, or to the end."""
    new["handled_time"] = now
    last = job.last_occurrence
    count = job.occurrences
    if not job.extra:
        last = job.occurrence if last is None or job.occurrence is None else max(last, job.occurrence)
        count += 1
    new |= {"last_occurrence": last, "occurrences": count}
    ended_well = run.outcome is RunOutcome.COMPLETED
    following = None if _spent(plan, count) else plan.after(last)
    if following is None and not job.run_again:
        status = JobStatus.COMPLETED if ended_well or job.extra else JobStatus.FAILED
        return _end(job, status, now, by, (run,), **new)
    if job.run_again:
        again = {"due_at": now, "manual": True, "extra": True, "run_again": False}
        return _wait(job, _instant(job, plan, now, job.occurrence), now, by, (run,), **new | again)
    runs: tuple[JobRun, ...] = (run,)
    if following is not None and following <= now and job.misfire != "all" and plan.schedule.recurring:
        gap = plan.passed(following, now)  # what passed during the run, but for the newest (PROTOCOL C4)
        if gap is not None and gap.count > 1:
            following = gap.kept[-1]
            closed = Gap(first=gap.first, last=gap.kept[-2], count=gap.count - 1, kept=gap.kept)
            runs = (run, _gap(closed, RunOutcome.OVERLAPPED, now, job.id, job.seq, 1))
            new["last_occurrence"] = closed.last
    return _wait(job, following, now, by, runs, **new)


def _instant(job: JobInfo, plan: Plan, now: datetime, last: datetime | None) -> datetime:
    """The occurrence of an extra run is its trigger instant. Where that is one of the schedule's, or the clock stands
    still, seq makes it unique (PROTOCOL C6)."""
    free = (last is None or last < now) and plan.after(now - _JUST) != now
    return now if free else now + timedelta(microseconds=job.seq + 1)


def _spent(plan: Plan, occurrences: int) -> bool:
    return plan.repeats is not None and occurrences >= plan.repeats


def _attempt(job: JobInfo, outcome: RunOutcome, now: datetime, error: str | None = None) -> JobRun:
    """The attempt's history row, ended."""
    return JobRun(
        job_id=job.id, token=job.seq, attempt=job.attempt, occurrence=job.occurrence, outcome=outcome,
        started_at=job.started_at, finished_at=now, error=error, owner=job.owner,
    )  # fmt: skip


def _note(job: JobInfo, outcome: RunOutcome, now: datetime) -> JobRun:
    """A history row without an attempt, under the seq that the change makes."""
    return JobRun(
        job_id=job.id, token=job.seq + 1, part=1, attempt=job.attempt, occurrence=job.occurrence, outcome=outcome,
        finished_at=now, error=job.last_error,
    )  # fmt: skip


def _gap(gap: Gap, outcome: RunOutcome, now: datetime, job_id: Any, token: int, part: int) -> JobRun:
    return JobRun(
        job_id=job_id, token=token, part=part, occurrence=gap.first, last_occurrence=gap.last, count=gap.count,
        outcome=outcome, finished_at=now,
    )  # fmt: skip


def _refuse(job: JobInfo, verb: str, wrong: bool, remedy: str) -> None:
    if wrong:
        raise InvalidTransition(
            f"{verb} of job {shown(job.job_name)}", f"it is {job.status.name}", remedy[0].upper() + remedy[1:] + "."
        )
