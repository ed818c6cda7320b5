"""All parts together, above a kernel that was built without an app."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kernel.conftest import World
from kernel.test_kernel import kernel_of

from aether_bg._kernel.kernel import Kernel
from aether_bg._upkeep.upkeep import Upkeep

pytestmark = pytest.mark.anyio


def upkeep_of(world: World) -> tuple[Kernel, Upkeep]:
    kernel = kernel_of(world)
    return kernel, Upkeep(kernel, dependencies=world.registration.dependencies, declares=["job"])


async def test_join_run_and_leave(make_world: Callable[..., World]) -> None:
    world = make_world()
    kernel, upkeep = upkeep_of(world)
    kernel.open()
    try:
        alive = await upkeep.heartbeats.join()
        assert kernel.store_id == alive.store_id
        assert alive.declared == {"job"}
        upkeep.supervise()
        await kernel.journal.insert(world.job())
        await kernel.drain()
        health = await upkeep.health.report({"declarations": None})
        assert health["ok"]
        assert health["problems"] == {}
        json.dumps(health)
        await upkeep.heartbeats.leave()
        assert (await world.shared.calls.stats()).owners == 0
    finally:
        kernel.close()


async def test_health_names_what_is_wrong(make_world: Callable[..., World]) -> None:
    world = make_world()
    kernel, upkeep = upkeep_of(world)
    await upkeep.heartbeats.join()
    await kernel.journal.insert(world.job())
    world.clock.advance(seconds=11)
    await upkeep.heartbeats.beat()
    health: dict[str, Any] = await upkeep.health.report({"declarations": "one is not applied"})
    assert not health["ok"]
    assert "1 job is overdue" in health["problems"]["overdue"]
    assert health["problems"]["declarations"] == "one is not applied"
