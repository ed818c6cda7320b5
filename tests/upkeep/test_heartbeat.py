"""Who is alive: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
from kernel.conftest import World, eventually
from upkeep.parts import heartbeats_of, running_job

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.timings import Timings
from aether_bg._rules.settings import SystemClock
from aether_bg.model import Alive, Heartbeat, JobContext, JobStatus

pytestmark = pytest.mark.anyio


async def test_join_look_and_leave(make_world: Callable[..., World]) -> None:
    world, dead = make_world(), uuid4()
    job = await running_job(world, dead)
    beats = heartbeats_of(world)
    alive = await beats.join()
    assert world.shared.identity.store_id == alive.store_id
    assert (await world.row(job)).status is JobStatus.SCHEDULED
    assert await beats.others() is beats.alive
    mine = await running_job(world, world.shared.identity.owner, id=uuid4(), job_name="mine")
    await beats.leave()
    assert (await world.row(mine)).crash_count == 0
    assert world.shared.identity.owner not in (await heartbeats_of(world).others()).beats


async def test_an_owner_that_was_declared_dead_starts_over(make_world: Callable[..., World], running: Any) -> None:
    world = make_world(timings=Timings(look=0.001))
    beats, before = heartbeats_of(world), world.shared.identity.owner
    job = world.job()
    attempt = Attempt(job, JobContext(job))
    attempt.scope = anyio.CancelScope()
    world.shared.slots.begin(attempt)
    roused = world.alarm.roused.next()
    async with running(beats.run):  # it has never joined: the store does not know it
        await eventually(lambda: world.shared.identity.owner != before)
        await eventually(lambda: beats.alive is not None and beats.alive.known)
        await eventually(roused.is_set)
    assert attempt.revoked


async def test_the_stores_clock_is_followed_and_a_difference_reported_once(make_world: Callable[..., World]) -> None:
    world = make_world()

    class Apart(SystemClock): ...

    world.shared.clock.__init__(Apart(), lambda: None)  # type: ignore[misc]
    store_now = world.shared.clock.now() + timedelta(seconds=5)

    async def answer(beat: Heartbeat) -> Alive:
        return Alive(store_id=uuid4(), now=store_now)

    world.shared.calls.heartbeat = answer  # type: ignore[method-assign]
    beats = heartbeats_of(world)
    for _ in range(3):
        await beats.beat()
    assert abs(world.shared.clock.now() - store_now) < timedelta(seconds=2)
    assert "behind the store's" in world.shared.problems.current["clock"]


async def test_the_first_look_at_others_comes_soon(make_world: Callable[..., World], running: Any) -> None:
    """Whose jobs may wait, or who may share a limit; then, alone, it looks three times less often."""
    world, waits = make_world(), list[float]()

    class Look:
        async def wait(self, within: float) -> None:
            waits.append(within)
            await anyio.sleep(0.001)

    beats = attrs.evolve(heartbeats_of(world), look=Look())
    await beats.join()
    async with running(beats.run):
        await eventually(lambda: len(waits) > 2)
    look = world.shared.timings.look
    assert waits[:3] == [look, 3 * look, 3 * look]


@pytest.mark.parametrize(("sure", "due", "company"), [(True, (), False), (False, (), False), (True, ("Work",), False),
                                                     (True, (), True)])  # fmt: skip
async def test_an_owner_rests_while_it_is_alone_and_idle(
    make_world: Callable[..., World], running: Any, sure: bool, due: tuple[str, ...], company: bool
) -> None:
    """On a store that is sure to wake it, until it is woken."""
    world, beats = make_world(timings=Timings(look=0.001)), list[float]()
    me = world.shared.identity.owner

    async def answer(beat: Heartbeat) -> Alive:
        beats.append(anyio.current_time())
        others = {uuid4(): 1} if company else {}
        return Alive(store_id=uuid4(), beats={me: 1, **others}, due=frozenset(due), sure_to_wake=sure)

    world.shared.calls.heartbeat = answer  # type: ignore[method-assign]
    heartbeats = attrs.evolve(heartbeats_of(world), lease=3600.0)
    world.alarm.looked([], sure=sure)

    async def scheduler() -> None:
        while True:
            await world.alarm.sleep_until(None)
            world.alarm.looked([], sure=sure)

    async with running(scheduler, heartbeats.run):
        await eventually(lambda: beats)
        await anyio.sleep(0.3)
        rested = len(beats) == 1
        assert rested is (sure and not due and not company)
        world.alarm.wake()
        await eventually(lambda: len(beats) > 1)
        if rested:
            await anyio.sleep(0.1)
            count = len(beats)
            attempt = Attempt(world.job(), JobContext(world.job()))
            attempt.scope = anyio.CancelScope()
            world.shared.slots.begin(attempt)
            await eventually(lambda: len(beats) > count + 2)
