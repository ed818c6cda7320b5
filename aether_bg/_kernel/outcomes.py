"""Outcomes on their way to the store: handed in, committed with others, tried again, told (PROTOCOL C6, W2, W4)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

import anyio
import attrs

from aether_bg._handlers.work import UnitOfWork
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.core import BACKOFF, Core
from aether_bg._kernel.tasks import longer
from aether_bg._kernel.verdicts import decide, judge, text_of
from aether_bg._rules import states
from aether_bg._rules.names import taken
from aether_bg._rules.occurrences import Plan
from aether_bg.errors import NameHeld, NotStarted, Stale, StoreError, StoreRefused, StoreTrouble, loggable
from aether_bg.explain import first_line
from aether_bg.model import Change, Ended, JobContext, JobInfo, JobStatus, Missed, Purge, Raised, RunOutcome, Update
from aether_bg.model.job import log_fields

log = logging.getLogger("aether_bg")

LONG: Final = timedelta(seconds=1)
"""Occurrences may have passed during an attempt that ends so long after its own: what follows is reckoned aside."""
HISTORY_BITE: Final = 100
"""Occurrences of a recurring job between looks at the length of its history."""


@attrs.define(eq=False)
class Outcome:
    """What is to be recorded of an attempt, until it is."""

    attempt: Attempt
    job: JobInfo
    ending: states.Ending | Change
    plan: Plan | None
    wait: float = 0.0


class Outcomes:
    """`safe` is told of each job whose attempt is over in the store as well."""

    def __init__(self, core: Core, safe: Callable[[JobInfo], object]) -> None:
        self._core, self._safe = core, safe
        self.waiting: set[UUID] = set()
        """Jobs whose outcome has not been committed yet."""

    def record(self, outcome: Outcome) -> None:
        """Hand it in; nobody waits. With a unit of work it is a transaction of its own (PROTOCOL C6, W4)."""
        core, job, ending = self._core, outcome.job, outcome.ending
        self.waiting.add(job.id)
        if isinstance(ending, Change):
            return self._hand_in(outcome, ending)
        plan = outcome.plan or core.plan_or_none(job)
        if plan is None and isinstance(ending, states.Completed):
            ending = outcome.ending = states.Released(begun=True)  # its unit of work must not be committed (C8)
        finish = partial(states.finish, job, ending, plan, core.clock.now(), core.options.by())
        recurring = plan is not None and plan.schedule.recurring
        if recurring and job.occurrence and core.clock.now() - job.occurrence > LONG:
            core.start_task(self._finish_aside, outcome, finish)
        else:
            self._hand_in(outcome, finish())
        return None

    async def _finish_aside(self, outcome: Outcome, finish: Callable[[], Change]) -> None:
        try:
            change = await self._core.aside(finish)
        except Exception as error:  # of a schedule's own code: there is no next occurrence to be had
            self._core.report(f"schedule of {outcome.attempt}", error, outcome.job)
            change = states.abandon(outcome.job, text_of(error), self._core.clock.now(), self._core.options.by())
        self._hand_in(outcome, change)

    def _hand_in(self, outcome: Outcome, change: Change) -> None:
        core, unit = self._core, outcome.attempt.work
        if unit is None or not isinstance(outcome.ending, states.Completed):
            core.writes.put(Update(change), partial(self._recorded, outcome, change))
        else:
            core.start_task(self._commit, outcome, change, unit)

    async def _commit(self, outcome: Outcome, change: Change, unit: UnitOfWork) -> None:
        core = self._core
        try:
            _, *results = await core.calls.transact([Update(change), *unit.close()])
        except NameHeld as held:
            self._recorded(outcome, change, taken(core.calls.decoded(held.current)))
        except Exception as error:
            self._recorded(outcome, change, error)
        else:
            unit.fill(results)
            self._recorded(outcome, change, None)
            core.committed(unit)

    def _recorded(self, outcome: Outcome, change: Change, error: BaseException | None) -> None:
        if error is None:
            self._done(outcome)
            self._announce(outcome.attempt, outcome.job, change)
        else:
            self._core.start_task(self._again, outcome, error)

    def _done(self, outcome: Outcome) -> None:
        self.waiting.discard(outcome.job.id)
        self._safe(outcome.job)

    async def _again(self, outcome: Outcome, error: BaseException) -> None:
        """It was not committed: with the same token until that is lost or the stop comes (PROTOCOL W2, U1)."""
        core, job, attempt = self._core, outcome.job, outcome.attempt
        if isinstance(error, Stale):
            current = error.current
            if current is None or current.seq != job.seq or current.status is not JobStatus.RUNNING:
                return self._done(outcome)  # the token is lost: nothing of this attempt may count
            outcome.job, outcome.plan = core.calls.decoded(current), None  # changed while it ran: decide anew
            if isinstance(outcome.ending, Change):
                fresh = Attempt(outcome.job, JobContext(outcome.job))
                plan = core.plan_or_none(outcome.job)
                outcome.ending = await judge(core, fresh, plan) or states.Released(begun=False)
        elif isinstance(error, NotStarted):
            return self._done(outcome)  # the store is closed: the next start puts it back
        elif isinstance(error, StoreTrouble):
            core.report("recording outcomes", error)
            if core.stopping:
                return self._done(outcome)  # the stop, or else the next start, puts it back
            outcome.wait = longer(outcome.wait, BACKOFF)
            await anyio.sleep(outcome.wait)
        elif isinstance(error, StoreRefused) and await self._completed_before(outcome):
            core.report(f"outcome of {attempt}", error, job)
            attempt.work = None  # what the other one wrote stands (PROTOCOL C6)
            outcome.ending = states.Repeated(error=text_of(error))
        elif attempt.work is not None and attempt.handler is not None:
            # an error in the unit's own SQL is a failure of the handler (docs/protocol.md, W8)
            attempt.work, attempt.error = None, error
            outcome.ending = decide(core, attempt, attempt.handler, Raised(error))
        else:
            core.report(f"outcome of {attempt}", error, job)
            if isinstance(outcome.ending, states.Failed):
                return self._done(outcome)
            outcome.ending = states.Failed(error=text_of(error))
        return self.record(outcome)

    async def _completed_before(self, outcome: Outcome) -> bool:
        job = outcome.job
        if not isinstance(outcome.ending, states.Completed):
            return False
        try:
            runs = await self._core.calls.history(job.id, 1000)
        except (StoreError, NotStarted) as error:
            self._core.report("history", error)
            return False
        return any(run.outcome is RunOutcome.COMPLETED and run.occurrence == job.occurrence for run in runs)

    def _announce(self, attempt: Attempt, job: JobInfo, change: Change) -> None:
        core = self._core
        core.settled(change)
        if change.status is JobStatus.SCHEDULED:
            core.arm(change.job_id)
        if change.occurrences and change.occurrences % HISTORY_BITE == 0 and not change.status.terminal:
            core.start_task(self._trim, change.job_id)
        for run in change.runs:
            if run.outcome in (RunOutcome.FAILED, RunOutcome.TIMED_OUT):
                again = change.status is JobStatus.SCHEDULED and change.retry_count > 0
                told = "it is tried again" if again else "that was the last try"
                log.log(
                    logging.WARNING if again else logging.ERROR,
                    "%s: attempt %d failed, %s: %s", attempt, run.attempt, told, first_line(run.error),
                    exc_info=None if again else loggable(attempt.error), extra=log_fields(job),
                )  # fmt: skip
        if not core.events.observed:
            return
        for run in change.runs:
            if run.gap == 0 and run.outcome not in (RunOutcome.SKIPPED, RunOutcome.COALESCED, RunOutcome.SUPERSEDED):
                core.events.emit(Ended(attempt.context, run, change.status, change.due_at))
            else:
                core.events.emit(Missed(job, run))

    async def _trim(self, job_id: UUID) -> None:
        """A recurring job keeps its last 1,000 history rows (PROTOCOL N5)."""
        try:
            await self._core.calls.purge(Purge(job_id=job_id))
        except (StoreError, NotStarted) as error:
            self._core.report("history", error)
