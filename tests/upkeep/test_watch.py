"""An event loop that does not answer is reported, with the attempt that holds it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from kernel.conftest import World, eventually

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.timings import Timings
from aether_bg._upkeep.blocked import LoopWatch
from aether_bg.model import JobContext

pytestmark = pytest.mark.anyio


async def test_an_attempt_that_holds_the_loop(make_world: Callable[..., World]) -> None:
    world = make_world(timings=Timings(silent=0.05, watch=0.02))
    job = world.job()
    attempt = Attempt(job, JobContext(job))
    attempt.begun = True
    slots = world.shared.slots
    watch = LoopWatch(world.shared)
    try:
        slots.begin(attempt)
        time.sleep(0.5)
        await eventually(lambda: "event loop" in world.shared.problems.current)
    finally:
        watch.stop()
    assert "Work (job) ran meanwhile" in world.shared.problems.current["event loop"]


async def test_nothing_is_watched_while_nothing_runs(make_world: Callable[..., World]) -> None:
    """An idle process is not woken for it."""
    world = make_world(timings=Timings(silent=0.05, watch=0.01))
    job, slots = world.job(), world.shared.slots
    attempt = Attempt(job, JobContext(job))
    attempt.begun = True
    watch = LoopWatch(world.shared)
    posted: list[object] = []
    watch._bridge.post = lambda fn: posted.append(fn) is None  # type: ignore[method-assign]
    try:
        time.sleep(0.3)
        assert not posted
        slots.begin(attempt)
        await eventually(lambda: posted)
        slots.end(attempt)
        time.sleep(0.1)
        watch._answered, before = True, len(posted)
        time.sleep(0.3)
        assert len(posted) <= before + 1
    finally:
        watch.stop()
