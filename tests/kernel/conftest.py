"""Parts of the kernel, each built alone: a store in memory, a clock that the test moves, no app and no session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest

from aether_bg import hookimpl
from aether_bg._app.crossing import Crossing
from aether_bg._app.registration import Registration
from aether_bg._handlers.awaited import Across
from aether_bg._handlers.registry import info_of
from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.batcher import Batcher
from aether_bg._kernel.commits import Commits
from aether_bg._kernel.identity import Identity
from aether_bg._kernel.journal import Journal
from aether_bg._kernel.observers import Observers
from aether_bg._kernel.problems import Problems
from aether_bg._kernel.schedules import Schedules
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.slots import Slots
from aether_bg._kernel.tasks import spawner
from aether_bg._kernel.timekeeper import Timekeeper
from aether_bg._kernel.timings import Timings
from aether_bg._rules.settings import Options
from aether_bg.model import Event, Heartbeat, JobInfo, Query, Write
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing import FakeClock


class Store(MemoryStore):
    """`trouble`: errors that the next writes raise; `lost`: after having carried them out."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: list[Exception] = []
        self.lost: list[Exception] = []
        self.batches: list[Sequence[Write]] = []

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        self.batches.append(writes)
        if self.trouble:
            raise self.trouble.pop(0)
        results = await super().store_transact(writes)
        if self.lost:
            raise self.lost.pop(0)
        return results


class Never:
    @hookimpl
    async def schedule_run(self, kernel: Any) -> None:
        await anyio.sleep_forever()


@attrs.define(eq=False)
class World:
    store: Store
    clock: FakeClock
    registration: Registration
    shared: Shared
    alarm: Alarm
    batcher: Batcher
    journal: Journal
    armed: list[UUID]
    events: list[Event]
    across: Across

    def job(self, name: str = "job", **fields: Any) -> JobInfo:
        now = self.clock.now()
        job = self.registration.admission().job(self.shared.clock.moment(), "Work", name, None, "@once", None)
        return attrs.evolve(job, **({"created_at": now} | fields))

    async def row(self, job: JobInfo) -> JobInfo:
        (found,) = await self.shared.calls.find(Query(ids=(job.id,)))
        return found

    async def join(self, owner: UUID | None = None) -> None:
        beat = Heartbeat(
            owner=owner or self.shared.identity.owner, handlers=("Work",), now=self.clock.now(), interval=5,
            keep_for=50, join=True,
        )  # fmt: skip
        await self.shared.calls.heartbeat(beat)


@pytest.fixture
def make_world(clock: FakeClock) -> Callable[..., World]:
    """`make_world(handler, timings=…, plugins=…)`: call it on the event loop. `others`: names of further handlers."""

    def make(
        handler: Callable[..., Any] = lambda: None, timings: Timings | None = None, plugins: Sequence[object] = (),
        *, slots: int = 2, others: Sequence[str] = (), **bounds: Any,
    ) -> World:  # fmt: skip
        options = Options.checked(
            concurrency=slots, grace=1, lease=1, clock=clock, actor="tests", retention=None, max_payload=10_000
        )
        store, events = Store(), list[Event]()

        class Notes:
            @hookimpl
            async def lifecycle_event(self, event: Event) -> None:
                events.append(event)

        registration = Registration.of(store, Never(), [Notes(), *plugins], False, options)
        registration.handlers.add(info_of("Work", handler, **bounds))
        for name in others:
            registration.handlers.add(info_of(name, lambda: None))
        registration.resolve()
        calls, kept = registration.calls, timings or Timings()
        keeper, identity, armed = Timekeeper(clock, options.by), Identity(), list[UUID]()
        observers = Observers(calls.observers(), kept.slow_observer)
        problems = Problems(
            clock=keeper, identity=identity, observers=observers, on_loop=lambda fn: fn() and None, recent=60
        )
        alarm = Alarm(clock=keeper, nap=kept.nap, on_loop=lambda fn: fn() and None)
        shared = Shared(
            calls=calls, handlers=registration.handlers, schedules=Schedules(calls.load, keeper),
            slots=Slots(slots, alarm.wake, alarm.stirred.set), identity=identity, clock=keeper, observers=observers,
            problems=problems, timings=kept, spawn=spawner(),
        )  # fmt: skip
        commits = Commits(shared, alarm)
        batcher = Batcher(commits.transact)
        journal = Journal(commits=commits, batcher=batcher, alarm=alarm, observers=observers, arm=armed.append)
        across = Crossing("tests", shared.spawn).across
        return World(store, clock, registration, shared, alarm, batcher, journal, armed, events, across)

    return make


@pytest.fixture
def running() -> Callable[..., Any]:
    """`async with running(loop, …)`: while it lasts."""

    @asynccontextmanager
    async def run(*loops: Callable[[], Any]) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            for loop in loops:
                group.start_soon(loop)
            yield
            group.cancel_scope.cancel()

    return run


async def eventually(holds: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not holds():
            await anyio.sleep(0.002)


SOON = timedelta(seconds=30)
