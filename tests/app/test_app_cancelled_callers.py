"""A caller that is cancelled while the store commits: what is stored all the same is announced (protocol.md, C10)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, hookimpl
from aether_bg._app.client import Client
from aether_bg.model import Altered, Enqueued, Event, Transaction, Write
from aether_bg.plugins.sqlite import SQLiteStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


class Slow(SQLiteStore):
    """While `keep_back`, the answers to commits come only at the end."""

    keep_back = False
    written = 0

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        results: Sequence[object] = await super().store_transact(writes)
        if self.keep_back:
            self.written += len(writes)
            while self.keep_back:
                await anyio.sleep(0.01)
        return results


class Observer:
    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def store(path: Path) -> Slow:
    return Slow(path)


@pytest.fixture
def app(make_app: Callable[..., Aether], store: Slow, observer: Observer) -> Aether:
    app = make_app(store, plugins=[observer])

    @app.handler("Work")
    async def work() -> None: ...

    return app


async def cancelled(store: Slow, *calls: Callable[[], Any]) -> None:
    """Cancels these calls once the store has committed their writes."""
    store.keep_back, store.written = True, 0
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(call)
            while store.written < len(calls):
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    store.keep_back = False


async def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    with anyio.fail_after(seconds):
        while not holds():
            await anyio.sleep(0.01)


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_jobs_that_are_stored_all_the_same(app: Aether, store: Slow, observer: Observer, count: int) -> None:
    async with app:
        await app.wait(await app.enqueue("Work"), 10)
        await anyio.sleep(0.2)  # the scheduler sleeps
        observer.events.clear()
        due = timedelta(seconds=1.5)
        names = [f"job-{n}" for n in range(count)]
        await cancelled(store, *(lambda name=name: app.enqueue("Work", name, schedule=due) for name in names))
        await until(lambda: {e.job.job_name for e in observer.events if isinstance(e, Enqueued)} == set(names))
        with anyio.fail_after(4):
            for name in names:
                await app.wait(name, 10)


async def test_a_verb_that_is_carried_out_all_the_same(app: Aether, store: Slow, observer: Observer) -> None:
    async with app:
        job = await app.enqueue("Work", "later", schedule=timedelta(hours=1))
        await anyio.sleep(0.2)
        await cancelled(store, lambda: app.update(job, timedelta(seconds=1)))
        await until(lambda: [e.verb for e in observer.events if isinstance(e, Altered)] == ["update"])
        await app.wait(job, 4)


async def test_a_wait_ends_with_a_delete_whose_caller_was_cancelled(app: Aether, store: Slow) -> None:
    async with app:
        job = await app.enqueue("Work", "later", schedule=timedelta(hours=1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.wait, job, 5)
            await anyio.sleep(0.1)
            await cancelled(store, lambda: app.delete(job))


async def test_a_unit_of_work(app: Aether, store: Slow, observer: Observer) -> None:
    async def unit() -> None:
        async with app.unit_of_work():
            await app.enqueue("Work", "in a unit", schedule=timedelta(seconds=1.5))

    async with app:
        await app.wait(await app.enqueue("Work"), 10)
        await anyio.sleep(0.2)
        observer.events.clear()
        await cancelled(store, unit)
        await until(lambda: any(isinstance(e, Enqueued) and e.job.job_name == "in a unit" for e in observer.events))
        with anyio.fail_after(4):
            await app.wait("in a unit", 10)


async def test_a_client_in_the_process_of_the_app(app: Aether) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        begun.set()
        goes_on.wait(2)
        tx.enqueue("Work", "in a unit")

    async def unit(client: Client) -> None:
        async with client.unit_of_work() as uow:
            uow.run(slow)

    async with app:
        session = app._session
        assert session is not None
        await until(lambda: session.kernel.alarm.sure)
        async with app.client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(unit, client)
            while not begun.is_set():
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
            goes_on.set()
        await app.wait("in a unit", 4)
