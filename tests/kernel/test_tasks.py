"""Tasks of the kernel's own on asyncio: held while they run, let go when they end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from aether_bg import Aether
from aether_bg._kernel.tasks import spawner

host = ContextVar("host", default="none")


class Witness:
    """Told apart from its like by a weak reference alone."""

    go: asyncio.Future[None]


async def spawned() -> None:
    spawn = spawner()
    begun, ended = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def work(witness: Witness) -> None:
        seen.append(host.get())
        begun.set()
        witness.go = asyncio.get_running_loop().create_future()  # which nothing but this task refers to
        await witness.go
        ended.set()

    async def nothing(_: Witness) -> None: ...

    host.set("here")
    witness, brief = Witness(), Witness()
    gone, over = weakref.ref(witness), weakref.ref(brief)
    spawn(work, witness)
    spawn(nothing, brief)
    del witness, brief
    await begun.wait()
    gc.collect()
    held = gone()
    assert held is not None, "held by nothing, a task may vanish while it waits"
    held.go.set_result(None)
    del held
    await ended.wait()
    await asyncio.sleep(0.01)
    gc.collect()
    assert (gone(), over()) == (None, None)
    tasks = [one for one in gc.get_objects() if issubclass(type(one), asyncio.Task)]
    here = [one for one in tasks if one.get_loop() is asyncio.get_running_loop()]  # other tests leave theirs behind
    assert not [one for one in here if one.done()], "kept for nothing"
    assert seen == ["none"], "it must not have its starter's context (docs/protocol.md, W6)"


def test_they_are_held_until_they_end() -> None:
    asyncio.run(spawned())


async def eagerly() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    await spawned()


eager = pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 brought eager tasks")


@eager
def test_they_are_held_until_they_end_with_eager_tasks() -> None:
    asyncio.run(eagerly())


@eager
def test_jobs_run_on_a_host_with_eager_tasks(make_app: Callable[..., Aether]) -> None:
    app, ran = make_app(), []

    @app.handler("Noop")
    async def noop() -> None:
        ran.append(1)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        async with app:
            for _ in range(250):
                await app.enqueue("Noop")
            await app.drain()

    asyncio.run(main())
    assert len(ran) == 250
