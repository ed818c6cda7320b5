"""What a handler asks for by raising `Snooze` or `GiveUp`, also from inside task groups."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from aether_bg import Aether, GiveUp, JobStatus, RunOutcome, Snooze
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]
HOUR = timedelta(hours=1)


class Later(Snooze): ...


async def _raise(error: BaseException) -> None:
    raise error


async def in_a_group(*errors: BaseException) -> None:
    async with anyio.create_task_group() as group:
        for error in errors:
            group.start_soon(_raise, error)


async def in_nested_groups(*errors: BaseException) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(in_a_group, *errors)


async def in_the_loops_own_group(*errors: BaseException) -> None:
    if "asyncio" not in sys.modules or _is_trio():
        import trio

        async with trio.open_nursery() as nursery:
            for error in errors:
                nursery.start_soon(_raise, error)
    else:
        import asyncio

        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(_raise(error))


def _is_trio() -> bool:
    import sniffio

    return sniffio.current_async_library() == "trio"


async def by_hand(*errors: Any) -> None:
    raise BaseExceptionGroup("by hand", [ExceptionGroup("inside", list(errors)), *errors])


async def plainly(*errors: BaseException) -> None:
    raise errors[0]


WAYS = [in_a_group, in_nested_groups, in_the_loops_own_group, by_hand, plainly]


async def _ran(app: Aether, way: Callable[..., Any], *errors: BaseException) -> tuple[Any, Any]:
    @app.handler("Asks", retries=3)
    async def asks() -> None:
        await way(*errors)

    async with app:
        job_id = await app.enqueue("Asks", "job")
        await app.drain()
        (run,) = await app.store.history(job_id)
        return await app.store.get(job_id), run


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Snooze, Later])
async def test_a_snooze(fake_app: Aether, clock: FakeClock, way: Any, kind: Any) -> None:
    job, run = await _ran(fake_app, way, kind(HOUR))
    assert (job.status, run.outcome, job.retry_count) == (JobStatus.SCHEDULED, RunOutcome.SNOOZED, 0)
    assert job.due_at == clock.now() + HOUR


@pytest.mark.parametrize("way", WAYS)
async def test_a_give_up(fake_app: Aether, way: Any) -> None:
    job, run = await _ran(fake_app, way, GiveUp("no such customer"))
    assert (job.status, run.outcome) == (JobStatus.FAILED, RunOutcome.FAILED)
    assert job.last_error.startswith("GiveUp: no such customer")


async def test_of_several_snoozes_the_latest_counts(fake_app: Aether, clock: FakeClock) -> None:
    job, run = await _ran(
        fake_app, by_hand, Snooze(HOUR), Snooze(datetime(2090, 1, 1, tzinfo=UTC)), Snooze(timedelta(minutes=1))
    )
    assert (run.outcome, job.due_at) == (RunOutcome.SNOOZED, datetime(2090, 1, 1, tzinfo=UTC))


async def test_giving_up_counts_before_a_snooze(fake_app: Aether) -> None:
    job, _ = await _ran(fake_app, by_hand, Snooze(HOUR), GiveUp("enough"))
    assert (job.status, job.last_error.splitlines()[0]) == (JobStatus.FAILED, "GiveUp: enough")


@pytest.mark.parametrize("asked", [Snooze(HOUR), GiveUp("enough")], ids=["snooze", "give up"])
async def test_beside_another_error_it_is_a_failure_that_is_retried(fake_app: Aether, asked: Any) -> None:
    job, run = await _ran(fake_app, by_hand, asked, ValueError("really"))
    assert (job.status, run.outcome, job.retry_count) == (JobStatus.SCHEDULED, RunOutcome.FAILED, 1)
    assert "ValueError: really" in run.error
