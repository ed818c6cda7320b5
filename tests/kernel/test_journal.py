"""Commits are announced once: to those who wait, the scheduler, the arming and the observers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest
from kernel.conftest import World

from aether_bg._kernel.journal import Written
from aether_bg._rules import commands
from aether_bg.errors import NameHeld, Stale, StoreUnsure
from aether_bg.model import Altered, Enqueued, Hold, Insert, JobStatus, Update, Write

pytestmark = pytest.mark.anyio
UNSURE = StoreUnsure("a commit", "its answer was lost")


async def told(world: World, running: Any) -> list[Any]:
    async with running(world.shared.observers.run):
        with anyio.fail_after(5):
            while not world.shared.observers.idle:
                await anyio.sleep(0.001)
    return world.events


async def test_an_insert(make_world: Callable[..., World], running: Any) -> None:
    world = make_world()
    job = world.job()
    await world.journal.insert(job)
    assert await told(world, running) == [Enqueued(job)]
    assert world.armed == [job.id]


async def test_an_update_ends_the_wait(make_world: Callable[..., World], running: Any) -> None:
    world = make_world()
    job = world.job()
    await world.journal.insert(job)
    ended = world.journal.ended(job.id)
    cancel = commands.cancel(job, world.shared.clock.moment())
    assert cancel is not None
    await world.journal.update(cancel, job, "delete")
    assert ended.is_set()
    altered = (await told(world, running))[-1]
    assert isinstance(altered, Altered)
    assert (altered.verb, altered.job) == ("delete", await world.row(job))
    assert not await world.journal.try_update(cancel), "the row has moved on"


async def test_what_is_not_committed_is_not_announced(make_world: Callable[..., World]) -> None:
    world = make_world()
    await world.journal.insert(world.job())
    with pytest.raises(NameHeld):
        await world.journal.insert(world.job())
    assert len(world.armed) == 1


@pytest.mark.parametrize("happened", [True, False])
async def test_a_lost_answer(make_world: Callable[..., World], happened: bool) -> None:
    """The same write once more finds out: an equal row is a success, and so is our own change."""
    world = make_world()
    job = world.job()
    (world.store.lost if happened else world.store.trouble).append(UNSURE)
    await world.journal.insert(job)
    assert (await world.row(job)).id == job.id
    world.clock.advance(seconds=1)
    pause = commands.pause(job, world.shared.clock.moment())
    assert pause is not None
    (world.store.lost if happened else world.store.trouble).append(UNSURE)
    await world.journal.update(pause)
    assert (await world.row(job)).paused
    assert len(world.armed) == 2


@pytest.mark.parametrize("happened", [True, False])
async def test_a_lost_answer_to_several_writes(make_world: Callable[..., World], happened: bool) -> None:
    world = make_world()
    old, new = world.job(status=JobStatus.CANCELLED), world.job()
    await world.journal.insert(old)
    release = commands.release_name(old, world.shared.clock.moment())
    (world.store.lost if happened else world.store.trouble).append(UNSURE)
    await world.journal.write_all([Written(Update(release)), Written(Insert(new))])
    assert (await world.row(new)).holds_name
    assert world.armed == [old.id, old.id, new.id]


async def test_a_lost_answer_to_a_pause_of_a_handler(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.store.lost.append(UNSURE)
    await world.journal.hold(Hold(handler="Work", held=True, at=world.clock.now()))
    assert (await world.shared.calls.stats()).paused_handlers == ("Work",)


async def test_a_lost_answer_and_a_change_of_another(make_world: Callable[..., World]) -> None:
    world = make_world()
    job = world.job()
    await world.journal.insert(job)
    pause = commands.pause(job, world.shared.clock.moment())
    assert pause is not None
    world.clock.advance(seconds=1)
    theirs = commands.cancel(job, world.shared.clock.moment())
    assert theirs is not None
    await world.journal.update(theirs)
    world.store.trouble = [UNSURE]
    with pytest.raises(Stale):
        await world.journal.update(pause)
    assert (await world.row(job)).status is JobStatus.CANCELLED


async def test_no_answer_before_the_stop(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is stored stays unknown: "it is not stored" could be wrong."""
    world = make_world()
    job = world.job(due_at=world.clock.now() + timedelta(hours=1))

    async def stops(writes: Sequence[Write]) -> Sequence[object]:
        await commit(writes)
        world.batcher.close()
        raise UNSURE

    commit = world.batcher._transact
    monkeypatch.setattr(world.batcher, "_transact", stops)
    with pytest.raises(StoreUnsure):
        await world.journal.insert(job)
    assert (await world.row(job)).id == job.id


async def test_no_answer_twice(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.store.trouble = [UNSURE, UNSURE]
    with pytest.raises(StoreUnsure):
        await world.journal.insert(world.job(due_at=world.clock.now() + timedelta(hours=1)))
    assert world.armed == []
