"""Rows are handed to the scheduler that must hold them, and marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kernel.conftest import World, eventually

from aether_bg import StoreBusy
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


async def test_a_row_that_changes_meanwhile_is_forgotten_as_it_was_armed(make_world: Callable[..., World]) -> None:
    """The scheduler holds the first seq, and the row does not say so."""
    world = make_world()
    part, asked = arming(world, [])
    job = world.job()
    await world.journal.insert(job)
    arm = world.shared.calls.arm

    async def paused_meanwhile(row: JobInfo) -> bool:
        if row.waiting:
            pause = commands.pause(row, world.shared.clock.moment())
            assert pause is not None
            await world.journal.update(pause)
        return await arm(row)

    world.shared.calls.arm = paused_meanwhile  # type: ignore[method-assign]
    await part.flush(5)
    await part.flush(5)
    assert [(row.waiting, row.armed_seq) for row in asked] == [(True, -1), (False, job.seq)]


async def test_what_cannot_be_read_is_armed_later(make_world: Callable[..., World]) -> None:
    world = make_world()
    part, asked = arming(world, [])
    job, find = world.job(), world.shared.calls.find
    await world.journal.insert(job)
    part.changed(job.id)

    async def fails(query: Any) -> Any:
        world.shared.calls.find = find  # type: ignore[method-assign]
        raise StoreBusy("a file", "it is busy")

    world.shared.calls.find = fails  # type: ignore[method-assign]
    await part.flush(5)
    assert (asked, "outbox" in world.shared.problems.current, part._wait > 0) == ([], True, True)
    await part.flush(5)
    assert ([row.id for row in asked], part._wait) == ([job.id], 0)
