"""Warnings about jobs that do not get on: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import anyio
import pytest
from kernel.conftest import World
from upkeep.parts import monitor_of

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.timings import Timings
from aether_bg.model import Alive, JobContext

pytestmark = pytest.mark.anyio


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


async def test_a_missing_handler_is_named_after_a_moment_and_once_an_hour(make_world: Callable[..., World]) -> None:
    world = make_world()
    await world.journal.insert(world.job(handler_name="Elsewhere"))
    monitor, alive = monitor_of(world), Alive(store_id=uuid4(), due=frozenset({"Elsewhere"}))
    await monitor.look(alive)
    assert world.shared.problems.current == {}, "a process may be about to start"
    told = 0
    for _ in range(4):
        world.clock.advance(minutes=25)
        await monitor.look(alive)
        told += "'Elsewhere' since" in world.shared.problems.current.get("handlers", "")
    assert told == 2
    await monitor.look(Alive(store_id=uuid4()))  # a process with the handler has come, and goes again
    world.clock.advance(minutes=70)
    await monitor.look(alive)
    assert "handlers" not in world.shared.problems.current
