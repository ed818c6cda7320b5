"""One attempt, from the claim to its result: judge, wrap, bind, call. Nothing a handler raises leaves this file."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel
import attrs

from aether_bg._handlers import work
from aether_bg._handlers.awaited import awaited
from aether_bg._handlers.dependencies import Closing, Dependencies
from aether_bg._handlers.handlers import NOTHING, Handler
from aether_bg._handlers.kept import completed
from aether_bg._handlers.work import UnitOfWork
from aether_bg._kernel.attempt import NOT_NOW, Attempt
from aether_bg._kernel.completer import Completer
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.inside import Inside
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import traces
from aether_bg._rules.decisions import as_asked, asked_for, noted, text_of
from aether_bg._rules.results import Completed, Failed, Released, Result
from aether_bg.errors import InvalidHandler, InvalidPayload
from aether_bg.model import Change, JobContext, JobInfo, Parents, Raised, Started, TimedOut
from aether_bg.protocols import Runner


@attrs.define(kw_only=True, eq=False)
class Executor:
    """`runners`: where each handler's code runs, by name. `new_work`: makes a handler's unit of work. `parents`:
    implements `ctx.parents`. `max_result`: bytes of JSON."""

    _shared: Shared
    _runners: Mapping[str, Runner]
    _dependencies: Dependencies
    _new_work: Callable[[], UnitOfWork]
    _decider: Decider
    _completer: Completer
    _inside: Inside
    _notes: Notes
    _parents: Callable[[JobContext], Parents]
    _max_result: int
    _complete: Callable[[JobContext, Any], Awaitable[None]] = attrs.field(init=False)
    """`Inside.complete`: one object for all attempts."""
    _new_scope: Callable[[], anyio.CancelScope] = attrs.field(factory=lambda: type(anyio.CancelScope()), init=False)
    """The class for this loop: `anyio.CancelScope()` finds out each time which loop it is on."""

    def __attrs_post_init__(self) -> None:
        self._complete = self._inside.complete

    def start(self, jobs: Iterable[JobInfo]) -> None:
        """Synchronous: no await between the commit of a claim and the start (docs/protocol.md, C5)."""
        more = deque([self._begin(job) for job in jobs])
        while more:
            attempt = more.popleft()
            attempt.scope = self._new_scope()
            self._shared.spawn(self._run, attempt, more)

    def _begin(self, job: JobInfo) -> Attempt:
        context = JobContext(job, complete=self._complete, notes=self._notes, parents=self._parents)
        attempt = Attempt(job, context)
        try:
            attempt.job = context.job = self._shared.calls.to_run(job)
        except InvalidPayload as error:
            attempt.unreadable = error
        if (before := self._shared.slots.begin(attempt)) is not None:
            self._follow(attempt, before)
        return attempt

    def _follow(self, attempt: Attempt, before: Attempt) -> None:
        """The store gave this process a job that it still runs: never run it twice at once (docs/protocol.md, P7)."""
        if before.written is None:  # else it has committed its outcome, and is about to return (W13)
            before.revoke()
        before.ended = anyio.Event()
        attempt.after = before
        text = f"{attempt} was claimed again while it still runs here; it waits for that to end"
        self._shared.problems.report("attempts", text)

    async def _run(self, attempt: Attempt, more: deque[Attempt]) -> None:
        """An attempt; then those of `more`, while each ends in its first step and leaves the task as it was
        (docs/protocol.md, S11): a task and a scope for each would cost a third more. Where tasks do not begin at once,
        `more` is empty by then."""
        if attempt.after is not None and attempt.after.ended is not None:
            await attempt.after.ended.wait()
            attempt.after = None
        scope = attempt.scope
        result: Result | Change
        try:
            with scope:
                work.running.set(attempt.job.id)
                before = traces() if more else None
                result = await self._execute(attempt)
                while more and attempt.plain and more[0].after is None and traces() == before:
                    self._end(attempt, result)
                    attempt = more.popleft()
                    attempt.scope = scope
                    work.running.set(attempt.job.id)
                    result = await self._execute(attempt)
            if scope.cancelled_caught or attempt.late:
                result = self._cancelled(attempt)
            elif attempt.written is not None:
                await self._inside.check(attempt)
        except BaseException as error:  # a CancelledError of unknown origin is a failure too (docs/protocol.md, S5)
            result = self._failed(attempt, error)
        if attempt.closing is not None and attempt.closing.notes and not isinstance(result, Change):
            result = noted(result, attempt.closing.notes)
        self._end(attempt, result)

    def _end(self, attempt: Attempt, result: Result | Change) -> None:
        if attempt.work is not None and (attempt.revoked or not isinstance(result, Completed)):
            attempt.work.close()  # what its tasks enqueue from now on must not be lost with it
        self._shared.slots.end(attempt)
        attempt.scope = NOT_NOW  # and with it the task: the garbage collector walks through all that waits for a commit
        if attempt.revoked:
            self._shared.slots.settle(attempt.job)
        else:
            self._completer.record(attempt, result)
            self._shared.slots.freed.set()

    async def _execute(self, attempt: Attempt) -> Result | Change:
        job, ctx = attempt.job, attempt.context
        plan = attempt.plan = self._shared.schedules.plan_or_none(job)
        if not self._decider.runs(attempt, plan) and (instead := await self._decider.judge(attempt, plan)) is not None:
            return instead
        handler = attempt.handler = self._shared.handlers.compiled(job.handler_name)
        if (timeout := handler.info.timeout) is not None:
            ctx.ends_within(timeout, self._shared.clock.now())
            attempt.scope.deadline = anyio.current_time() + timeout
        attempt.begun, attempt.threaded = True, not handler.info.is_async
        if self._shared.observers.present:
            self._shared.observers.emit(Started(ctx))
        if attempt.unreadable is not None:
            raise attempt.unreadable
        if handler.wants_more or self._shared.calls.wrapped:
            await self._call_wrapped(attempt, handler)
        else:
            result = await self._runners[job.handler_name](ctx, handler.bind(ctx, job.payload, None, NOTHING))
            if result is not None or handler.returns is not None:
                await self._returned(attempt, handler, result)
        return attempt.completed

    def _cancelled(self, attempt: Attempt) -> Result:
        if attempt.releasing or attempt.revoked:
            return Released(begun=attempt.begun)
        timeout = (attempt.handler and attempt.handler.info.timeout) or 0.0
        attempt.error = TimeoutError(f"the attempt took longer than {timeout:g} s")
        return self._decider.after(attempt, TimedOut(timeout))

    def _failed(self, attempt: Attempt, error: BaseException) -> Result:
        attempt.error = error
        try:
            if not attempt.begun:
                raise error
            if asked := asked_for(error):
                return as_asked(asked, self._shared.clock.now())
            if isinstance(error, InvalidPayload | InvalidHandler):
                return Failed(error=text_of(error))
            if attempt.releasing or attempt.revoked:
                return Released(begun=True)
            return self._decider.after(attempt, Raised(error))
        except (Exception, SystemExit) as problem:  # an error of the framework: the job fails visibly, the app goes on
            self._shared.problems.report(f"attempt of {attempt}", problem, attempt.job)
            attempt.error = problem
            return Failed(error=text_of(problem))

    async def _call_wrapped(self, attempt: Attempt, handler: Handler) -> None:
        ctx, unit = attempt.context, None
        if handler.wants_work:
            unit = attempt.work = self._new_work()
            work.current.set(unit)
        async with AsyncExitStack() as stack:
            for wrap in self._shared.calls.wraps(ctx):
                await stack.enter_async_context(wrap)
            injected = NOTHING
            if handler.wants_scope:
                attempt.closing = Closing(str(attempt), lambda: attempt.releasing)
                scope = await stack.enter_async_context(self._dependencies.scope(ctx, attempt.closing))
                injected = await handler.inject(scope)
            call = handler.bind(ctx, attempt.job.payload, unit, injected)
            await self._returned(attempt, handler, await self._runners[handler.info.name](ctx, call))
            if attempt.late:
                await anyio.lowlevel.checkpoint_if_cancelled()

    async def _returned(self, attempt: Attempt, handler: Handler, result: Any) -> None:
        if inspect.isawaitable(result):  # returned by a plain function: a wrapper, a lambda
            attempt.threaded = False
            result = await awaited(result)
        if result is not None or handler.returns is not None:
            handler.check_result(result)
            attempt.completed = completed(handler, result, self._max_result)
