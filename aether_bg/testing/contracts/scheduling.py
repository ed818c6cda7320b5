"""A third party's scheduler at work: a real app on a SQLite file, real time, and handlers that note when they ran."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import attrs

from aether_bg import Aether, Backoff, JobContext, JobInfo, hookimpl
from aether_bg.model import Event, Problem, RunOutcome
from aether_bg.testing.clock import FakeClock
from aether_bg.testing.contracts.opening import hooks_of, implements, plugin_of
from aether_bg.testing.contracts.suite import Suite, expect
from aether_bg.testing.contracts.values import now


@attrs.frozen
class Ran:
    """One call of a handler. `at`: when it began; `occurrence`: for which one."""

    name: str
    occurrence: datetime
    at: datetime


class _Problems:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        if isinstance(event, Problem):
            self.seen.append(f"{event.part}: {event.error}")


@attrs.frozen
class Scheduled:
    """An app that runs under the scheduler. `problems`: the reported ones."""

    app: Aether
    scheduler: Any
    problems: list[str]

    async def arm(self, job: JobInfo) -> None:
        await hooks_of(self.scheduler).schedule_arm(job=job)

    @property
    def pushes(self) -> bool:
        return implements(self.scheduler, "schedule_arm")

    async def armed(self) -> bool:
        """Whether everything that waits is armed."""
        return not await self.app.store.find(unarmed=True)

    async def completed(self, job: UUID) -> int:
        """How often the job has completed, by its history."""
        return [run.outcome for run in await self.app.store.history(job)].count(RunOutcome.COMPLETED)


@attrs.define(eq=False)
class SchedulerWorld:
    """`app` as often as needed, one after the other, on one store; `ran` is what all of them ran."""

    make: Callable[[], Any]
    folder: Path
    patience: float
    """Seconds after which what should have been called counts as forgotten."""
    ran: list[Ran] = attrs.field(factory=list)
    busy: int = 0
    busiest: int = 0
    """The most calls of "Slow" at one time."""

    @asynccontextmanager
    async def app(self) -> AsyncIterator[Scheduled]:
        async with AsyncExitStack() as stack:
            scheduler = await plugin_of(self.make(), stack)
            problems = _Problems()
            app = self._with_handlers(
                Aether(self.folder / "jobs.db", scheduler=scheduler, plugins=[problems], grace=0.5)
            )
            await stack.enter_async_context(app)
            yield Scheduled(app, scheduler, problems.seen)

    @asynccontextmanager
    async def before(self, ago: timedelta = timedelta(0)) -> AsyncIterator[Any]:
        """A client that enqueues what should have been enqueued some time ago, when no scheduler ran."""
        clock = FakeClock(now() - ago)
        app = self._with_handlers(Aether(self.folder / "jobs.db", scheduler="timer", clock=clock))
        async with app.client() as client:
            yield client

    def _with_handlers(self, app: Aether) -> Aether:
        def note(ctx: JobContext) -> None:
            self.ran.append(Ran(ctx.job.job_name, ctx.occurrence, now()))

        async def on_time(ctx: JobContext) -> None:
            note(ctx)

        async def slow(ctx: JobContext) -> None:
            note(ctx)
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
            try:
                await anyio.sleep(1.4)
            finally:
                self.busy -= 1

        async def fails_first(ctx: JobContext) -> None:
            note(ctx)
            if ctx.attempt == 1:
                raise ValueError("the first attempt fails")

        app.handler("Note")(on_time)
        app.handler("Slow")(slow)
        app.handler("FailsFirst", retries=1, backoff=Backoff(first=0.4, jitter=0))(fails_first)
        return app

    def of(self, name: str) -> list[Ran]:
        return [ran for ran in self.ran if ran.name == name]

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Checks again and again (`holds` may be async), until it holds; `what` was expected within `patience`."""
        end = time.monotonic() + self.patience
        while not (await answer if isinstance(answer := holds(), Awaitable) else answer):
            expect(time.monotonic() < end, f"{what}: not within {self.patience:g} s")
            await anyio.sleep(0.02)


SCHEDULER: Suite[SchedulerWorld] = Suite("scheduler")
"""The rules in `schedulers`."""
