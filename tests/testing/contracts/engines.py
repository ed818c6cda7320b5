"""A scheduler of a third party: an engine that holds triggers and calls back. And engines with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import anyio
import attrs

from aether_bg import JobInfo, hookimpl
from aether_bg.model import Fired, JobStatus
from aether_bg.protocols import Kernel

Name = tuple[UUID, int]


@attrs.frozen
class Trigger:
    due_at: datetime
    occurrence: datetime


@attrs.define(eq=False)
class Engine:
    """Triggers by (job, seq); outlives the schedulers that talk to it, as a server would."""

    held: dict[Name, Trigger] = attrs.field(factory=dict)


class Push:
    """Arms each instant under a name of its own, redelivers on request, and forgets what was consumed."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine if engine is not None else Engine()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        waits = job.status is JobStatus.SCHEDULED and (not job.paused or job.manual)
        if not waits:
            self.forget(job)
        elif job.due_at is not None and job.occurrence is not None:
            self.engine.held[self.name_of(job)] = Trigger(job.due_at, job.occurrence)
        return True

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        while True:
            for name, trigger in list(self.engine.held.items()):
                if self.is_due(trigger, kernel.clock.now()):
                    await self.deliver(kernel, name, trigger)
            await anyio.sleep(0.02)

    def name_of(self, job: JobInfo) -> Name:
        return job.id, job.seq

    def forget(self, job: JobInfo) -> None:
        self.engine.held = {name: trigger for name, trigger in self.engine.held.items() if name[0] != job.id}

    def is_due(self, trigger: Trigger, now: datetime) -> bool:
        return trigger.due_at <= now

    async def deliver(self, kernel: Kernel, name: Name, trigger: Trigger) -> None:
        job_id, seq = name
        if await kernel.fire(kernel.store_id, job_id, seq, trigger.occurrence) is not Fired.RETRY:
            self.engine.held.pop(name, None)


def with_one_engine(**faults: Callable[..., Any]) -> Callable[[], Push]:
    """A factory whose schedulers share an engine; `faults` replace methods of theirs that are no hooks."""
    engine = Engine()

    def make() -> Push:
        push = Push(engine)
        for name, fault in faults.items():
            setattr(push, name, fault.__get__(push))
        return push

    return make


# -- faults ----------------------------------------------------------------------------------------


async def gives_up(push: Push, kernel: Kernel, name: Name, trigger: Trigger) -> None:
    """Delivers once, and ignores the answer."""
    push.engine.held.pop(name, None)
    await kernel.fire(kernel.store_id, name[0], name[1], trigger.occurrence)


def _early(push: Push, trigger: Trigger, now: datetime) -> bool:
    return True


def _one_name(push: Push, job: JobInfo) -> Name:
    """The newest arm wins, though it may be the older truth: its trigger carries the seq it was armed with."""
    push.forget(job)
    return job.id, job.seq


class Returns:
    """Takes `schedule_run` for something that starts a scheduler."""

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await kernel.fire_due()


class LooksOnce:
    """Runs what is due when it starts, and waits for the rest without looking."""

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await kernel.fire_due()
        await anyio.sleep_forever()


class Refuses:
    """Never says that it holds anything."""

    def __init__(self) -> None:
        self._push = Push()

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await self._push.schedule_run(kernel)

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        await self._push.schedule_arm(job)
        return False


SCHEDULERS: Final[dict[str, tuple[str, str, Callable[[], Any]]]] = {
    "returns": ("schedule_run", "due_now", Returns),
    "looks once": ("schedule_run", "at_its_instant", LooksOnce),
    "early, and once": ("schedule_run", "at_its_instant", with_one_engine(is_due=_early, deliver=gives_up)),
    "one name for all": ("D1", "an_old_arm", with_one_engine(name_of=_one_name)),
    "forgets at the end": ("schedule_run", "started_again", Push),
    "holds nothing": ("schedule_arm", "far_away", Refuses),
}
"""What is wrong: the number and check that must say so, and the scheduler."""
