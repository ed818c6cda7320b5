"""An event loop that does not answer is reported, with the attempt that holds it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from kernel.conftest import World, eventually

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.blocked import Watch
from aether_bg._kernel.timings import Timings
from aether_bg.model import JobContext

pytestmark = pytest.mark.anyio


async def test_an_attempt_that_holds_the_loop(make_world: Callable[..., World]) -> None:
    world = make_world()
    job = world.job()
    attempt = Attempt(job, JobContext(job))
    attempt.begun = True
    watch = Watch(running=lambda: [attempt], problems=world.shared.problems, timings=Timings(silent=0.05, watch=0.02))
    try:
        time.sleep(0.5)
        await eventually(lambda: "event loop" in world.shared.problems.current)
    finally:
        watch.stop()
    assert "Work (job) ran meanwhile" in world.shared.problems.current["event loop"]
