"""Loops that fail are started again, and problems without a caller are reported."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import attrs
import pytest
from kernel.conftest import World, eventually

from aether_bg._kernel.problems import one_line
from aether_bg._kernel.supervisor import Supervisor
from aether_bg._kernel.tasks import runner
from aether_bg._kernel.timings import Timings
from aether_bg.errors import NotStarted
from aether_bg.model import Problem

pytestmark = pytest.mark.anyio


def supervisor(world: World) -> Supervisor:
    timings = Timings(backoff=(0.001, 0.01))
    return Supervisor(shared=attrs.evolve(world.shared, timings=timings), on_loop=runner())


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no")], ids=["error", "exit"])
async def test_a_loop_that_fails_is_started_again(make_world: Callable[..., World], error: BaseException) -> None:
    world = make_world()
    loops, begun = supervisor(world), 0

    async def fails() -> None:
        nonlocal begun
        begun += 1
        raise error

    loops.supervise(fails, "loop")
    await eventually(lambda: begun >= 5)
    assert world.shared.problems.current == {"loop": f"{type(error).__name__}: no"}
    assert loops.failing("loop")
    loops.cancel()
    seen = begun
    await anyio.sleep(0.05)
    assert begun <= seen + 1


async def test_one_that_returns_is_done_if_it_may(make_world: Callable[..., World]) -> None:
    world = make_world()
    loops, begun = supervisor(world), [0, 0]

    async def once() -> None:
        begun[0] += 1

    async def never_meant_to() -> None:
        begun[1] += 1

    threading.Thread(target=loops.spawn, args=(once, "once")).start()
    loops.supervise(never_meant_to, "forever")
    await eventually(lambda: begun[1] > 3)
    assert begun[0] == 1
    assert "should run until the stop" in world.shared.problems.current["forever"]
    loops.end()


async def test_problems_fade_and_reach_observers(make_world: Callable[..., World]) -> None:
    world = make_world()
    shared, told = world.shared, world.shared.problems
    told.report("part", "away")
    assert told.current == {"part": "away"}
    world.clock.advance(seconds=61)
    assert told.current == {}
    loops = supervisor(world)
    loops.keep(shared.observers.run)
    await eventually(lambda: world.events == [Problem("part", "away")])
    loops.end()


async def test_during_the_stop_each_kind_is_said_once(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    world.shared.identity.stopping = True
    for error in (ValueError("one"), ValueError("two"), NotStarted("x", "it is over")):
        world.shared.problems.report("part", error)
    assert [record.getMessage() for record in caplog.records] == ["part: ValueError: one"]


def test_one_line() -> None:
    assert one_line(ExceptionGroup("g", [ValueError("a\nb"), KeyError("c")])).count("\n") == 0
