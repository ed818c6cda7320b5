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
from aether_bg._kernel.batcher import Finished
from aether_bg._kernel.commits import was_written
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.journal import Journal
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import longer
from aether_bg._rules import transitions
from aether_bg._rules.decisions import text_of
from aether_bg._rules.results import Completed, Failed, Released, Repeated, Result
from aether_bg._rules.uniqueness import taken
from aether_bg.errors import NameHeld, NotStarted, Stale, StoreRefused, StoreTrouble, StoreUnsure, loggable
from aether_bg.explain import first_line
from aether_bg.model import (
    Change,
    Completion,
    Ended,
    JobInfo,
    JobRun,
    JobStatus,
    Missed,
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


@attrs.define(kw_only=True, eq=False)
class Completer:
    _shared: Shared
    _decider: Decider
    _journal: Journal
    _notes: Notes
    _told: Finished[Attempt] = attrs.field(init=False)
    """`_finished`: one object for all attempts."""

    def __attrs_post_init__(self) -> None:
        self._told = self._finished

    def record(self, attempt: Attempt, result: Result | Change) -> None:
        """Hands it in; the caller does not wait."""
        job, attempt.result = attempt.job, result
        self._shared.slots.recording.add(job.id)
        if isinstance(result, Change):
            return self._hand_in(attempt, result)
        if attempt.written is not None and isinstance(result, Completed):
            return self._was_recorded(attempt, attempt.written)
        plan = attempt.plan or self._shared.schedules.plan_or_none(job)
        if plan is None and isinstance(result, Completed):
            result = attempt.result = Released(begun=True)  # its unit of work must not be committed (C8)
        moment = self._shared.clock.moment()
        if plan is not None and plan.schedule.recurring and moment.now - (job.occurrence or moment.now) > LONG:
            self._shared.spawn(self._finish_aside, attempt, partial(transitions.finish, job, result, plan, moment))
        else:
            self._hand_in(attempt, transitions.finish(job, result, plan, moment))
        return None

    async def _finish_aside(self, attempt: Attempt, finish: Callable[[], Change]) -> None:
        try:
            change = await self._shared.schedules.aside(finish)
        except Exception as error:  # of a schedule's own code: there is no next occurrence
            self._shared.problems.report(f"schedule of {attempt}", error, attempt.job)
            change = transitions.abandon(attempt.job, text_of(error), self._shared.clock.moment())
        self._hand_in(attempt, change)

    def _hand_in(self, attempt: Attempt, change: Change) -> None:
        """With a unit of work it is a transaction of its own (docs/protocol.md, C6 and W4)."""
        if (progress := self._notes.last(attempt.context) or attempt.progress) is not None:
            attempt.progress, change = progress, attrs.evolve(change.whole, progress=progress)
        attempt.change, unit = change, attempt.work
        if unit is None or not isinstance(attempt.result, Completed):
            self._journal.put(change, self._told, attempt)
        else:
            self._shared.spawn(self._journal.record, change, unit, self._finished, attempt)

    def _finished(self, attempt: Attempt, error: BaseException | None) -> None:
        if error is None:
            self._is_recorded(attempt, attempt.change)
        else:
            self._shared.spawn(self._again, attempt, error)

    async def _again(self, attempt: Attempt, error: BaseException) -> None:
        """It was not committed: tried with the same token until that is lost or the stop comes (docs/protocol.md, W2,
        U1)."""
        job, result, unsure = attempt.job, attempt.result, attempt.unsure or attempt.written
        if isinstance(error, Stale) and unsure is not None and was_written(unsure, error.current):
            return self._was_recorded(attempt, unsure)
        if isinstance(error, Stale):
            current = error.current
            if current is None or current.seq != job.seq or current.status is not JobStatus.RUNNING:
                return self._shared.slots.settle(job)  # the token is lost: nothing of this attempt may count
            result = await self._decide_again(attempt, self._shared.calls.decoded(current))
        elif isinstance(error, NotStarted):
            return self._shared.slots.settle(job)  # the store is closed: the next start puts it back
        elif isinstance(error, StoreTrouble):
            self._shared.problems.report("recording outcomes", error)
            if isinstance(error, StoreUnsure):
                attempt.unsure = attempt.change
            if self._shared.identity.stopping:
                return self._shared.slots.settle(job)  # the stop, or else the next start, puts it back
            attempt.wait = longer(attempt.wait, self._shared.timings.backoff)
            await anyio.sleep(attempt.wait)
        elif isinstance(error, StoreRefused) and await self._completed_before(attempt):
            self._shared.problems.report(f"outcome of {attempt}", error, job)
            attempt.work = None  # the other attempt's writes stand (docs/protocol.md, C6)
            result = Repeated(error=text_of(error))
        elif attempt.work is not None and attempt.handler is not None:
            # an error in the unit's own SQL is a failure of the handler (docs/protocol.md, W8)
            if isinstance(error, NameHeld):
                error = taken(self._shared.calls.decoded(error.current))
            attempt.work, attempt.error = None, error
            result = self._decider.after(attempt, Raised(error))
        else:
            self._shared.problems.report(f"outcome of {attempt}", error, job)
            if isinstance(result, Failed):
                return self._shared.slots.settle(job)
            result = Failed(error=text_of(error))
        return self.record(attempt, result)

    async def _decide_again(self, attempt: Attempt, job: JobInfo) -> Result | Change:
        """The row was changed while the attempt ran."""
        attempt.job, attempt.plan = job, None
        if not isinstance(attempt.result, Change):
            return attempt.result
        return await self._decider.judge(attempt, self._shared.schedules.plan_or_none(job)) or Released(begun=False)

    async def _follow_up(self, attempt: Attempt, change: Change) -> None:
        """The result of a handler that has committed its outcome itself; with it, its children are released (W13)."""
        done, (run, *gaps) = attempt.completed, change.runs
        run = attrs.evolve(run, result=done.result, has_result=done.has_result, error=done.error)
        late = attrs.evolve(change, seq=change.next_seq, schedule_rev=change.next_rev, runs=(run, *gaps))
        try:
            await self._journal.try_update(late)
        except StoreTrouble as error:
            self._shared.problems.report("recording results", error)
            if not self._shared.identity.stopping:
                attempt.wait = longer(attempt.wait, self._shared.timings.backoff)
                await anyio.sleep(attempt.wait)
                await self._follow_up(attempt, change)
                return
        except Exception as error:
            self._shared.problems.report(f"result of {attempt}", error, attempt.job)
        attempt.withheld = False
        self._was_recorded(attempt, change)

    def _was_recorded(self, attempt: Attempt, change: Change) -> None:
        """It is committed: by the handler itself, or although the answer to its commit was lost."""
        if attempt.withheld and change is attempt.written:
            self._shared.spawn(self._follow_up, attempt, change)
            return
        self._is_recorded(attempt, change)
        if (unit := attempt.work) is not None:
            self._journal.announce_jobs(unit.jobs)

    def _is_recorded(self, attempt: Attempt, change: Change) -> None:
        self._journal.announce(change)
        self._shared.slots.settle(attempt.job)
        if self._shared.observers.present or type(change) is not Completion:
            self._tell(attempt, change)

    async def _completed_before(self, attempt: Attempt) -> bool:
        job, runs = attempt.job, list[JobRun]()
        if isinstance(attempt.result, Completed):
            with self._shared.problems.reported("history"):
                runs = await self._shared.calls.history(job.id, 1000)
        return any(run.outcome is RunOutcome.COMPLETED and run.occurrence == job.occurrence for run in runs)

    def _tell(self, attempt: Attempt, change: Change) -> None:
        """Tells the log and the observers."""
        job = attempt.job
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
        with self._shared.problems.reported("history"):
            await self._shared.calls.purge(Purge(job_id=job_id))
