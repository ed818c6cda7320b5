"""The rows of one job in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Final

import attrs

from aether_bg.errors import InvalidSchedule, shown
from aether_bg.explain._facts import OVERDUE, Around, Waiting, late, waiting
from aether_bg.explain._words import distance, first_line, moment, plain, span
from aether_bg.model import JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.schedule import Schedule, load

_MOST_NAMES: Final = 6
_WORDS: Final = {
    RunOutcome.TIMED_OUT: "timed out",
    RunOutcome.SKIPPED: "skipped, later than the grace allows or due during a pause",
    RunOutcome.COALESCED: "coalesced, one run stands for all that were missed",
    RunOutcome.OVERLAPPED: "not run, due while the previous run was still going",
    RunOutcome.RELEASED: "put back by a stop, not counted",
    RunOutcome.SUPERSEDED: "superseded by an update",
}


@attrs.frozen
class Story:
    job: JobInfo
    runs: Sequence[JobRun]
    now: datetime
    around: Around
    schedule: Schedule | None
    zone: tzinfo

    def lines(self) -> list[str]:
        job = self.job
        told = [
            f"{shown(job.job_name)} ({plain(job.handler_name)}, id {job.id}) is {job.status.name}"
            f"{' and paused' if job.paused and not job.status.terminal else ''}.",
            self._schedule(),
        ]
        match job.status:
            case JobStatus.SCHEDULED:
                told += [f"Its priority is {job.priority}."] if job.priority else []
                told += [*self._due(), *self._past(), *self._waiting(), *self._misfire()]
            case JobStatus.RUNNING:
                told += self._running()
            case _:
                told += self._ended()
        started = any(run.started_at for run in self.runs)
        if not started and not (job.attempt or job.occurrences or job.crash_count):
            told.append("It has never been attempted.")
        return told + [self._run(run) for run in self.runs]

    def _schedule(self) -> str:
        job = self.job
        try:
            words = (self.schedule or load(job.expression_value, job.timezone)).describe()
        except InvalidSchedule:
            words = "a schedule that no plugin here can read"
        bounds = [f"not before {self._at(job.start)}"] if job.start else []
        bounds += [f"until {self._at(job.until)}"] if job.until else []
        if job.jitter:
            bounds.append(f"spread over {span(job.jitter)} by its jitter")
        if job.repeats is not None:
            bounds.append(f"{job.occurrences} of at most {job.repeats} occurrences done")
        return f"Schedule {shown(job.expression_value)}: {plain(', '.join([words, *bounds]))}."

    # -- SCHEDULED -------------------------------------------------------------------------------

    def _due(self) -> list[str]:
        job = self.job
        if job.due_at is None:
            return ["It has no due instant, though it is SCHEDULED: the row is damaged."]
        passed = late(job, self.now)
        if job.waits_for and passed >= 0:
            return []
        if job.held:
            verb = "It would be" if passed <= 0 else "It would have been"
        else:
            verb = "It is" if passed <= 0 else "It was"
        told = [f"{verb} due at {self._at(job.due_at)}, {distance(passed)}."]
        if job.jitter and job.occurrence is not None and not (job.attempt or job.off_schedule):
            lag = span((job.due_at - job.occurrence).total_seconds())
            told.append(f"That is {lag} after its occurrence, {self._at(job.occurrence)}: its jitter.")
        if job.manual:
            told.append(
                "It was triggered: it runs as soon as it can"
                + (", though paused." if job.paused or job.handler_paused else ".")
            )
        return told

    def _past(self) -> list[str]:
        """How the last attempt ended."""
        job = self.job
        last = next((run for run in self.runs if run.started_at and run.outcome), None)
        if job.attempt and last is not None:
            when = self._at(last.finished_at)
            match last.outcome:
                case RunOutcome.SNOOZED:
                    return [f"Attempt {last.attempt} asked at {when} to be called again then; that costs no retry."]
                case RunOutcome.RELEASED:
                    return [f"Its last attempt was put back by a stop at {when}; that is not counted."]
                case RunOutcome.CRASHED:
                    return [f"Its process died in attempt {last.attempt} (crash {job.crash_count}): it runs again."]
        if job.retry_count:
            return [f"That is retry {job.retry_count}; the last attempt failed: {first_line(job.last_error)}."]
        if job.last_error:
            return [f"Its last occurrence failed: {first_line(job.last_error)}."]
        return []

    def _waiting(self) -> list[str]:
        job, around = self.job, self.around
        match waiting(job, self.now, around):
            case Waiting.PARENTS:
                told = [self._parents()]
                return [*told, "It is paused as well: it also waits for `resume`."] if job.held else told
            case Waiting.RESUME if job.handler_paused:
                also = ", and so is the job" if job.paused else ""
                return [
                    f"The handler {shown(job.handler_name)} is paused{also}: `resume` lets it go on, "
                    "`trigger` runs this job once."
                ]
            case Waiting.RESUME:
                return ["It is paused: `resume` lets it go on, `trigger` runs it once."]
            case Waiting.TIME | Waiting.RETRY as what:
                told = ["It waits for its next try." if what is Waiting.RETRY else "It waits for that instant."]
                if around.owners is not None and not around.owners:
                    told.append("No live process runs jobs on this store now: start the app by then.")
                elif around.handlers is not None and job.handler_name not in around.handlers:
                    told.append(f"No live process has the handler {shown(job.handler_name)} now.")
                elif around.arms and job.armed_seq != job.seq:
                    told.append(f"The scheduler does not hold it yet{self._trouble()}.")
                return told
            case Waiting.OWNER:
                return ["No live process runs jobs on this store: it waits for the app to be started."]
            case Waiting.HANDLER:
                return [
                    f"It waits for a process that has the handler {shown(job.handler_name)}: {self._have()}. "
                    f"It has waited since {self._at(job.due_at)}."
                ]
            case Waiting.SCHEDULE:
                return [
                    f"It waits for a process that can read its schedule {shown(job.expression_value)}, "
                    f"which this one cannot. It has waited since {self._at(job.due_at)}."
                ]
            case Waiting.LIMIT:
                runs = f"{around.running} of {around.limit} run"
                return [f"It waits for its turn: of the handler {shown(job.handler_name)} {runs}, over all processes."]
            case Waiting.SLOT:
                return ["It waits for a free slot: all of this process's are taken."]
            case Waiting.SCHEDULER:
                armed = around.arms and job.armed_seq != job.seq
                does = "does not hold it yet" if armed else "has not called"
                return [f"It waits for the scheduler, which {does}{self._trouble()}; `health` tells more."]
            case Waiting.CLAIM if late(job, self.now) > OVERDUE:
                return [
                    "It is overdue: the slots of every process that has its handler are taken, or the scheduler "
                    "does not call." + ("" if around.owners is not None else " Or no process with its handler lives.")
                ]
            case Waiting.CLAIM:
                told = ["It is about to be claimed."] if around.owners is not None else ["It waits to be claimed."]
                if job.crash_count > 1:
                    told.append("It crashed more than once, so it runs alone among the jobs of its handler that did.")
                return told
        return []

    def _parents(self) -> str:
        """The jobs that have not ended, running ones first."""
        job = self.job
        left = sorted((each for each in self.around.parents if not each.status.terminal), key=lambda each: -each.status)
        names = ", ".join(f"{shown(each.job_name)} ({each.status.name})" for each in left[:_MOST_NAMES])
        names += f" and {len(left) - _MOST_NAMES} more" if len(left) > _MOST_NAMES else ""
        count = f"{job.waits_for} of {job.parents} jobs" if job.parents > 1 else "1 job"
        until = "to end" if job.after_any else "to complete"
        return f"It waits for {count} {until}{': ' if names else ''}{names}."

    def _misfire(self) -> list[str]:
        """What its next claim will do about the delay (docs/protocol.md, R2)."""
        job = self.job
        passed = late(job, self.now)
        if job.attempt or job.off_schedule or job.held or job.waits_for:
            return []
        if not self._recurring():
            ended = job.until is not None and self.now > job.until
            if ended or (job.misfire == "skip" and late(job, self.now) > job.misfire_grace):
                return ["It has expired: its next claim cancels it."]
            return []
        if passed <= job.misfire_grace:
            return []
        will = {
            "once": "one run will stand for all that were missed",
            "skip": "what was missed will be skipped",
            "all": "every missed occurrence will be run, oldest first",
        }
        return [
            f"It is later than its grace of {job.misfire_grace:g} s: {will[job.misfire]} (misfire={job.misfire!r})."
        ]

    def _recurring(self) -> bool:
        try:
            return (self.schedule or load(self.job.expression_value, self.job.timezone)).recurring
        except InvalidSchedule:
            return False

    def _have(self) -> str:
        owners, handlers = self.around.owners or {}, sorted(self.around.handlers or ())
        names = ", ".join(plain(name) for name in handlers[:_MOST_NAMES])
        names += f" and {len(handlers) - _MOST_NAMES} more" if len(handlers) > _MOST_NAMES else ""
        live = "the one live process has" if len(owners) == 1 else f"the {len(owners)} live processes have"
        return f"{live} {names or 'none'}"

    def _trouble(self) -> str:
        return f" ({first_line(self.around.trouble)})" if self.around.trouble else ""

    # -- RUNNING and ended -----------------------------------------------------------------------

    def _running(self) -> list[str]:
        job, around = self.job, self.around
        since = span((self.now - job.started_at).total_seconds()) if job.started_at else "an unknown time"
        told = [
            f"Attempt {job.attempt} has run for {since}, since {self._at(job.started_at)}, for the occurrence of "
            f"{self._at(job.occurrence)}, claimed by {self._owner()}."
        ]
        if job.retry_count:
            told.append(f"That is retry {job.retry_count}; the attempt before failed: {first_line(job.last_error)}.")
        lost = None if job.owner is None else around.gone.get(job.owner)
        if lost is None and around.owners is not None and job.owner not in around.owners:
            lost = "is gone"
        if lost is not None:
            taker = "another live process" if around.owners else "the next process that starts"
            told.append(f"That process {lost}: {taker} takes the job back and runs it again.")
        if job.paused:
            told.append("It was paused meanwhile: this attempt ends normally, and nothing follows before `resume`.")
        if job.trigger_pending:
            told.append("It was triggered meanwhile: it runs once more afterwards.")
        return told

    def _owner(self) -> str:
        owner = self.job.owner
        if owner is None:
            return "no process: the row is damaged"
        if owner == self.around.here:
            return f"this process (owner {owner})"
        name = (self.around.owners or {}).get(owner)
        return f"owner {owner}" + (f" ({plain(name)})" if name else "")

    def _ended(self) -> list[str]:
        job, when = self.job, self._at(self.job.handled_time)
        match job.status:
            case JobStatus.FAILED:
                tries = f" after {job.attempt} attempts" if job.attempt > 1 else ""
                tries += f" and {job.crash_count} crashes" if job.crash_count else ""
                return [f"It failed for good at {when}{tries}: {first_line(job.last_error)}. `retry` runs it again."]
            case JobStatus.CANCELLED if job.last_error == "expired":
                ended = job.until is not None and job.handled_time is not None and job.until < job.handled_time
                if ended:
                    remedy = 'Enqueue it with a later one, under another name or with if_exists="replace".'
                    return [f"It expired: at {when}, when it could have begun, its `until` had passed. {remedy}"]
                grace = f'its grace of {job.misfire_grace:g} s allows (misfire="skip")'
                return [f"It expired: at {when} it was later than {grace}. `retry` runs it now."]
            case JobStatus.CANCELLED if job.parents and job.last_error:
                return [
                    f"It was cancelled at {when}: {first_line(job.last_error)}. Retry that job first, then this one."
                ]
            case JobStatus.CANCELLED:
                by = f" by {plain(job.modified_by)}" if job.modified_by else ""
                name = "" if job.holds_name else "; its name is free"
                why = f": {job.last_error}" if job.last_error == "its declaration is gone from the code" else ""
                return [f"It was cancelled at {when}{by}{why}{name}. `retry` brings it back."]
        count = "" if job.occurrences == 1 else f", after {job.occurrences} occurrences"
        return [f"It completed at {when}{count}."]

    # -- history ---------------------------------------------------------------------------------

    def _run(self, run: JobRun) -> str:
        if run.outcome is None:
            return f"- attempt {run.attempt} of {self._at(run.occurrence)}: running since {self._at(run.started_at)}"
        words = _WORDS.get(run.outcome, run.outcome.replace("_", " "))
        words = "skipped" if run.error == "expired" else words
        error = f": {first_line(run.error)}" if run.error else ""
        if run.started_at is None:
            which = f"the occurrence of {self._at(run.occurrence)}"
            if run.outcome is RunOutcome.SUPERSEDED and run.attempt:
                which = f"the retry after attempt {run.attempt} of {self._at(run.occurrence)}"
            elif run.count > 1 and run.last_occurrence is not None:
                which = f"{run.count} occurrences from {self._at(run.occurrence)} to {self._at(run.last_occurrence)}"
            return f"- {which}: {words}{error}"
        length = (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0
        took = f" after {span(length)}" if length >= 0.01 else ""
        ended = f"{words} at {self._at(run.finished_at)}{took}{error}"
        return f"- attempt {run.attempt} of {self._at(run.occurrence)}: {ended}"

    def _at(self, when: datetime | None) -> str:
        return moment(when, self.zone)
