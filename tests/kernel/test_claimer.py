"""From due jobs to committed outcomes: claimer, executor, decider and completer, without an app."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from kernel.conftest import World, eventually
from kernel.parts import machinery

from aether_bg.errors import StoreBusy, StoreUnsure
from aether_bg.model import Backoff, Ended, JobStatus, RunOutcome, Snooze

pytestmark = pytest.mark.anyio


async def settled(world: World) -> None:
    await eventually(lambda: not world.shared.slots.busy)


async def test_claim_run_record(make_world: Callable[..., World], running: Any) -> None:
    ran: list[bool] = []

    async def work() -> None:
        ran.append(True)

    world = make_world(work)
    parts = machinery(world)
    await world.join()
    job = world.job()
    await world.journal.insert(job)
    async with running(world.batcher.run, world.shared.observers.run):
        assert await parts.claimer.fire_due() is None
        await settled(world)
        await eventually(lambda: any(isinstance(event, Ended) for event in world.events))
    assert ran == [True]
    assert (await world.row(job)).status is JobStatus.COMPLETED


async def test_it_asks_for_as_many_as_are_free(make_world: Callable[..., World], running: Any) -> None:
    go = anyio.Event()

    async def work() -> None:
        await go.wait()

    world = make_world(work)
    parts = machinery(world)
    await world.join()
    for name in "abc":
        await world.journal.insert(world.job(name))
    async with running(world.batcher.run):
        assert await parts.claimer.fire_due() == world.clock.now()
        assert len(world.shared.slots.running) == 2
        go.set()
        await settled(world)
        await parts.claimer.fire_due()
        await settled(world)


@pytest.mark.parametrize(
    ("raises", "outcome", "status"),
    [
        (ValueError("no"), RunOutcome.FAILED, JobStatus.SCHEDULED),
        (Snooze(timedelta(hours=1)), RunOutcome.SNOOZED, JobStatus.SCHEDULED),
    ],
)
async def test_what_a_handler_raises(
    make_world: Callable[..., World], running: Any, raises: Exception, outcome: RunOutcome, status: JobStatus
) -> None:
    async def work() -> None:
        raise raises

    world = make_world(work, retries=1, backoff=Backoff(first=60, jitter=0))
    parts = machinery(world)
    await world.join()
    job = world.job()
    await world.journal.insert(job)
    async with running(world.batcher.run):
        await parts.claimer.fire_due()
        await settled(world)
    row = await world.row(job)
    assert row.status is status
    assert row.due_at is not None
    assert row.due_at > world.clock.now()
    assert (await world.shared.calls.history(job.id, 1))[0].outcome is outcome


UNSURE = StoreUnsure("a commit", "its answer was lost")


@pytest.mark.parametrize(
    ("error", "happened"), [(UNSURE, True), (UNSURE, False), (StoreBusy("a file", "it is busy"), False)]
)
async def test_trouble_at_the_outcome(
    make_world: Callable[..., World], running: Any, error: Exception, happened: bool
) -> None:
    """The handler is not run again; an outcome that was recorded is announced all the same."""
    ran: list[bool] = []

    async def work() -> None:
        ran.append(True)

    world = make_world(work)
    parts = machinery(world)
    await world.join()
    job = world.job()
    await world.journal.insert(job)
    ended = world.journal.ended(job.id)
    (world.store.lost if happened else world.store.trouble).append(error)
    async with running(world.batcher.run, world.shared.observers.run):
        await parts.claimer.fire_due()
        await settled(world)
        await eventually(lambda: sum(isinstance(event, Ended) for event in world.events) == 1)
    assert ran == [True]
    assert ended.is_set()
    runs = await world.shared.calls.history(job.id, 10)
    assert [run.outcome for run in runs] == [RunOutcome.COMPLETED]


async def test_a_failed_claim_backs_off(make_world: Callable[..., World]) -> None:
    world = make_world()
    parts = machinery(world)
    busy = StoreBusy("a file", "it is busy")

    async def fails(claim: Any) -> Any:
        raise busy

    world.shared.calls.claim = fails  # type: ignore[method-assign]
    assert await parts.claimer.fire_due() == world.clock.now()
    assert parts.claimer.error is busy
    assert not parts.claimer.claiming
