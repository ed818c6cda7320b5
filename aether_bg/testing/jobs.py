"""What a test does inside a sandbox: run what is due, let time pass, and check what is enqueued."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import anyio

from aether_bg import Aether, errors
from aether_bg.errors import InvalidOption, UsageError, WaitTimeout, shown
from aether_bg.model import JobInfo, JobStatus
from aether_bg.testing.clock import FakeClock, step_of
from aether_bg.testing.still import Ran, Still
from aether_bg.testing.wanted import ANY, Wanted, due_from, due_of, listed

P = ParamSpec("P")
R = TypeVar("R")
_ALL: Final = 10**9


class JobFailed(errors.JobFailed, AssertionError):
    """An attempt that `drain` ran has failed. `failed`: all that did; the cause is the handler's error.

    It is an `aether_bg.JobFailed` as well: `except JobFailed` and `pytest.raises` accept either.
    """

    def __init__(self, failed: Sequence[Ran], of: int) -> None:
        self.failed = list(failed)
        super().__init__(
            failed[0].run.error, f"{len(failed)} of {of} attempts", "; ".join(map(str, failed)),
            "If the test wants that: drain(raise_errors=False) returns them instead.",
        )  # fmt: skip


def _check_loop(name: str) -> None:
    """In a test that is not async the call would never be awaited: it would do nothing, and the test would pass."""
    try:
        anyio.current_time()
    except RuntimeError:
        raise UsageError(
            f"jobs.{name}(…)", "it is to be awaited, and no event loop runs here, so nothing would be done",
            "In a test that is not async: `with sandbox(app).blocking() as jobs:`.",
        ) from None  # fmt: skip


def _in_a_loop(
    verb: Callable[Concatenate[Jobs, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Jobs, P], Coroutine[Any, Any, R]]:
    @wraps(verb)
    def call(self: Jobs, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        _check_loop(verb.__name__)
        return verb(self, *args, **kwargs)

    return call


def _verb(name: str, of_the_app: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    _check_loop(name)
    return of_the_app(*args, **kwargs)


class Jobs:
    """Has every verb of the app as well (`await jobs.enqueue(…)` is `await app.enqueue(…)`), and its `store`.

    `app`: the app under test. `clock`: its clock.
    """

    def __init__(self, app: Aether, clock: FakeClock, still: Still) -> None:
        self.app, self.clock, self._still = app, clock, still
        self._checks: list[tuple[str, Coroutine[Any, Any, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self.app, name)
        return partial(_verb, name, found) if inspect.iscoroutinefunction(found) else found

    def __repr__(self) -> str:
        return f"<Jobs of {self.app!r} at {self.clock.now():%Y-%m-%dT%H:%M:%SZ}>"

    # -- running ---------------------------------------------------------------------------------

    @_in_a_loop
    async def drain(self, *, raise_errors: bool = True, timeout: float = 30) -> list[Ran]:
        """Run what is due by the clock, and what that makes due, until nothing is due; returns the attempts, as they
        began.

        A retry that waits for its backoff is not due: let time pass. Raises `JobFailed` if an attempt failed, after
        everything has run, unless `raise_errors=False`; and `WaitTimeout` after `timeout` real seconds.
        """
        with anyio.move_on_after(timeout) as scope:
            await self.app.drain()
        if scope.cancelled_caught:
            running = ", ".join(repr(job.job_name) for job in await self._of(JobStatus.RUNNING)) or "none"
            raise WaitTimeout(
                "drain", f"jobs are still due or running after {timeout:g} s (running now: {running})",
                "Does a handler wait for what never comes, or does a job enqueue itself at once, for ever?",
            )  # fmt: skip
        ran = await self._still.take()
        failed = [each for each in ran if each.failed]
        if raise_errors and failed:
            raise JobFailed(failed, len(ran)) from _cause([each.exception for each in failed])
        return ran

    @_in_a_loop
    async def advance(
        self, by: timedelta | None = None, /, *, raise_errors: bool = True, timeout: float = 30, **length: float
    ) -> list[Ran]:
        """Let time pass as in an app that runs: the clock goes from one due instant to the next, with a `drain` at
        each.

        `advance(days=365)`: a timedelta, or its arguments. (To simulate an app that was down and missed occurrences:
        `jobs.clock.advance(…)`, then `drain`.) Raises as `drain` does, and stops at that instant.
        """
        end = self.clock.now() + step_of(by, length)
        ran = await self.drain(raise_errors=raise_errors, timeout=timeout)
        kernel = await self._still.kernel()
        while (due := await kernel.fire_due()) is not None and due <= end:
            self._move(due)
            ran += await self.drain(raise_errors=raise_errors, timeout=timeout)
        self._move(end)
        return ran

    def _move(self, to: datetime) -> None:
        self.clock.advance(microseconds=max(to - self.clock.now(), timedelta(0)) // timedelta(microseconds=1))

    # -- looking ---------------------------------------------------------------------------------

    @_in_a_loop
    async def pending(self) -> list[JobInfo]:
        """Jobs that wait or run, the next due first; declared ones included."""
        found = await self._of(JobStatus.SCHEDULED, JobStatus.RUNNING)
        return sorted(found, key=lambda job: (due_of(job) or job.created_at, job.id))

    @_in_a_loop
    async def completed(self) -> list[JobInfo]:
        """Jobs that are COMPLETED, oldest first. A recurring job without an end never is: see what drain ran."""
        return await self._of(JobStatus.COMPLETED)

    @_in_a_loop
    async def failed(self) -> list[JobInfo]:
        """Jobs that are FAILED, oldest first; those with retries left are still pending."""
        return await self._of(JobStatus.FAILED)

    async def _of(self, *status: JobStatus) -> list[JobInfo]:
        return await self.app.store.find(status=status or tuple(JobStatus), limit=_ALL)

    # -- asserting -------------------------------------------------------------------------------

    @_in_a_loop
    def assert_enqueued(
        self,
        handler: Any,
        job_name: str | None = None,
        *,
        payload: Any = ANY,
        due: datetime | timedelta | None = None,
        metadata: Mapping[str, Any] | None = None,
        schedule: str | None = None,
        count: int = 1,
    ) -> Coroutine[Any, Any, list[JobInfo]]:
        """Check that exactly `count` such jobs have been enqueued, run already or not; returns them. To be awaited.

        `handler`: as for `enqueue`. `payload`: an instance, equal as a whole; or a mapping in JSON form, of which each
        key must be equal, like `metadata`. `due`: an instant, or a timedelta from now. `schedule`: the text. Cancelled
        jobs do not count. Raises `AssertionError`, which lists the existing jobs.
        """
        wanted = self._wanted(handler, job_name, payload, due, metadata, schedule)
        return self._to_await("assert_enqueued", self._assert(wanted, count))

    @_in_a_loop
    def assert_not_enqueued(
        self,
        handler: Any,
        job_name: str | None = None,
        *,
        payload: Any = ANY,
        due: datetime | timedelta | None = None,
        metadata: Mapping[str, Any] | None = None,
        schedule: str | None = None,
    ) -> Coroutine[Any, Any, list[JobInfo]]:
        """Check that no such job has been enqueued: `assert_enqueued` with `count=0`. To be awaited."""
        wanted = self._wanted(handler, job_name, payload, due, metadata, schedule)
        return self._to_await("assert_not_enqueued", self._assert(wanted, 0))

    async def _assert(self, wanted: Wanted, count: int) -> list[JobInfo]:
        jobs = [job for job in await self._of() if job.status is not JobStatus.CANCELLED]
        found = [job for job in jobs if wanted.matches(job)]
        if len(found) != count:
            raise AssertionError(f"{len(found)} jobs, not {count}, are enqueued for {wanted}. {listed(jobs)}")
        return found

    def _wanted(
        self, handler: Any, job_name: str | None, payload: Any, due: Any, metadata: Any, schedule: str | None
    ) -> Wanted:
        handlers = self.app.handlers
        name = handlers.name_of(handler)
        if isinstance(handler, str):
            handlers.compiled(name)  # a name misspelt would never be enqueued: raises UnknownHandler
        if payload is not ANY and not isinstance(payload, Mapping) and name in handlers:
            payload = handlers.compiled(name).check(payload, self.app.options.max_payload)
        if due is not None and not isinstance(due, timedelta) and getattr(due, "tzinfo", None) is None:
            raise InvalidOption(
                shown(due),
                "must be an aware datetime, or a timedelta from now",
                "For example: timedelta(hours=1).",
                name="due",
            )
        return Wanted(
            handler_name=name, job_name=job_name, payload=payload, due=due_from(due, self.clock.now()),
            metadata=metadata, schedule=schedule,
        )  # fmt: skip

    # -- for the sandbox -------------------------------------------------------------------------

    def wait_for_start(self) -> None:
        """From a thread that does not start the app itself. Raises `NotStarted`."""
        self._still.wait_for_start()

    def _to_await(self, name: str, check: Coroutine[Any, Any, R]) -> Coroutine[Any, Any, R]:
        self._checks.append((name, check))
        return check

    def leave(self) -> None:
        """The block is over."""
        self._still.leave()

    def close(self) -> None:
        """An assertion that was not awaited has checked nothing: raises `UsageError` so that the test does not pass."""
        forgotten = [
            (name, check) for name, check in self._checks if inspect.getcoroutinestate(check) == inspect.CORO_CREATED
        ]
        for _, check in forgotten:
            check.close()
        if forgotten:
            raise UsageError(f"jobs.{forgotten[0][0]}(…)", "it was never awaited, so nothing was checked", "Add await.")


def _cause(raised: Sequence[BaseException | None]) -> BaseException | None:
    found = [error for error in raised if error is not None]
    return BaseExceptionGroup("what the handlers raised", found) if len(found) > 1 else next(iter(found), None)
