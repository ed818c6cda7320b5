"""What is kept, and when a large store is reported: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from kernel.conftest import World, eventually

from aether_bg._upkeep.retention import LARGE, Retention
from aether_bg.model import JobStatus, Query

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("keep", "left"), [(timedelta(minutes=10), {"0", "4"}), (2, {"0", "4", "3"})])
async def test_old_jobs_go(make_world: Callable[..., World], running: Any, keep: Any, left: set[str]) -> None:
    world = make_world()
    await world.journal.insert(world.job("0"))
    for name in "1234":
        ended = {"status": JobStatus.COMPLETED, "handled_time": world.clock.now()}
        await world.journal.insert(world.job(name, **ended))
        world.clock.advance(minutes=4)
    world.clock.advance(minutes=4)

    async def names() -> set[str]:
        return {job.job_name for job in await world.shared.calls.find(Query())}

    retention = Retention(shared=world.shared, keep={JobStatus.COMPLETED: keep})
    async with running(retention.run):
        await eventually(lambda: len(world.store._rows.by_id) == len(left))
    assert await names() == left


async def test_a_large_store_without_retention_is_reported(make_world: Callable[..., World]) -> None:
    world = make_world()
    Retention(shared=world.shared, keep={JobStatus.FAILED: 10}).warn_of_size(2 * LARGE)
    Retention(shared=world.shared, keep={}).warn_of_size(LARGE)
    assert world.shared.problems.current == {}
    Retention(shared=world.shared, keep={}).warn_of_size(2 * LARGE)
    assert "the store holds 2.0 GiB" in world.shared.problems.current["retention"]
