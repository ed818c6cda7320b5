"""The scheduling layer of a sandbox: nothing runs by itself; what `drain` runs is noted, with the original
exceptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import Condition
from typing import Any, Final
from uuid import UUID

import anyio
import attrs

from aether_bg.errors import NotStarted
from aether_bg.hookspecs import hookimpl
from aether_bg.model import Decision, Failure, JobContext, JobInfo, JobRun, JobStatus, Query, Raised, RunOutcome
from aether_bg.protocols import Kernel

_FAILED: Final = (RunOutcome.FAILED, RunOutcome.TIMED_OUT, RunOutcome.CRASHED)
_ROWS: Final = 10
"""History rows per attempt: the attempt itself, and what was skipped, coalesced or overlapped with it."""
_SOON: Final = 5.0
"""Real seconds that another thread waits for the app to start."""


@attrs.frozen(eq=False, repr=False)
class Ran:
    """One attempt that a `drain` has run."""

    job: JobInfo
    """The row at the claim."""
    run: JobRun
    """Its row of history; outcome None if that has been purged already."""
    exception: BaseException | None
    """The error that the handler raised, with its traceback."""

    @property
    def job_name(self) -> str:
        return self.job.job_name

    @property
    def handler_name(self) -> str:
        return self.job.handler_name

    @property
    def outcome(self) -> RunOutcome | None:
        return self.run.outcome

    @property
    def failed(self) -> bool:
        """Whether it raised or took too long, whether or not it will be tried again."""
        return self.outcome in _FAILED

    def __str__(self) -> str:
        what = f"job {self.job_name!r} ({self.handler_name}), attempt {self.job.attempt}: {self.outcome}"
        return f"{what}, {self.run.error.splitlines()[0]}" if self.run.error else what

    def __repr__(self) -> str:
        return f"<Ran {self}>"


class Still:
    """A scheduler that never calls."""

    def __init__(self) -> None:
        self._begun: list[JobInfo] = []
        self._raised: dict[tuple[UUID, int], BaseException] = {}
        self._told: set[tuple[UUID, int]] = set()
        """Failed jobs that a `take` has already reported."""
        self._changed = Condition()
        self._kernel: Kernel | None = None
        self._left = False

    def __repr__(self) -> str:
        return "<Still>"

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self._set(kernel)
        try:
            await anyio.sleep_forever()
        finally:
            self._set(None)

    def _set(self, kernel: Kernel | None) -> None:
        with self._changed:
            self._kernel = kernel
            self._changed.notify_all()

    def leave(self) -> None:
        """The block is over: no app starts any more."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    async def kernel(self) -> Kernel:
        """The running app's kernel. Raises `TimeoutError` if there is none."""
        with anyio.fail_after(_SOON):
            while self._kernel is None:
                await anyio.sleep(0.001)
        return self._kernel

    def wait_for_start(self) -> None:
        """For other threads: waits until the app has started. Raises `NotStarted`, after the block at once."""
        with self._changed:
            self._changed.wait_for(lambda: self._kernel is not None or self._left, _SOON)
            if self._kernel is None:
                raise NotStarted("the app of the sandbox", "it is not running", "Use it inside of its block.")

    # -- what ran --------------------------------------------------------------------------------

    @hookimpl(trylast=True)  # outermost: what the other wraps raise is seen as well
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[Any]:
        return self._noting(ctx)

    @asynccontextmanager
    async def _noting(self, ctx: JobContext) -> AsyncIterator[None]:
        self._begun.append(ctx.job)
        try:
            yield
        except Exception as error:
            self._raised[ctx.job.id, ctx.token] = error
            raise

    @hookimpl(tryfirst=True)
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
        """Also sees what a unit of work raised at its commit, after the handler."""
        if isinstance(failure, Raised):
            self._raised[ctx.job.id, ctx.token] = failure.error
        return None

    async def take(self) -> list[Ran]:
        """The attempts that have begun since the last call, in that order, and how they ended."""
        begun, self._begun = self._begun, []
        raised, self._raised = self._raised, {}
        kernel = await self.kernel()
        begun += await self._never_begun(kernel, {job.id for job in begun})
        ended: dict[tuple[UUID, int], JobRun] = {}
        for job_id, times in Counter(job.id for job in begun).items():
            runs = await kernel.store.history(job_id, _ROWS * times)
            ended |= {(job_id, run.token): run for run in runs if run.gap == 0}
        return [
            Ran(job, ended.get((job.id, job.seq)) or _purged(job), raised.get((job.id, job.seq)))
            for job in begun
        ]  # fmt: skip

    async def _never_begun(self, kernel: Kernel, begun: set[UUID]) -> list[JobInfo]:
        """Jobs that have failed since the last call before any wrap: a payload that cannot be decoded, a schedule that
        no plugin reads. As they were at their claim."""
        failed = await kernel.store.find(Query(status=(JobStatus.FAILED,)))
        fresh = [job for job in failed if job.id not in begun and (job.id, job.seq) not in self._told]
        self._told |= {(job.id, job.seq) for job in failed}
        return [attrs.evolve(job, seq=job.seq - 1, status=JobStatus.RUNNING) for job in fresh]


def _purged(job: JobInfo) -> JobRun:
    return JobRun(job_id=job.id, token=job.seq, attempt=job.attempt, occurrence=job.occurrence)
