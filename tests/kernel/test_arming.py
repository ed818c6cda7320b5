"""Rows are handed to the scheduler that must hold them, and marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kernel.conftest import World, eventually

from aether_bg._kernel.arming import Arming
from aether_bg._kernel.timings import Timings
from aether_bg._rules import commands
from aether_bg.model import JobInfo

pytestmark = pytest.mark.anyio


def arming(world: World, answers: list[Any]) -> tuple[Arming, list[JobInfo]]:
    asked: list[JobInfo] = []

    async def arm(job: JobInfo) -> bool:
        asked.append(job)
        answer = answers.pop(0) if answers else True
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    world.shared.calls.arm = arm  # type: ignore[method-assign]
    return Arming(shared=world.shared, batcher=world.batcher, roused=world.alarm.roused), asked


async def test_what_waits_is_armed_and_marked(make_world: Callable[..., World]) -> None:
    world = make_world()
    part, asked = arming(world, [])
    job = world.job()
    await world.journal.insert(job)
    await part.flush(5)
    assert [each.id for each in asked] == [job.id]
    row = await world.row(job)
    assert row.armed_seq == row.seq
    await part.flush(5)
    assert len(asked) == 1
    cancel = commands.cancel(row, world.shared.clock.moment())
    assert cancel is not None
    await world.journal.update(cancel)
    part.changed(job.id)
    await part.flush(5)
    assert not asked[-1].waiting, "to be forgotten"


@pytest.mark.parametrize("answer", [False, ConnectionError("away")])
async def test_a_refusal_is_asked_again(make_world: Callable[..., World], running: Any, answer: Any) -> None:
    world = make_world(timings=Timings(arming_backoff=(0.001, 0.01), arming=0.01))
    part, asked = arming(world, [answer, answer])
    job = world.job()
    await world.journal.insert(job)
    async with running(part.run):
        await eventually(lambda: len(asked) >= 3)
        await eventually(lambda: not part._wait)
    assert (await world.row(job)).armed_seq == 0
