"""One attempt, from the claim to the committed outcome, in named steps: judge, run, decide, record.

Endings are values (`states.Ending`); nothing a handler raises leaves this room.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel import states, work
from aether_bg._kernel.handlers import Handler
from aether_bg._kernel.names import taken
from aether_bg._kernel.occurrences import Plan
from aether_bg._kernel.tasks import Signal
from aether_bg.errors import InvalidPayload, InvalidSchedule, NameHeld, Stale, StoreError, StoreTrouble, shown
from aether_bg.model import (
    Change,
    Ended,
    Failure,
    GiveUp,
    GiveUpNow,
    JobContext,
    JobInfo,
    JobStatus,
    Missed,
    Purge,
    Raised,
    RetryAt,
    RunOutcome,
    Save,
    Snooze,
    Started,
    TimedOut,
)

if TYPE_CHECKING:
    from aether_bg._kernel.engine import Engine

MOST_ERROR: Final = 8 * 1024
"""Characters of an error kept on the row."""
HISTORY_BITE: Final = 100
"""Occurrences of a recurring job between looks at the length of its history."""
SUSPICIOUS: Final = 2
"""Crashes from which on a job runs alone (PROTOCOL R3)."""


@attrs.define(eq=False)
class Attempt:
    """A claimed row, while its handler runs and until its outcome is committed."""

    job: JobInfo
    context: JobContext
    handler: Handler | None = None
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    begun: bool = False
    revoked: bool = False
    """Another one moved the row: whatever comes of this attempt is not recorded."""
    releasing: bool = False
    """The stop interrupts it."""
    unreadable: InvalidPayload | None = None
    """Its payload cannot be decoded."""
    overdue_since: float | None = None
    work: work.UnitOfWork | None = None
    notes: list[str] = attrs.field(factory=list)
    """Errors while its scope was closed."""

    def revoke(self) -> None:
        self.revoked = True
        self.scope.cancel()

    @property
    def in_thread(self) -> bool:
        return self.begun and self.handler is not None and not self.handler.info.is_async

    def __str__(self) -> str:
        return f"{self.job.handler_name} ({self.job.job_name})"


@attrs.define(eq=False)
class _Outcome:
    """What is to be recorded of an attempt, until it is."""

    attempt: Attempt
    job: JobInfo
    ending: states.Ending | Change
    plan: Plan | None
    wait: float = 0.05


class Attempts:
    """Those that run now, and those whose outcome waits for its commit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.running: dict[UUID, Attempt] = {}
        self.recording: set[UUID] = set()
        self.started = 0
        """How many, ever."""
        self._room = Signal()

    @property
    def busy(self) -> bool:
        return bool(self.running or self.recording)

    async def room(self, within: float) -> None:
        """Wait until a slot may be free, at most so many seconds."""
        await self._room.wait(within)

    def start(self, job: JobInfo) -> None:
        """Synchronous: between a claim's commit and this nothing can come in between (PROTOCOL C5)."""
        attempt = Attempt(job, JobContext(job))
        try:
            attempt.job = attempt.context.job = self._engine.calls.to_run(job)
        except InvalidPayload as error:
            attempt.unreadable = error
        self.running[job.id] = attempt
        self.started += 1
        if job.crash_count >= SUSPICIOUS:
            self._engine.suspect_running = True
        self._engine.start_task(self._run, attempt)

    async def _run(self, attempt: Attempt) -> None:
        engine, job = self._engine, attempt.job
        ending: states.Ending | Change
        plan: Plan | None = None
        try:
            plan = engine.plan(job)
            ending = self._judge(attempt, plan) or await self._execute(attempt)
        except InvalidSchedule as error:
            ending = self._abandon(job, _text(error))
        except Exception as error:  # of the framework's own code: the job fails visibly, the app goes on
            engine.report(f"attempt of {attempt}", error)
            ending = states.Failed(error=_text(error))
        if self.running.get(job.id) is attempt:
            del self.running[job.id]
        if attempt.revoked:
            self._cleared(job)
        else:
            self.recording.add(job.id)
            self._record(_Outcome(attempt, job, ending, plan))
        self._room.set()

    def _cleared(self, job: JobInfo) -> None:
        """Once its outcome is safe, and not before, the next suspect may kill the process (PROTOCOL R3)."""
        if job.crash_count >= SUSPICIOUS:
            self._engine.suspect_running = False
            self._engine.wake()

    def _judge(self, attempt: Attempt, plan: Plan) -> states.Ending | Change | None:
        """None: run it."""
        engine, job = self._engine, attempt.job
        if engine.stopping or attempt.releasing:
            return states.Released(begun=False)
        if job.handler_name not in engine.handlers:
            return self._abandon(
                job, f"no live process has had the handler {job.handler_name!r} for a minute; the payload is kept, "
                "and `retry` runs the job again",
            )  # fmt: skip
        return states.misfired(job, plan, engine.clock.now(), engine.options.by())

    def _abandon(self, job: JobInfo, error: str) -> Change:
        return states.abandon(job, error, self._engine.clock.now(), self._engine.options.by())

    # -- run -------------------------------------------------------------------------------------

    async def _execute(self, attempt: Attempt) -> states.Ending:
        engine, ctx = self._engine, attempt.context
        handler = attempt.handler = engine.handlers.compiled(attempt.job.handler_name)
        timeout = handler.info.timeout
        if timeout is not None:
            ctx.deadline = engine.clock.now() + timedelta(seconds=timeout)
            attempt.scope.deadline = anyio.current_time() + timeout
        attempt.begun = True
        if engine.events.observed:
            engine.events.emit(Started(ctx))
        failure: Failure
        try:
            if attempt.unreadable is not None:
                raise attempt.unreadable
            with attempt.scope:
                if engine.calls.wrapped or handler.wants_scope or handler.wants_work:
                    await self._run_wrapped(attempt, handler)
                else:
                    call = await handler.bind(ctx, attempt.job.payload, None, None)
                    await handler.run(ctx, call)
            late = attempt.scope.cancel_called and not attempt.releasing and not handler.info.is_async
            if not attempt.scope.cancelled_caught and not late:
                return states.Completed("; ".join(attempt.notes) or None)
            if attempt.releasing or attempt.revoked:
                return states.Released(begun=True)
            failure = TimedOut(timeout or 0.0)
        except Snooze as snooze:
            return self._snoozed(snooze)
        except GiveUp as reason:
            return states.Failed(error=_text(reason))
        except InvalidPayload as error:
            return states.Failed(error=_text(error))
        except BaseException as error:  # CancelledError that nobody asked for is a failure too (PROTOCOL S5)
            if attempt.releasing or attempt.revoked:
                return states.Released(begun=True)
            failure = Raised(error)
        return self._decide(attempt, handler, failure)

    async def _run_wrapped(self, attempt: Attempt, handler: Handler) -> None:
        engine, ctx = self._engine, attempt.context
        unit = None
        if handler.wants_work:
            unit = attempt.work = engine.new_work()
            work.current.set(unit)
        async with AsyncExitStack() as stack:
            for wrap in engine.calls.wraps(ctx):
                await stack.enter_async_context(wrap)
            scope = None
            if handler.wants_scope:
                scope = engine.dependencies.scope(ctx, attempt.notes)
                stack.push_async_callback(scope.aclose)
            call = await handler.bind(ctx, attempt.job.payload, unit, scope)
            await handler.run(ctx, call)

    # -- decide ----------------------------------------------------------------------------------

    def _snoozed(self, snooze: Snooze) -> states.Ending:
        until = snooze.until
        now = self._engine.clock.now()
        if isinstance(until, timedelta):
            return states.Snoozed(now + until)
        if isinstance(until, datetime) and until.utcoffset() is not None:
            return states.Snoozed(until.astimezone(UTC))
        return states.Failed(error=f"Snooze({shown(until)}): wants an aware datetime or a timedelta")

    def _decide(self, attempt: Attempt, handler: Handler, failure: Failure) -> states.Ending:
        engine, job, info = self._engine, attempt.job, handler.info
        outcome = RunOutcome.TIMED_OUT if isinstance(failure, TimedOut) else RunOutcome.FAILED
        match failure:
            case TimedOut(seconds):
                error = f"TimedOut: the attempt took longer than {seconds:g} s"
            case Raised(raised):
                error = _text(raised)
            case crashed:
                error = str(crashed)
        try:
            decision = engine.calls.decide(attempt.context, failure)
        except Exception as trouble:
            engine.report("dispatch_decide", trouble)
            decision = None
        match decision:
            case RetryAt(when):
                return states.Failed(error=error, outcome=outcome, retry_at=when.astimezone(UTC))
            case GiveUpNow(reason):
                return states.Failed(error=f"{error}\ngiven up: {reason}", outcome=outcome)
        if job.retry_count >= info.retries:
            return states.Failed(error=error, outcome=outcome)
        delay = info.backoff.delay(job.retry_count + 1, random.uniform(-1, 1))
        return states.Failed(error=error, outcome=outcome, retry_at=engine.clock.now() + timedelta(seconds=delay))

    # -- record ----------------------------------------------------------------------------------

    def _record(self, outcome: _Outcome) -> None:
        """Hand the outcome in; nobody waits. With a unit of work it is a transaction of its own (PROTOCOL C6, W4)."""
        engine, ending = self._engine, outcome.ending
        unit = outcome.attempt.work if isinstance(ending, states.Completed) else None
        try:
            if not isinstance(ending, Change):
                plan = outcome.plan or engine.plan(outcome.job)
                ending = states.finish(outcome.job, ending, plan, engine.clock.now(), engine.options.by())
        except InvalidSchedule as error:
            ending = self._abandon(outcome.job, _text(error))
        if unit is None:
            engine.writes.put(Save(ending), partial(self._recorded, outcome, ending))
        else:
            engine.start_task(self._commit, outcome, ending, unit)

    async def _commit(self, outcome: _Outcome, change: Change, unit: work.UnitOfWork) -> None:
        steps = unit.close()
        try:
            _, *results = await self._engine.calls.transact([Save(change), *steps])
        except NameHeld as held:
            self._recorded(outcome, change, taken(self._engine.calls.decoded(held.current)))
        except Exception as error:
            self._recorded(outcome, change, error)
        else:
            unit.fill(results)
            self._recorded(outcome, change, None)
            self._engine.view.jobs.committed(steps)

    def _recorded(self, outcome: _Outcome, change: Change, error: BaseException | None) -> None:
        if error is None:
            self._done(outcome)
            self._announce(outcome.attempt, outcome.job, change)
        else:
            self._engine.start_task(self._record_again, outcome, error)

    def _done(self, outcome: _Outcome) -> None:
        self.recording.discard(outcome.job.id)
        self._cleared(outcome.job)
        self._room.set()

    async def _record_again(self, outcome: _Outcome, error: BaseException) -> None:
        """It was not committed: with the same token until that is lost or the stop comes (PROTOCOL W2, U1)."""
        engine, job, attempt = self._engine, outcome.job, outcome.attempt
        if isinstance(error, Stale):
            current = error.current
            if current is None or current.seq != job.seq or current.status is not JobStatus.RUNNING:
                return self._done(outcome)  # the token is lost: nothing of this attempt may count
            outcome.job, outcome.plan = engine.calls.decoded(current), None  # changed while it ran: decide anew
            if isinstance(outcome.ending, Change):
                fresh = Attempt(outcome.job, JobContext(outcome.job))
                outcome.ending = self._judge(fresh, engine.plan(outcome.job)) or states.Released(begun=False)
        elif isinstance(error, StoreTrouble):
            engine.report("recording outcomes", error)
            if engine.stopping:
                return self._done(outcome)  # the next start recovers it
            await anyio.sleep(outcome.wait)
            outcome.wait = min(outcome.wait * 2, 5.0)
        elif attempt.work is not None and attempt.handler is not None:
            attempt.work = None  # an error in the unit's own SQL is a failure of the handler (PROTOCOL W8)
            outcome.ending = self._decide(attempt, attempt.handler, Raised(error))
        else:
            engine.report(f"outcome of {attempt}", error)
            return self._done(outcome)
        return self._record(outcome)

    def _announce(self, attempt: Attempt, job: JobInfo, change: Change) -> None:
        engine = self._engine
        engine.settled(change)
        if change.status is JobStatus.SCHEDULED:
            engine.arm(change.job_id)
        if change.occurrences and change.occurrences % HISTORY_BITE == 0 and not change.status.terminal:
            engine.start_task(self._trim, change.job_id)
        if not engine.events.observed:
            return
        for run in change.runs:
            if run.part == 0 and run.outcome not in (RunOutcome.SKIPPED, RunOutcome.COALESCED):
                engine.events.emit(Ended(attempt.context, run, change.status, change.due_at))
            else:
                engine.events.emit(Missed(job, run))

    async def _trim(self, job_id: UUID) -> None:
        """A recurring job keeps its last 1,000 history rows (PROTOCOL N5)."""
        try:
            await self._engine.calls.purge(Purge(job_id=job_id))
        except StoreError as error:
            self._engine.report("history", error)


def _text(error: BaseException) -> str:
    """An error as kept on the row: its type and message, with the last frames, bounded (RELIABILITY, security)."""
    import traceback

    try:
        lines = traceback.format_exception(error, limit=-4)
        text = "".join([f"{type(error).__name__}: {error}\n", *lines])
    except Exception:  # a class whose str raises
        text = f"{type(error).__name__} (its text cannot be had)"
    return text.encode(errors="backslashreplace").decode()[:MOST_ERROR]
