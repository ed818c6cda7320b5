"""Jobs of dead owners, and jobs lost within this process: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import anyio
import pytest
from kernel.conftest import World
from upkeep.parts import rescuer_of, running_job

from aether_bg._kernel.attempt import Attempt
from aether_bg.model import Alive, JobContext, JobStatus

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("stopped", "crashes"), [(False, 1), (True, 0)])
async def test_what_a_dead_owner_held_is_put_back(
    make_world: Callable[..., World], stopped: bool, crashes: int
) -> None:
    world, dead = make_world(), uuid4()
    job = await running_job(world, dead)
    alive = Alive(store_id=uuid4(), dead=(dead,), stopping=frozenset({dead} if stopped else ()))
    assert await rescuer_of(world).look(alive) == (dead,)
    row = await world.row(job)
    assert (row.status, row.crash_count, row.owner) == (JobStatus.SCHEDULED, crashes, None)


async def test_a_claim_that_got_lost_is_released_at_the_second_look(make_world: Callable[..., World]) -> None:
    world = make_world()
    job = await running_job(world, world.shared.identity.owner)
    rescuer, alive = rescuer_of(world), Alive(store_id=uuid4(), running=((job.id, 1),))
    await rescuer.compare(alive, set())
    assert (await world.row(job)).status is JobStatus.RUNNING
    await rescuer.compare(alive, set())
    assert (await world.row(job)).status is JobStatus.SCHEDULED


async def test_an_attempt_that_the_store_no_longer_knows_is_revoked(make_world: Callable[..., World]) -> None:
    world = make_world()
    job = world.job(seq=1)
    attempt = Attempt(job, JobContext(job))
    attempt.scope = anyio.CancelScope()
    world.shared.slots.begin(attempt)
    await rescuer_of(world).compare(Alive(store_id=uuid4()), {(job.id, 1)})
    assert attempt.revoked
