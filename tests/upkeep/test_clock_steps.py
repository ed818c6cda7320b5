"""The wall clock is set back: waiting jobs are adjusted, and it is reported once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from kernel.conftest import World

from aether_bg._upkeep.clocks import Clocks

pytestmark = pytest.mark.anyio


async def test_a_retry_waits_no_longer_than_was_meant(make_world: Callable[..., World]) -> None:
    world = make_world()
    clocks = Clocks(shared=world.shared, journal=world.journal)
    now = world.clock.now()
    job = world.job(due_at=now + timedelta(seconds=5), attempt=1, handled_time=now)
    await world.journal.insert(job)
    await clocks.look()
    world.clock.set(now - timedelta(days=1))
    await clocks.look()
    assert (await world.row(job)).due_at == now - timedelta(days=1) + timedelta(seconds=5)
    assert "set back by 1 day" in world.shared.problems.current["clock"]
    assert world.shared.schedules.undone is not None
