"""The whole kernel, built without an app: what plugins see, and `drain`."""

from __future__ import annotations

from collections.abc import Callable

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
        enqueue_in=InTransaction(registration.admission(), shared.calls, shared.clock), across=world.across,
    )  # fmt: skip


async def test_drain(make_world: Callable[..., World]) -> None:
    world = make_world()
    kernel = kernel_of(world)
    seen: Seen = kernel
    kernel.open()
    try:
        await world.join(kernel.owner)
        await kernel.journal.insert(world.job())
        await kernel.drain()
        (row,) = await seen.store.find(Query())
        assert row.status is JobStatus.COMPLETED
        assert (await seen.store.stats()).completed == 1
        assert [run.outcome for run in await seen.store.history(row.id)] == ["completed"]
    finally:
        kernel.close()
