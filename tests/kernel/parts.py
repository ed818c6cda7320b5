"""Parts above `World`: what claims, runs and records."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import anyio
import attrs
from kernel.conftest import World, eventually

from aether_bg._handlers.past import Kept
from aether_bg._handlers.work import UnitOfWork
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.completer import Completer
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.executor import Executor
from aether_bg._kernel.inside import Inside
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.tasks import Signal
from aether_bg._kernel.triggers import Triggers
from aether_bg.model import Claim, JobContext, JobInfo, JobStatus


@attrs.define(eq=False)
class Machinery:
    completer: Completer
    executor: Executor
    claimer: Claimer
    triggers: Triggers
    look: Signal


def machinery(world: World) -> Machinery:
    shared, registration, look = world.shared, world.registration, Signal()
    decider = Decider(shared)
    notes = Notes(shared=shared, on_loop=lambda fn: fn(), across=world.across, limit=1000)
    completer = Completer(shared=shared, decider=decider, journal=world.journal, notes=notes)
    executor = Executor(
        shared=shared, runners=registration.runners(), dependencies=registration.dependencies,
        new_work=lambda: UnitOfWork(lambda tx, made: None, UUID(int=0)), decider=decider,  # type: ignore[arg-type,return-value]
        completer=completer, inside=Inside(shared, world.across, notes), notes=notes,
        parents=Kept(shared.calls, shared.handlers, world.across).parents, max_result=1000,
    )  # fmt: skip
    claimer = Claimer(shared=shared, alarm=world.alarm, start=executor.start)
    triggers = Triggers(shared=shared, claimer=claimer, journal=world.journal, look=look)
    return Machinery(completer, executor, claimer, triggers, look)


async def claimed(world: World, **fields: Any) -> Attempt:
    """A RUNNING row of this owner, and the attempt at it."""
    job = world.job(**fields)
    await world.journal.insert(job)
    claim = Claim(
        owner=world.shared.identity.owner, now=world.clock.now(), limit=1, handlers=("Work",), job_id=job.id,
        seq=job.seq,
    )  # fmt: skip
    (taken,) = (await world.shared.calls.claim(claim)).jobs
    attempt = Attempt(taken, JobContext(taken))
    attempt.scope = anyio.CancelScope()
    attempt.handler = world.shared.handlers.compiled("Work")
    world.shared.slots.begin(attempt)
    return attempt


class Attempts:
    """Of an executor: this stands in the place of its completer, and keeps the results in order."""

    def __init__(self, world: World, **others: Any) -> None:
        self.world, self.results = world, list[Any]()
        self.executor: Executor = attrs.evolve(machinery(world).executor, completer=self, **others)

    def record(self, attempt: Attempt, result: object) -> None:
        assert self.world.shared.slots.running.get(attempt.job.id) is not attempt, "its slot is free by then"
        self.results.append(result)

    def claimed(self, *names: str, **fields: Any) -> list[JobInfo]:
        made = [self.world.job(name, **fields) for name in names or ("job",)]
        return [attrs.evolve(job, status=JobStatus.RUNNING, attempt=1, seq=1) for job in made]

    def running(self, job: JobInfo) -> Attempt:
        return self.world.shared.slots.running[job.id]

    async def end(self) -> None:
        await eventually(lambda: not self.world.shared.slots.running)

    async def result(self, **fields: Any) -> Any:
        self.executor.start(self.claimed(**fields))
        await self.end()
        (result,) = self.results
        return result
