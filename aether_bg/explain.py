"""Did it run, and if not, why not? A job's rows in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from aether_bg.errors import InvalidSchedule
from aether_bg.model import JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.schedule import load


def explain(job: JobInfo, runs: Sequence[JobRun], *, now: datetime, known: bool) -> str:
    """`runs`: its history, newest first. `known`: some live process has its handler."""
    lines = [f"{job.job_name!r} ({job.handler_name}, id {job.id}) is {job.status.name}.", _when(job)]
    match job.status:
        case JobStatus.SCHEDULED:
            lines += _waiting(job, now, known)
        case JobStatus.RUNNING:
            lines.append(f"Attempt {job.attempt} has run since {_at(job.started_at)}, claimed by owner {job.owner}.")
        case JobStatus.FAILED:
            lines.append(
                f"It failed for good at {_at(job.handled_time)}: {_first(job.last_error)}. `retry` runs it again."
            )
        case JobStatus.CANCELLED:
            lines.append(f"It was cancelled at {_at(job.handled_time)}. `retry` brings it back.")
        case JobStatus.COMPLETED:
            lines.append(f"It completed at {_at(job.handled_time)}, after {job.occurrences} occurrences.")
    if not any(run.part == 0 for run in runs):
        lines.append("It has never been attempted.")
    lines += [_run(run) for run in runs]
    return "\n".join(lines)


def _when(job: JobInfo) -> str:
    try:
        words = load(job.expression_value, job.timezone).describe()
    except InvalidSchedule:
        words = "a schedule that no plugin here can read"
    return f"Schedule {job.expression_value!r}: {words}."


def _waiting(job: JobInfo, now: datetime, known: bool) -> list[str]:
    due = f"It is due at {_at(job.due_at)}"
    if job.due_at is not None:
        late = (now - job.due_at).total_seconds()
        due += f", {late:.0f} s ago." if late > 0 else f", in {-late:.0f} s."
    lines = [due]
    if job.retry_count:
        lines.append(f"That is retry {job.retry_count}; the last attempt failed: {_first(job.last_error)}.")
    if job.paused and not job.manual:
        lines.append("It is paused: `resume` lets it go on.")
    elif not known:
        lines.append(f"It waits for a process that has the handler {job.handler_name!r}.")
    elif job.due_at is not None and job.due_at < now:
        lines.append("It waits for a free slot, or for the scheduler to call.")
    return lines


_WORDS = {
    RunOutcome.SKIPPED: "skipped: later than the grace allows",
    RunOutcome.COALESCED: "coalesced: one run stands for all that were missed",
    RunOutcome.OVERLAPPED: "not run: they came due while the previous run was still going",
    RunOutcome.RELEASED: "put back by a stop, not counted",
    RunOutcome.SUPERSEDED: "superseded by an update",
}


def _run(run: JobRun) -> str:
    if run.outcome is None:
        return f"- attempt {run.attempt} at {_at(run.occurrence)}: running since {_at(run.started_at)}"
    words = _WORDS.get(run.outcome, run.outcome.replace("_", " "))
    if run.last_occurrence is not None:
        return f"- {run.count} occurrences from {_at(run.occurrence)} to {_at(run.last_occurrence)}: {words}"
    error = f": {_first(run.error)}" if run.error else ""
    return f"- attempt {run.attempt} at {_at(run.occurrence)}: {words} at {_at(run.finished_at)}{error}"


def _at(when: datetime | None) -> str:
    return "an unknown time" if when is None else when.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


def _first(error: str | None) -> str:
    return (error or "no error recorded").strip().splitlines()[0].rstrip(".")
