"""Takes results to the store: commits them together, tries again with the same token, then reports them
(docs/protocol.md, C6, W2 and W4)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.journal import Journal, was_written
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import longer
from aether_bg._rules import transitions
from aether_bg._rules.decisions import text_of
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.results import Completed, Failed, Released, Repeated, Result
from aether_bg._rules.uniqueness import taken
from aether_bg.errors import NameHeld, NotStarted, Stale, StoreError, StoreRefused, StoreTrouble, StoreUnsure, loggable
from aether_bg.explain import first_line
from aether_bg.model import (
    Change,
    Completion,
    Ended,
    JobContext,
    JobInfo,
    JobStatus,
    Missed,
    Progress,
    Purge,
    Raised,
    RunOutcome,
)
from aether_bg.model.job import log_fields

log = logging.getLogger("aether_bg")

LONG: Final = timedelta(seconds=1)
"""An attempt that ends this long after its occurrence may have missed others: the next one is computed in a thread."""
TRIM_EACH: Final = 100
"""Occurrences of a recurring job between two checks of the length of its history."""
_NO_RUN: Final = (RunOutcome.SKIPPED, RunOutcome.COALESCED, RunOutcome.SUPERSEDED)


@attrs.define(eq=False)
class Outcome:
    """What is to be recorded of an attempt, until it is."""

    attempt: Attempt
    job: JobInfo
    result: Result | Change
    plan: Plan | None
    progress: Progress | None = None
    """The last progress, which is written with the outcome."""
    wait: float = 0.0
    unsure: Change | None = None
    """It was handed in, and whether the store has it is unknown."""


@attrs.define(kw_only=True, eq=False)
class Completer:
    _shared: Shared
    _decider: Decider
    _journal: Journal
    _notes: Notes

    def record(self, outcome: Outcome) -> None:
        """Hands it in; the caller does not wait."""
        job, result = outcome.job, outcome.result
        self._shared.slots.recording.add(job.id)
        if isinstance(result, Change):
            return self._hand_in(outcome, result)
        if isinstance(result, Completed) and (written := outcome.attempt.written) is not None:
            return self._was_recorded(outcome, written)
        plan = outcome.plan or self._shared.schedules.plan_or_none(job)
        if plan is None and isinstance(result, Completed):
            result = outcome.result = Released(begun=True)  # its unit of work must not be committed (C8)
        moment = self._shared.clock.moment()
        late = job.occurrence is not None and moment.now - job.occurrence > LONG
        if late and plan is not None and plan.schedule.recurring:
            self._shared.spawn(self._finish_aside, outcome, partial(transitions.finish, job, result, plan, moment))
        else:
            self._hand_in(outcome, transitions.finish(job, result, plan, moment))
        return None

    async def _finish_aside(self, outcome: Outcome, finish: Callable[[], Change]) -> None:
        try:
            change = await self._shared.schedules.aside(finish)
        except Exception as error:  # of a schedule's own code: there is no next occurrence
            self._shared.problems.report(f"schedule of {outcome.attempt}", error, outcome.job)
            change = transitions.abandon(outcome.job, text_of(error), self._shared.clock.moment())
        self._hand_in(outcome, change)

    def _hand_in(self, outcome: Outcome, change: Change) -> None:
        """With a unit of work it is a transaction of its own (docs/protocol.md, C6 and W4)."""
        outcome.progress = self._notes.last(outcome.attempt.context) or outcome.progress
        if outcome.progress is not None:
            change = attrs.evolve(change.whole, progress=outcome.progress)
        unit, finished = outcome.attempt.work, partial(self._finished, outcome, change)
        if unit is None or not isinstance(outcome.result, Completed):
            self._journal.put(change, finished)
        else:
            self._shared.spawn(self._journal.record, change, unit, finished)

    def _finished(self, outcome: Outcome, change: Change, error: BaseException | None) -> None:
        if error is None:
            self._shared.slots.settle(outcome.job)
            self._tell(outcome.attempt, outcome.job, change)
        else:
            self._shared.spawn(self._again, outcome, change, error)

    async def _again(self, outcome: Outcome, change: Change, error: BaseException) -> None:
        """It was not committed: tried with the same token until that is lost or the stop comes (docs/protocol.md, W2,
        U1)."""
        job, attempt = outcome.job, outcome.attempt
        if isinstance(error, Stale) and outcome.unsure is not None and was_written(outcome.unsure, error.current):
            return self._was_recorded(outcome, outcome.unsure)
        if isinstance(error, Stale):
            current = error.current
            if current is None or current.seq != job.seq or current.status is not JobStatus.RUNNING:
                return self._shared.slots.settle(job)  # the token is lost: nothing of this attempt may count
            await self._decide_again(outcome, self._shared.calls.decoded(current))
        elif isinstance(error, NotStarted):
            return self._shared.slots.settle(job)  # the store is closed: the next start puts it back
        elif isinstance(error, StoreTrouble):
            self._shared.problems.report("recording outcomes", error)
            if isinstance(error, StoreUnsure):
                outcome.unsure = change
            if self._shared.identity.stopping:
                return self._shared.slots.settle(job)  # the stop, or else the next start, puts it back
            outcome.wait = longer(outcome.wait, self._shared.timings.backoff)
            await anyio.sleep(outcome.wait)
        elif isinstance(error, StoreRefused) and await self._completed_before(outcome):
            self._shared.problems.report(f"outcome of {attempt}", error, job)
            attempt.work = None  # the other attempt's writes stand (docs/protocol.md, C6)
            outcome.result = Repeated(error=text_of(error))
        elif attempt.work is not None and attempt.handler is not None:
            # an error in the unit's own SQL is a failure of the handler (docs/protocol.md, W8)
            if isinstance(error, NameHeld):
                error = taken(self._shared.calls.decoded(error.current))
            attempt.work, attempt.error = None, error
            outcome.result = self._decider.after(attempt, Raised(error))
        else:
            self._shared.problems.report(f"outcome of {attempt}", error, job)
            if isinstance(outcome.result, Failed):
                return self._shared.slots.settle(job)
            outcome.result = Failed(error=text_of(error))
        return self.record(outcome)

    async def _decide_again(self, outcome: Outcome, job: JobInfo) -> None:
        """The row was changed while the attempt ran."""
        outcome.job, outcome.plan = job, None
        if isinstance(outcome.result, Change):
            fresh = Attempt(job, JobContext(job))
            outcome.result = await self._decider.judge(fresh, self._shared.schedules.plan_or_none(job)) or Released(
                begun=False
            )

    def _was_recorded(self, outcome: Outcome, change: Change) -> None:
        """The answer to its commit was lost, but not the commit."""
        self._journal.announce(change)
        self._shared.slots.settle(outcome.job)
        self._tell(outcome.attempt, outcome.job, change)
        if (unit := outcome.attempt.work) is not None:
            self._journal.announce_jobs(unit.jobs)

    async def _completed_before(self, outcome: Outcome) -> bool:
        job = outcome.job
        if not isinstance(outcome.result, Completed):
            return False
        try:
            runs = await self._shared.calls.history(job.id, 1000)
        except (StoreError, NotStarted) as error:
            self._shared.problems.report("history", error)
            return False
        return any(run.outcome is RunOutcome.COMPLETED and run.occurrence == job.occurrence for run in runs)

    def _tell(self, attempt: Attempt, job: JobInfo, change: Change) -> None:
        """Tells the log and the observers."""
        if type(change) is Completion and not self._shared.observers.present:
            return
        if change.occurrences and change.occurrences % TRIM_EACH == 0 and not change.status.terminal:
            self._shared.spawn(self._trim, change.job_id)
        for run in change.runs:
            if run.outcome in (RunOutcome.FAILED, RunOutcome.TIMED_OUT):
                again = change.status is JobStatus.SCHEDULED and change.retry_count > 0
                log.log(
                    logging.WARNING if again else logging.ERROR, "%s: attempt %d failed, %s: %s", attempt, run.attempt,
                    "it is tried again" if again else "that was the last try", first_line(run.error),
                    exc_info=None if again else loggable(attempt.error), extra=log_fields(job),
                )  # fmt: skip
            if self._shared.observers.present:
                ended = run.gap == 0 and run.outcome not in _NO_RUN
                event = Ended(attempt.context, run, change.status, change.due_at) if ended else Missed(job, run)
                self._shared.observers.emit(event)

    async def _trim(self, job_id: UUID) -> None:
        """A recurring job keeps its last 1,000 history rows (docs/protocol.md, N5)."""
        try:
            await self._shared.calls.purge(Purge(job_id=job_id))
        except (StoreError, NotStarted) as error:
            self._shared.problems.report("history", error)
