"""Processes that share a limit: the turns alone, after claims that the test makes up (docs/protocol.md, L2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from kernel.conftest import World

from aether_bg._kernel.timings import Timings
from aether_bg._kernel.turns import Turns
from aether_bg.model import Claimed

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

ASIDE = timedelta(seconds=0.5)
Make = Callable[..., World]


def filling(world: World) -> Claimed:
    """Jobs were taken, and others wait for the limit."""
    return Claimed(jobs=(world.job(),), short=True)


async def test_one_that_has_filled_a_limit_for_a_while_stands_aside(make_world: Make) -> None:
    world = make_world(timings=Timings(turn=(1.0, 4.0), aside=0.5), concurrency=1)
    turns, world.shared.identity.company = Turns(world.shared), True
    for length in (1, 2, 4, 4):  # each turn is longer than the one before, up to the longest
        assert turns.looked(filling(world)) is None, "its turn begins"
        world.clock.advance(seconds=length - 0.1)
        assert turns.looked(filling(world)) is None
        world.clock.advance(seconds=0.2)
        assert turns.looked(filling(world)) == world.clock.now() + ASIDE
        assert turns.limits == {"Work": 0}
        world.clock.advance(seconds=0.6)
        assert turns.limits == {"Work": 1}


@pytest.mark.parametrize("why", ["alone", "nothing waits", "no limit"])
async def test_otherwise_it_goes_on(make_world: Make, why: str) -> None:
    world = make_world(timings=Timings(turn=(1.0, 4.0), aside=0.5), concurrency=None if why == "no limit" else 1)
    turns, world.shared.identity.company = Turns(world.shared), why != "alone"
    for _ in range(5):
        assert turns.looked(filling(world) if why != "nothing waits" else Claimed(jobs=(world.job(),))) is None
        world.clock.advance(seconds=2)
        assert 0 not in turns.limits.values()
