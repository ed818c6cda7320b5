"""Attempts that run now, from the claim to the outcome: judge, run, decide, record.

Endings are values (`states.Ending`); nothing a handler raises leaves this room.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel

from aether_bg._handlers import work
from aether_bg._handlers.dependencies import Closing
from aether_bg._handlers.handlers import NOTHING, Handler
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.core import Core
from aether_bg._kernel.outcomes import Outcome, Outcomes
from aether_bg._kernel.tasks import Signal
from aether_bg._kernel.verdicts import as_asked, asked_for, decide, judge, noted, text_of
from aether_bg._rules import states
from aether_bg._rules.occurrences import Plan
from aether_bg.errors import InvalidHandler, InvalidPayload
from aether_bg.model import Change, Failure, JobContext, JobInfo, Raised, Started, TimedOut


class Attempts:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._outcomes = Outcomes(core, self._safe)
        self.running: dict[UUID, Attempt] = {}
        self.recording = self._outcomes.waiting
        self.started = 0
        """How many, ever."""
        self._room = Signal()
        self._new_scope: Callable[[], anyio.CancelScope] = type(anyio.CancelScope())
        """The class of this loop: `anyio.CancelScope()` asks anew each time which loop it is on."""

    @property
    def busy(self) -> bool:
        return bool(self.running or self.recording)

    async def room(self, within: float) -> None:
        """Wait until a slot may be free, at most so many seconds."""
        await self._room.wait(within)

    def start(self, job: JobInfo) -> None:
        """Synchronous: between a claim's commit and this nothing can come in between (PROTOCOL C5)."""
        attempt = Attempt(job, JobContext(job), scope=self._new_scope())
        try:
            attempt.job = attempt.context.job = self._core.calls.to_run(job)
        except InvalidPayload as error:
            attempt.unreadable = error
        if (before := self.running.get(job.id)) is not None:
            self._follow(attempt, before)
        self.running[job.id] = attempt
        self.started += 1
        if job.suspect:
            self._core.suspect_running = True
        self._core.start_task(self._run, attempt)

    def _follow(self, attempt: Attempt, before: Attempt) -> None:
        """The store gave this process a job that it still runs: never twice at once (docs/protocol.md, P7)."""
        before.revoke()
        before.ended = anyio.Event()
        attempt.after = before
        self._core.report("attempts", f"{attempt} was claimed again while it still runs here; it waits for that to end")

    async def _run(self, attempt: Attempt) -> None:
        core, job = self._core, attempt.job
        ending: states.Ending | Change
        plan: Plan | None = None
        if attempt.after is not None and attempt.after.ended is not None:
            await attempt.after.ended.wait()
            attempt.after = None
        try:
            plan = core.plan_or_none(job)
            ending = await judge(core, attempt, plan) or await self._execute(attempt)
            if attempt.closing is not None and attempt.closing.notes and not isinstance(ending, Change):
                ending = noted(ending, attempt.closing.notes)
        except Exception as error:  # of the framework's own code: the job fails visibly, the app goes on
            core.report(f"attempt of {attempt}", error, job)
            attempt.error = error
            ending = states.Failed(error=text_of(error))
        if attempt.work is not None and (attempt.revoked or not isinstance(ending, states.Completed)):
            attempt.work.close()  # what its tasks enqueue from now on must not vanish with it
        if self.running.get(job.id) is attempt:
            del self.running[job.id]
        elif attempt.ended is not None:  # the next attempt of this job waits for it
            attempt.ended.set()
        if attempt.revoked:
            self._safe(job)
        else:
            self._outcomes.record(Outcome(attempt, job, ending, plan))
            self._room.set()

    def _safe(self, job: JobInfo) -> None:
        """Once its outcome is safe, and not before, the next suspect may kill the process (PROTOCOL R3)."""
        if job.suspect:
            self._core.suspect_running = False
            self._core.wake()
        self._room.set()

    async def _execute(self, attempt: Attempt) -> states.Ending:
        core, ctx = self._core, attempt.context
        handler = attempt.handler = core.handlers.compiled(attempt.job.handler_name)
        timeout = handler.info.timeout
        if timeout is not None:
            ctx.deadline = core.clock.now() + timedelta(seconds=timeout)
            attempt.scope.deadline = anyio.current_time() + timeout
        attempt.begun, attempt.threaded = True, not handler.info.is_async
        work.running.set(attempt.job.id)
        if core.events.observed:
            core.events.emit(Started(ctx))
        failure: Failure
        try:
            if attempt.unreadable is not None:
                raise attempt.unreadable
            with attempt.scope:
                if core.calls.wrapped or handler.wants_scope or handler.wants_work:
                    await self._run_wrapped(attempt, handler)
                else:
                    result = await handler.run(ctx, handler.bind(ctx, attempt.job.payload, None, NOTHING))
                    if result is not None:
                        await self._look_at(attempt, handler, result)
            if not attempt.scope.cancelled_caught and not attempt.late:
                return states.Completed()
            if attempt.releasing or attempt.revoked:
                return states.Released(begun=True)
            failure = TimedOut(timeout or 0.0)
            attempt.error = TimeoutError(f"the attempt took longer than {failure.seconds:g} s")
        except BaseException as error:  # CancelledError that nobody asked for is a failure too (docs/protocol.md, S5)
            attempt.error = error
            if asked := asked_for(error):
                return as_asked(core, asked)
            if isinstance(error, InvalidPayload | InvalidHandler):
                return states.Failed(error=text_of(error))
            if attempt.releasing or attempt.revoked:
                return states.Released(begun=True)
            failure = Raised(error)
        return decide(core, attempt, handler, failure)

    async def _run_wrapped(self, attempt: Attempt, handler: Handler) -> None:
        core, ctx = self._core, attempt.context
        unit = None
        if handler.wants_work:
            unit = attempt.work = core.new_work()
            work.current.set(unit)
        async with AsyncExitStack() as stack:
            for wrap in core.calls.wraps(ctx):
                await stack.enter_async_context(wrap)
            injected = NOTHING
            if handler.wants_scope:
                attempt.closing = Closing(str(attempt), lambda: attempt.releasing)
                scope = await stack.enter_async_context(core.dependencies.scope(ctx, attempt.closing))
                injected = await handler.inject(scope)
            result = await handler.run(ctx, handler.bind(ctx, attempt.job.payload, unit, injected))
            if attempt.late:
                await anyio.lowlevel.checkpoint_if_cancelled()
            if result is not None:
                await self._look_at(attempt, handler, result)

    async def _look_at(self, attempt: Attempt, handler: Handler, result: Any) -> None:
        """A plain function may return a coroutine: it has run when that has (a wrapper's, a lambda's)."""
        while inspect.isawaitable(result):
            attempt.threaded = False
            result = await result
        handler.check_result(result)
