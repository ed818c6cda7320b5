"""Who is alive, which jobs dead owners held, and which warnings follow: heartbeat, rescuer and monitor, without an
app."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import attrs
import pytest
from kernel.conftest import World, eventually

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.heartbeat import Heartbeats
from aether_bg._kernel.monitor import Monitor
from aether_bg._kernel.rescuer import Rescuer
from aether_bg._kernel.standstill import Standstill
from aether_bg._kernel.tasks import Signal
from aether_bg._kernel.timings import Timings
from aether_bg._kernel.unserved import Unserved
from aether_bg._rules.settings import SystemClock
from aether_bg.model import Alive, Heartbeat, JobContext, JobInfo, JobStatus

pytestmark = pytest.mark.anyio


def monitor_of(world: World) -> Monitor:
    unserved = Unserved(world.shared)
    return Monitor(shared=world.shared, unserved=unserved, arm=world.armed.append, wake=world.alarm.wake)


def rescuer_of(world: World) -> Rescuer:
    return Rescuer(shared=world.shared, journal=world.journal, standstill=Standstill(1.0))


def heartbeats_of(world: World) -> Heartbeats:
    return Heartbeats(
        shared=world.shared, lease=1.0, look=Signal(), alarm=world.alarm, rescuer=rescuer_of(world),
        monitor=monitor_of(world),
    )  # fmt: skip


async def running_job(world: World, owner: UUID, **fields: Any) -> JobInfo:
    job = world.job(status=JobStatus.RUNNING, owner=owner, attempt=1, seq=1, started_at=world.clock.now(), **fields)
    await world.journal.insert(job)
    return job


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
    async with running(beats.run):  # it has never joined: the store does not know it
        await eventually(lambda: world.shared.identity.owner != before)
        await eventually(lambda: beats.alive is not None and beats.alive.known)
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


async def test_overdue_jobs_are_armed_and_reported_at_the_second_sweep(make_world: Callable[..., World]) -> None:
    world = make_world(timings=Timings(sweep=0))
    job = world.job()
    await world.journal.insert(job)
    world.clock.advance(minutes=2)
    world.armed.clear()
    monitor, alive = monitor_of(world), Alive(store_id=uuid4(), due=frozenset({"Work"}), advertised=frozenset({"Work"}))
    await monitor.look(alive)
    assert world.armed == [job.id]
    assert world.shared.problems.current == {}
    await monitor.look(alive)
    assert "1 jobs are overdue" in world.shared.problems.current["scheduler"]


async def test_an_attempt_that_hangs_is_named(make_world: Callable[..., World]) -> None:
    world = make_world()
    job = world.job()
    attempt = Attempt(job, JobContext(job))
    attempt.scope = anyio.CancelScope()
    world.shared.slots.begin(attempt)
    attempt.scope.cancel()
    monitor, alive = monitor_of(world), Alive(store_id=uuid4())
    await monitor.look(alive)
    world.clock.advance(seconds=2)
    await monitor.look(alive)
    assert "it does not end when cancelled" in world.shared.problems.current["attempts"]


async def test_a_handler_that_no_process_has(make_world: Callable[..., World]) -> None:
    world = make_world()
    await world.journal.insert(attrs.evolve(world.job(), handler_name="Nobody"))
    unserved, alive = Unserved(world.shared), Alive(store_id=uuid4(), due=frozenset({"Nobody"}))
    assert set((await unserved.find(alive)).handlers) == {"Nobody"}
    await unserved.look(alive)
    assert world.shared.problems.current == {}, "a process may be about to start"
    world.clock.advance(seconds=2)
    await unserved.look(alive)
    assert "'Nobody' since" in world.shared.problems.current["handlers"]


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
