"""Schedules that this process can read, and those that it cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs
import pytest
from kernel.conftest import World

from aether_bg._kernel.schedules import Schedules
from aether_bg.errors import InvalidSchedule
from aether_bg.schedule import Schedule, load

pytestmark = pytest.mark.anyio


async def test_what_cannot_be_read_is_left_to_others(make_world: Callable[..., World]) -> None:
    world, known = make_world(), False

    def loading(text: str, timezone: str | None) -> Schedule:
        return load("@daily" if known and text == "@lunch" else text, timezone)

    schedules = Schedules(loading, world.clock)
    job = attrs.evolve(world.job(), expression_value="@lunch")
    with pytest.raises(InvalidSchedule):
        schedules.plan(job)
    assert schedules.plan_or_none(job) is None
    assert schedules.cannot_read(job)
    assert not schedules.read_again()
    known = True
    assert schedules.read_again()
    assert not schedules.cannot_read(job)
    assert schedules.plan(job).schedule.recurring


async def test_aside_runs_in_a_thread(make_world: Callable[..., World]) -> None:
    here = threading.get_ident()
    assert await make_world().shared.schedules.aside(threading.get_ident) != here
