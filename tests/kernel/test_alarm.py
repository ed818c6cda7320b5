"""When the scheduler looks again."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import anyio
import pytest

from aether_bg._kernel.alarm import Alarm
from aether_bg.testing import FakeClock

pytestmark = pytest.mark.anyio
HOUR = timedelta(hours=1)


@pytest.fixture
def alarm(clock: FakeClock) -> Alarm:
    return Alarm(clock=clock, nap=1e6, on_loop=lambda fn: fn() and None)  # no tick ends a sleep here


async def sleeps(alarm: Alarm) -> bool:
    with anyio.move_on_after(0.05) as scope:
        await alarm.sleep_until(None)
    return scope.cancelled_caught


async def test_what_is_expected_while_awake_is_not_slept_through(alarm: Alarm, clock: FakeClock) -> None:
    alarm.expect(uuid4(), 0, clock.now())
    assert not await sleeps(alarm)
    assert await sleeps(alarm), "it counts once"


async def test_what_is_expected_while_asleep_wakes(alarm: Alarm, clock: FakeClock) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(alarm.sleep_until, clock.now() + HOUR)
        await anyio.sleep(0.01)
        alarm.expect(uuid4(), 0, clock.now())


async def test_a_look_that_takes_the_job_is_enough(alarm: Alarm, clock: FakeClock) -> None:
    job, other = uuid4(), uuid4()
    alarm.looking()
    alarm.expect(job, 0, clock.now())
    alarm.looked([(job, 0)])
    alarm.expect(job, 0, clock.now())  # its commit is announced after the claim has returned
    assert await sleeps(alarm)
    alarm.looking()
    alarm.expect(other, 0, clock.now())
    alarm.looked([])
    assert not await sleeps(alarm), "this one was not taken"


async def test_a_retry_of_a_job_that_was_taken_counts(alarm: Alarm, clock: FakeClock) -> None:
    job = uuid4()
    alarm.looking()
    alarm.looked([(job, 0)])
    alarm.expect(job, 2, clock.now())
    assert not await sleeps(alarm)


async def test_wake(alarm: Alarm) -> None:
    alarm.wake()
    assert not await sleeps(alarm)
    alarm.expect(uuid4(), 0, None)
    assert await sleeps(alarm)


async def test_naps_without_a_look(clock: FakeClock) -> None:
    """A store that is sure to wake is not asked after each nap; the clock is read all the same."""
    alarm = Alarm(clock=clock, nap=0.01, on_loop=lambda fn: fn() and None)
    assert not await sleeps(alarm), "one nap"
    alarm.looked([], sure=True)
    assert await sleeps(alarm)
    assert not await sleeps(alarm), "only the sleep after that look is long"
    alarm.looked([], sure=True)
    with anyio.fail_after(10):
        await alarm.sleep_until(None)


async def test_what_becomes_due_is_not_overslept_in_naps(clock: FakeClock) -> None:
    alarm = Alarm(clock=clock, nap=0.05, on_loop=lambda fn: fn() and None)
    for tell in (lambda: alarm.expect(uuid4(), 0, clock.now() + HOUR), lambda: None):
        alarm.looked([], sure=True)
        async with anyio.create_task_group() as group:
            group.start_soon(alarm.sleep_until, clock.now() + 2 * HOUR)
            await anyio.sleep(0.01)
            tell()
            clock.advance(hours=3)


async def test_the_look_of_a_drain_leaves_the_sleeping_scheduler_what_it_knows(clock: FakeClock) -> None:
    alarm = Alarm(clock=clock, nap=0.4, on_loop=lambda fn: fn() and None)
    alarm.looked([], sure=True)
    with anyio.fail_after(2):  # a nap, not ten
        async with anyio.create_task_group() as group:
            group.start_soon(alarm.sleep_until, clock.now() + HOUR)
            await anyio.sleep(0.01)
            alarm.looking()
            alarm.looked([], sure=True)
            clock.advance(hours=2)


@pytest.mark.parametrize("sure", [True, False])
async def test_how_long_it_sleeps_depends_on_the_last_look(clock: FakeClock, sure: bool) -> None:
    alarm = Alarm(clock=clock, nap=0.2, on_loop=lambda fn: fn() and None)
    alarm.looked([], sure=not sure)
    async with anyio.create_task_group() as group:
        group.start_soon(alarm.sleep_until, None)
        await anyio.sleep(0.01)
        alarm.looking()
        alarm.looked([], sure=sure)
        await anyio.sleep(0.3)
        assert alarm.sure is sure
        group.cancel_scope.cancel()
