"""Attempts that end in their first step share a task, and an attempt leaves nothing behind that shows it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobContext, JobStatus, Snooze, UnitOfWork

pytestmark = pytest.mark.anyio

JOBS = 12
mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="clean")


async def at_once(app: Aether, handler: str) -> list[JobStatus]:
    """Enqueued before the start, so that one claim takes all."""
    async with app.client() as client, client.unit_of_work():
        ids = [await client.enqueue(handler) for _ in range(JOBS)]
    async with app:
        return [(await app.wait(id_, 10)).status for id_ in ids]


@pytest.fixture
def app(path: Any) -> Aether:
    return Aether(path, concurrency=JOBS)


async def test_a_context_variable_does_not_reach_the_next_attempt(app: Aether) -> None:
    seen = []

    @app.handler("Work")
    async def work() -> None:
        seen.append(mark.get())
        mark.set("dirty")

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}
    assert seen == ["clean"] * JOBS


async def test_the_name_of_a_task_does_not_reach_the_next_attempt(app: Aether, anyio_backend_name: str) -> None:
    """`logging` writes it into each record."""
    if anyio_backend_name != "asyncio":
        pytest.skip("tasks of asyncio")
    seen = []

    @app.handler("Work")
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append(task.get_name() == "mine")
        task.set_name("mine")

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}
    assert seen == [False] * JOBS


async def test_a_task_with_a_callback_ends_with_its_attempt(app: Aether, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("tasks of asyncio")
    ended = []

    @app.handler("Work")
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda task: ended.append(task.get_name()))

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}
    assert len(set(ended)) == JOBS, "each in a task of its own"


async def test_no_task_for_each_attempt(app: Aether, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio" or sys.version_info < (3, 12):
        pytest.skip("tasks that begin at once")
    names = []

    @app.handler("Work")
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}
    assert len(names) == JOBS
    assert len(set(names)) <= 2, "one for each claim"


async def test_a_scope_that_is_left_open_is_its_own_mistake(app: Aether) -> None:
    begun, kept = [], []

    @app.handler("Work")
    async def work() -> None:
        begun.append(1)
        if len(begun) % 4 == 1:
            kept.append(anyio.CancelScope())
            kept[-1].__enter__()

    statuses = await at_once(app, "Work")
    assert statuses.count(JobStatus.FAILED) == JOBS // 4
    assert statuses.count(JobStatus.COMPLETED) == JOBS - JOBS // 4


async def test_each_kind_of_end_is_its_own(app: Aether) -> None:
    """One that fails, snoozes or waits does not touch those beside it."""
    begun = []

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        number = len(begun)
        begun.append(ctx.job.id)
        if ctx.attempt > 1:
            return
        if number % 4 == 1:
            raise ValueError("boom")
        if number % 4 == 2:
            await anyio.sleep(0.01)
        if number % 4 == 3:
            raise Snooze(ctx.occurrence)

    statuses = await at_once(app, "Work")
    assert statuses.count(JobStatus.FAILED) == JOBS // 4
    assert statuses.count(JobStatus.COMPLETED) == JOBS - JOBS // 4
    assert len(begun) == JOBS + JOBS // 4


async def test_one_that_waits_does_not_hold_up_the_others(app: Aether) -> None:
    begun, all_there = [], anyio.Event()

    @app.handler("Work")
    async def work() -> None:
        begun.append(1)
        if len(begun) == JOBS:
            all_there.set()
        if len(begun) % 3:
            await all_there.wait()

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}


async def test_a_timeout_is_that_of_its_own_attempt(app: Aether) -> None:
    @app.handler("Slow", timeout=0.2)
    async def slow() -> None:
        await anyio.sleep(5)

    @app.handler("Quick", timeout=0.01)
    async def quick() -> None: ...

    @app.handler("Work")
    async def work() -> None:
        await anyio.sleep(0.3)

    async with app.client() as client, client.unit_of_work():
        names = ["Quick", "Slow", "Work"] * 3
        ids = [await client.enqueue(name) for name in names]
    async with app:
        statuses = [(await app.wait(id_, 10)).status for id_ in ids]
    expected = {"Quick": JobStatus.COMPLETED, "Slow": JobStatus.FAILED, "Work": JobStatus.COMPLETED}
    assert statuses == [expected[name] for name in names]


@pytest.mark.parametrize("weak", [False, True])
async def test_who_keeps_a_task_cannot_cancel_another_attempt_by_it(
    app: Aether, anyio_backend_name: str, weak: bool
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("tasks of asyncio")
    kept: list[Any] = []

    @app.handler("Work")
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(kept) < JOBS - 1:
            kept.append(weakref.ref(task) if weak else task)
            return
        for each in kept:
            if (one := each() if weak else each) is not None:
                one.cancel()
        await asyncio.sleep(0.01)

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}


async def test_one_that_cancels_itself_and_returns(app: Aether, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("tasks of asyncio")
    begun = []

    @app.handler("Work")
    async def work() -> None:
        begun.append(1)
        if len(begun) % 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        else:
            await asyncio.sleep(0)

    assert set(await at_once(app, "Work")) == {JobStatus.COMPLETED}


async def test_a_unit_of_work_is_of_its_own_attempt(app: Aether) -> None:
    @app.handler("Work")
    async def work(uow: UnitOfWork) -> None:
        uow.execute("CREATE TABLE IF NOT EXISTS done (n INTEGER)")
        uow.execute("INSERT INTO done VALUES (1)")

    @app.handler("Plain")
    async def plain() -> None:
        await app.enqueue("Last")

    @app.handler("Last")
    async def last() -> None: ...

    async with app.client() as client, client.unit_of_work():
        ids = [await client.enqueue(name) for name in ["Work", "Plain"] * 3]
    async with app:
        assert {(await app.wait(id_, 10)).status for id_ in ids} == {JobStatus.COMPLETED}
        assert len(await app.store.find(handler_name="Last")) == 3
