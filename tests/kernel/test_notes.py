"""Progress and checkpoints of running attempts: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from kernel.conftest import World, eventually
from kernel.parts import claimed

from aether_bg import InvalidPayload, StoreBusy, TokenLost
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.tasks import runner
from aether_bg._kernel.timings import Timings
from aether_bg._rules import transitions
from aether_bg._rules.results import Released
from aether_bg.errors import StoreUnsure
from aether_bg.model import Claim, JobContext, JobStatus, Progress
from aether_bg.model.context import DONE

pytestmark = pytest.mark.anyio

BUSY = StoreBusy("a file", "it is busy")


@pytest.fixture
def make(make_world: Callable[..., World]) -> Callable[[], tuple[World, Notes]]:
    def made() -> tuple[World, Notes]:
        world = make_world(timings=Timings(progress=0.001))
        return world, Notes(shared=world.shared, on_loop=runner(), across=world.across, limit=50)

    return made


async def done(world: World, job: Any) -> float | None:
    progress = (await world.row(job)).progress
    return None if progress is None else progress.done


async def test_the_newest_progress_of_all_attempts_is_written_together(make: Any, running: Any) -> None:
    world, notes = make()
    await world.join()
    one, two = await claimed(world, name="one"), await claimed(world, name="two")
    world.store.batches.clear()
    for number in range(5):
        notes.progress(one.context, number, None, None)
    await anyio.to_thread.run_sync(notes.progress, two.context, 7, 10, "of another thread")
    async with running(notes.run):
        await eventually(lambda: world.store.batches and not notes._writing)
        assert [len(batch) for batch in world.store.batches] == [2]
    assert (await done(world, one.job), await done(world, two.job)) == (4, 7)


async def test_an_outcome_takes_the_progress_that_is_not_written(make: Any) -> None:
    world, notes = make()
    await world.join()
    attempt = await claimed(world)
    assert notes.last(attempt.context) is None
    notes.progress(attempt.context, 3, None, None)
    last = notes.last(attempt.context)
    assert isinstance(last, Progress)
    assert last.done == 3
    assert notes.last(attempt.context) is None


async def test_progress_of_an_attempt_that_has_ended_does_not_keep_that_of_others(make: Any, running: Any) -> None:
    world, notes = make()
    await world.join()
    ended, other = await claimed(world, name="ended"), await claimed(world, name="other")
    await world.store.write(lambda rows: rows.delete_job(ended.job))
    notes.progress(ended.context, 1, None, None)
    notes.progress(other.context, 2, None, None)
    async with running(notes.run):
        await eventually(lambda: not notes._fresh and not notes._writing)
    assert await done(world, other.job) == 2
    assert world.shared.problems.current == {}


async def test_progress_of_an_ended_attempt_does_not_keep_that_of_the_next_one(make: Any, running: Any) -> None:
    """Of the same job, in the same second."""
    world, notes = make()
    await world.join()
    ended = await claimed(world)
    change = transitions.finish(ended.job, Released(begun=True), None, world.shared.clock.moment())
    await world.journal.update(change)
    row = await world.row(ended.job)
    claim = Claim(
        owner=world.shared.identity.owner, now=world.clock.now(), limit=1, handlers=("Work",), job_id=row.id,
        seq=row.seq,
    )  # fmt: skip
    (current,) = (await world.shared.calls.claim(claim)).jobs
    notes.progress(ended.context, 1, None, None)
    notes.progress(JobContext(current), 2, None, None)
    async with running(notes.run):
        await eventually(lambda: not notes._fresh and not notes._writing)
    assert await done(world, ended.job) == 2


async def test_trouble_is_reported_and_later_progress_is_written(make: Any, running: Any) -> None:
    world, notes = make()
    await world.join()
    attempt = await claimed(world)
    world.store.trouble = [BUSY]
    async with running(notes.run):
        notes.progress(attempt.context, 1, None, None)
        await eventually(lambda: "progress" in world.shared.problems.current)
        notes.progress(attempt.context, 2, None, None)
        await eventually(lambda: not notes._fresh and not notes._writing)
    assert await done(world, attempt.job) == 2


async def test_who_waits_here_sees_progress_at_once(make: Any) -> None:
    world, notes = make()
    await world.join()
    attempt = await claimed(world)
    with notes.watching(attempt.job.id) as watch, notes.watching(attempt.job.id) as other:
        moved = watch.moved.next()
        notes.progress(attempt.context, 1, None, None)
        assert moved.is_set()
        assert watch.seen is not None
        assert other.seen is watch.seen
    assert notes._watches == {}


async def test_a_checkpoint_is_stored_when_it_returns(make: Any) -> None:
    world, notes = make()
    await world.join()
    attempt = await claimed(world)
    world.store.lost = [StoreUnsure("a server", "the answer is lost")]  # written twice, to be sure
    await notes.checkpoint(attempt.context, {"row": 1})
    assert (await world.row(attempt.job)).checkpoint == {"row": 1}
    assert attempt.context.checkpointed == {"row": 1}

    def in_a_thread() -> None:
        assert notes.checkpoint(attempt.context, 2) is DONE

    await anyio.to_thread.run_sync(in_a_thread)
    assert (await world.row(attempt.job)).checkpoint == 2
    with pytest.raises(InvalidPayload, match="checkpoint"):
        await notes.checkpoint(attempt.context, "x" * 100)


async def test_an_older_checkpoint_never_follows_a_newer_one(make: Any) -> None:
    world, notes = make()
    await world.join()
    attempt = await claimed(world)
    older, newer = notes.checkpoint(attempt.context, 1), notes.checkpoint(attempt.context, 2)
    await newer
    await older
    assert (await world.row(attempt.job)).checkpoint == attempt.context.checkpointed == 2


async def test_a_checkpoint_without_its_token_ends_the_attempt(make: Any) -> None:
    world, notes = make()
    await world.join()
    attempt = await claimed(world)
    await world.store.write(lambda rows: rows.delete_job(attempt.job))
    with pytest.raises(TokenLost, match="no longer holds the job"):
        await notes.checkpoint(attempt.context, 1)
    assert attempt.revoked
    assert attempt.job.status is JobStatus.RUNNING
