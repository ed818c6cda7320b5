"""The whole kernel, built without an app: what plugins see, `drain` and `health`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kernel.conftest import World

from aether_bg._app.enqueue import InTransaction
from aether_bg._kernel.kernel import Kernel
from aether_bg.model import JobStatus, Query
from aether_bg.protocols import Kernel as Seen

pytestmark = pytest.mark.anyio


def kernel_of(world: World) -> Kernel:
    registration, shared = world.registration, world.shared
    return Kernel(
        options=registration.options, timings=shared.timings, calls=shared.calls, handlers=shared.handlers,
        runners=registration.runners(), dependencies=registration.dependencies, clock=shared.clock,
        spawn=shared.spawn, client=False,
        enqueue_in=InTransaction(registration.admission(), shared.calls, shared.clock), call=lambda fn: None,
    )  # fmt: skip


async def test_drain_and_health(make_world: Callable[..., World]) -> None:
    world = make_world()
    kernel = kernel_of(world)
    seen: Seen = kernel
    kernel.open()
    try:
        await kernel.heartbeats.join()
        await kernel.journal.insert(world.job())
        await kernel.drain()
        (row,) = await seen.store.find(Query())
        assert row.status is JobStatus.COMPLETED
        assert (await seen.store.stats()).completed == 1
        assert [run.outcome for run in await seen.store.history(row.id)] == ["completed"]
        health = await kernel.health.report({"declarations": None})
        assert health["ok"]
        assert health["problems"] == {}
        json.dumps(health)
    finally:
        kernel.close()


async def test_health_names_what_is_wrong(make_world: Callable[..., World]) -> None:
    world = make_world()
    kernel = kernel_of(world)
    await kernel.heartbeats.join()
    await kernel.journal.insert(world.job())
    world.clock.advance(seconds=11)
    await kernel.heartbeats.beat()
    health: dict[str, Any] = await kernel.health.report({"declarations": "one is not applied"})
    assert not health["ok"]
    assert "1 job is overdue" in health["problems"]["overdue"]
    assert health["problems"]["declarations"] == "one is not applied"
