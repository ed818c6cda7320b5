"""A unit of work that has ended collects nothing: tasks born inside its block that outlive it act on their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

from aether_bg import Aether, JobConflict, JobStatus, UnitOfWork, UnitOfWorkClosed
from aether_bg.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def work(app: Aether) -> Aether:
    app.handler("Work")(lambda args=None: None)
    return app


async def test_a_task_born_inside_the_block_enqueues_on_its_own_afterwards(work: Aether) -> None:
    over = anyio.Event()
    ids: list[Any] = []

    async def outlives() -> None:
        await over.wait()
        ids.append(await work.enqueue("Work", "named"))
        ids.append(await work.enqueue("Work"))
        await work.wait(ids[0], 10)
        await work.enqueue("Work", "later", schedule=timedelta(days=1))
        await work.update("later", timedelta(days=2))
        await work.delete("later")
        async with work.unit_of_work() as fresh:
            fresh.execute("CREATE TABLE own (x)")
            await work.enqueue("Work", "in a unit of its own")

    async with work, anyio.create_task_group() as group:
        async with work.unit_of_work() as uow:
            group.start_soon(outlives)
            await work.enqueue("Work", "joined")
        with pytest.raises(UnitOfWorkClosed):
            uow.execute("SELECT 1")
        over.set()
        with anyio.fail_after(20):
            while await work.store.get_by_job_name("in a unit of its own") is None:
                await anyio.sleep(0.01)
        for job in ids:
            assert (await work.wait(job, 10)).status is JobStatus.COMPLETED


async def test_after_a_block_that_was_rolled_back(work: Aether) -> None:
    over = anyio.Event()

    async def outlives() -> None:
        await over.wait()
        await work.enqueue("Work", "survives")

    async with work, anyio.create_task_group() as group:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with work.unit_of_work():
                group.start_soon(outlives)
                await work.enqueue("Work", "dropped")
                raise ZeroDivisionError
        over.set()
        with anyio.fail_after(20):
            while await work.store.get_by_job_name("survives") is None:
                await anyio.sleep(0.01)
        assert await work.store.get_by_job_name("dropped") is None


async def test_a_thread_born_inside_the_block(work: Aether) -> None:
    over = threading.Event()

    def outlives() -> None:
        over.wait(10)
        work.sync.enqueue("Work", "of a thread")

    async with work, anyio.create_task_group() as group:
        async with work.unit_of_work():
            group.start_soon(anyio.to_thread.run_sync, outlives)
            await anyio.sleep(0.05)
        over.set()
        with anyio.fail_after(20):
            while await work.store.get_by_job_name("of a thread") is None:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("how", ["completes", "fails", "times out", "gives up"])
async def test_a_task_that_outlives_its_handler(make_app: Callable[..., Aether], clock: FakeClock, how: str) -> None:
    """Whatever became of the attempt: what its task enqueues afterwards is stored."""
    from aether_bg import GiveUp

    app = make_app(clock=clock)
    app.handler("Work")(lambda: None)
    over = anyio.Event()
    group: TaskGroup

    async def outlives() -> None:
        await over.wait()
        await app.enqueue("Work", "outlived")

    @app.handler("Unit", timeout=0.1 if how == "times out" else None)
    async def unit(uow: UnitOfWork) -> None:
        group.start_soon(outlives)
        await anyio.sleep(0)
        if how == "fails":
            raise ValueError
        if how == "gives up":
            raise GiveUp
        if how == "times out":
            await anyio.sleep_forever()

    async with app, anyio.create_task_group() as group:
        ended = await app.wait(await app.enqueue("Unit"), 10)
        assert ended.status is (JobStatus.COMPLETED if how == "completes" else JobStatus.FAILED)
        over.set()
        with anyio.fail_after(10):
            while await app.store.get_by_job_name("outlived") is None:
                await anyio.sleep(0.01)


async def test_names_within_a_unit_are_still_checked(work: Aether) -> None:
    async with work:
        async with work.unit_of_work():
            first = await work.enqueue("Work", "one", {"a": 1})
            assert await work.enqueue("Work", "one", {"a": 1}) == first
            with pytest.raises(JobConflict):
                await work.enqueue("Work", "one", {"a": 2})

            async def same() -> None:
                found.add(await work.enqueue("Work", "two"))

            found: set[Any] = set()
            async with anyio.create_task_group() as group:  # both look before either is there
                group.start_soon(same)
                group.start_soon(same)
            assert len(found) == 1
        assert (await work.store.stats()).total == 2


@pytest.mark.one_loop
async def test_a_name_costs_the_same_however_long_the_unit_is(work: Aether) -> None:
    async def took(before: int) -> float:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with work.unit_of_work() as uow:
                for _ in range(before):
                    uow.execute("SELECT 1")
                began = time.perf_counter()
                for number in range(100):
                    await work.enqueue("Work", f"{number}", schedule=timedelta(days=1))
                lasted = time.perf_counter() - began
                raise ZeroDivisionError  # the commit is not what is measured
        return lasted

    async with work:
        await took(0)
        short = min([await took(0) for _ in range(3)])
        for _ in range(3):  # the machine may stall meanwhile
            if (long := await took(60_000)) < 10 * short:
                break
        assert long < 10 * short, "a look through all of them takes twenty times as long"
