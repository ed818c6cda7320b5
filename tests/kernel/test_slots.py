"""How many attempts run, and how many more may."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import attrs
import pytest
from kernel.conftest import World

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.slots import Slots
from aether_bg.model import JobContext

pytestmark = pytest.mark.anyio


async def test_outcomes_that_are_not_committed_hold_slots_back(make_world: Callable[..., World]) -> None:
    world = make_world()
    slots = Slots(2, lambda: None)
    jobs = [world.job(name) for name in "abcd"]
    attempts = [Attempt(job, JobContext(job)) for job in jobs]
    slots.begin(attempts[0])
    assert (slots.free, slots.busy) == (1, True)
    slots.reserve(jobs[1])
    assert slots.free == 0
    slots.unreserve(jobs[1], False)
    slots.end(attempts[0])
    slots.recording.update(job.id for job in jobs[:3])
    assert slots.free == 1
    for job in jobs:
        slots.settle(job)
    assert (slots.free, slots.busy, slots.started) == (2, False, 1)


async def test_one_suspect_at_a_time(make_world: Callable[..., World]) -> None:
    world, woken = make_world(), list[bool]()
    slots = Slots(2, lambda: woken.append(True))
    job = attrs.evolve(world.job(), crash_count=2)
    slots.reserve(job)
    assert slots.suspect
    slots.unreserve(job, False)
    assert not slots.suspect, "the claim did not take it"
    attempt = Attempt(job, JobContext(job))
    slots.begin(attempt)
    slots.end(attempt)
    assert slots.suspect, "until its outcome is safe"
    slots.settle(job)
    assert not slots.suspect
    assert woken == [True]


async def test_a_second_attempt_of_a_job_knows_the_first(make_world: Callable[..., World]) -> None:
    world = make_world()
    slots, job = Slots(2, lambda: None), world.job()
    first, second = Attempt(job, JobContext(job)), Attempt(job, JobContext(job))
    second.scope = anyio.CancelScope()
    assert slots.begin(first) is None
    assert slots.begin(second) is first
    slots.end(first)
    assert slots.running == {job.id: second}
    slots.revoke(job.id)
    assert second.revoked
