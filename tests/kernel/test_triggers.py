"""What a trigger is answered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from kernel.conftest import World, eventually
from kernel.parts import machinery

from aether_bg.model import Fired, JobInfo, JobStatus

pytestmark = pytest.mark.anyio


async def test_a_trigger_that_is_due_runs_the_job(make_world: Callable[..., World], running: Any) -> None:
    world = make_world()
    fire, job = machinery(world).triggers.fire, world.job()
    await world.join()
    await world.journal.insert(job)
    mine = world.shared.identity.store_id
    async with running(world.batcher.run):
        assert await fire(mine, job.id, 0, job.occurrence) is Fired.CLAIMED
        await eventually(lambda: not world.shared.slots.busy)
        assert await fire(mine, job.id, 0, job.occurrence) is Fired.CONSUMED
    assert (await world.row(job)).status is JobStatus.COMPLETED


async def test_answers_without_a_run(make_world: Callable[..., World]) -> None:
    world = make_world()
    fire, mine = machinery(world).triggers.fire, world.shared.identity.store_id
    now = world.clock.now()
    later = world.job("later", due_at=now + timedelta(minutes=1))
    other = world.job("other", handler_name="Nobody")
    for job in (later, other):
        await world.journal.insert(job)
    world.armed.clear()
    assert await fire(uuid4(), later.id, 0, now) is Fired.RETRY, "another store's, which may be back"
    assert await fire(uuid4(), later.id, 0, now - timedelta(minutes=11)) is Fired.CONSUMED
    assert await fire(mine, uuid4(), 0, now) is Fired.CONSUMED
    assert await fire(mine, later.id, 7, now) is Fired.CONSUMED
    assert world.armed == [later.id], "an old one: what the scheduler holds is wrong"
    assert await fire(mine, later.id, 0, now) is Fired.RETRY
    assert await fire(mine, other.id, 0, now) is Fired.RETRY
    world.shared.identity.stopping = True
    assert await fire(mine, later.id, 0, now) is Fired.RETRY


async def test_jobs_of_one_handler_are_taken_up_to_the_slots_that_are_kept(
    make_world: Callable[..., World], running: Any
) -> None:
    """docs/protocol.md, L4: a busy handler gets all slots but those that are kept for the handlers that run nothing."""
    go = anyio.Event()

    async def work() -> None:
        await go.wait()

    world = make_world(work, slots=8, others=("Quiet", "Quieter", "Quietest"))
    fire, mine = machinery(world).triggers.fire, world.shared.identity.store_id
    await world.join()
    jobs = [world.job(str(number)) for number in range(8)]
    for job in jobs:
        await world.journal.insert(job)
    answers = []

    async def trigger(job: JobInfo) -> None:
        answers.append(await fire(mine, job.id, 0, job.occurrence))

    async with running(world.batcher.run):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(trigger, job)
                while len(answers) < len(jobs):
                    await anyio.sleep(0.05)
                    world.clock.advance(seconds=1)
        go.set()
        await eventually(lambda: not world.shared.slots.busy)
    assert sorted(answers) == [Fired.CLAIMED] * 6 + [Fired.RETRY] * 2


async def test_one_of_a_job_that_another_owner_runs_asks_for_a_look(make_world: Callable[..., World]) -> None:
    world = make_world()
    parts = machinery(world)
    job = world.job(status=JobStatus.RUNNING, owner=uuid4())
    await world.journal.insert(job)
    looked = anyio.Event()

    async def waits() -> None:
        await parts.look.wait(10)
        looked.set()

    async with anyio.create_task_group() as group:
        group.start_soon(waits)
        await anyio.sleep(0.01)
        await parts.triggers.fire(world.shared.identity.store_id, job.id, 0, world.clock.now())
        with anyio.fail_after(5):
            await looked.wait()
