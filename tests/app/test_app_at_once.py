"""A job that is due begins with its insert, where the scheduler sleeps and knows of nothing else (protocol.md, C9)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from gauge import Gauge

from aether_bg import Aether, JobInfo, hookimpl
from aether_bg.errors import JobConflict, StoreUnsure
from aether_bg.model import About, Claim, Claimed, Ended, Enqueued, Event, Insert, JobStatus, Query, Started, Write
from aether_bg.plugins.sqlite import SQLiteStore
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


class Watched(SQLiteStore):
    """Counts what is claimed at an insert and by claims; loses the answer of an insert, or keeps it back."""

    at_once = claimed = 0
    lose = keep_back = slow = False
    inserted: anyio.Event

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        results: Sequence[object] = await super().store_transact(writes)
        if any(isinstance(write, Insert) and write.claim is not None for write in writes):
            self.at_once += sum(isinstance(result, JobInfo) for result in results)
            if self.keep_back:
                self.inserted.set()
                await anyio.sleep_forever()
            if self.lose:
                self.lose = False
                raise StoreUnsure("a commit", "its answer was lost")
        return results

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        if self.slow:
            await anyio.sleep(0.05)
        found: Sequence[JobInfo] = await super().store_find(query)
        return found

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        claimed: Claimed = await super().store_claim(claim)
        self.claimed += len(claimed.jobs)
        return claimed


@pytest.fixture
def store(path: Path) -> Watched:
    return Watched(path)


@pytest.fixture
def app(make_app: Callable[..., Aether], store: Watched) -> Aether:
    return make_app(store)


async def asleep(app: Aether) -> None:
    """The scheduler has looked, and sleeps."""
    await app.wait(await app.enqueue("First"), 10)
    await anyio.sleep(0.2)


@pytest.fixture
def ran(app: Aether) -> list[Any]:
    """The payloads of `Work`, in order."""
    ran: list[Any] = []

    @app.handler("First")
    async def first() -> None: ...

    @app.handler("Work")
    async def work(payload: dict[str, Any] | None) -> None:
        ran.append(payload)

    return ran


async def test_it_begins_with_its_insert(app: Aether, store: Watched, ran: list[Any]) -> None:
    async with app:
        await asleep(app)
        before = store.claimed, store.at_once
        job = await app.enqueue("Work", payload={"a": [1]})
        assert ran == [], "the caller goes on first"
        done = await app.wait(job, 10)
        (run,) = await app.store.history(job)
    assert (store.claimed, store.at_once) == (before[0], before[1] + 1)
    assert (done.status, done.attempt, run.attempt, run.token) == (JobStatus.COMPLETED, 1, 1, 1)
    assert run.started_at is not None
    assert run.occurrence == done.last_occurrence
    assert ran == [{"a": [1]}]


async def test_the_handler_gets_what_was_enqueued(app: Aether, ran: list[Any]) -> None:
    async with app:
        await asleep(app)
        payload = {"list": [1]}
        job = await app.enqueue("Work", payload=payload)
        payload["list"].append(2)
        await app.wait(job, 10)
    assert ran == [{"list": [1]}]


class Reversed:
    @hookimpl
    def dispatch_codec(self) -> Any:
        return self

    def encode(self, value: Any, about: About) -> Any:
        return {"turned": value[::-1]} if isinstance(value, str) else value

    def decode(self, value: Any, about: About) -> Any:
        return value["turned"][::-1] if isinstance(value, dict) and "turned" in value else value


async def test_with_a_codec(make_app: Callable[..., Aether], store: Watched) -> None:
    app, ran = make_app(store, plugins=[Reversed()]), list[Any]()

    @app.handler("First")
    async def first() -> None: ...

    @app.handler("Work")
    async def work(payload: str) -> None:
        ran.append(payload)

    async with app:
        await asleep(app)
        before = store.at_once
        await app.wait(await app.enqueue("Work", payload="abc"), 10)
    assert (ran, store.at_once) == (["abc"], before + 1)


async def test_observers_see_it_in_order(make_app: Callable[..., Aether], store: Watched) -> None:
    seen: list[tuple[type, Any]] = []

    class Observer:
        @hookimpl
        async def lifecycle_event(self, event: Event) -> None:
            if isinstance(event, Enqueued):
                seen.append((Enqueued, event.job.id))
            elif isinstance(event, Started | Ended):
                seen.append((type(event), event.context.job.id))

    app = make_app(store, plugins=[Observer()])

    @app.handler("First")
    async def first() -> None: ...

    async with app:
        await asleep(app)
        job = await app.enqueue("First")
        await app.wait(job, 10)
        with anyio.fail_after(5):
            while (Ended, job) not in seen:
                await anyio.sleep(0.01)
    assert [kind for kind, of in seen if of == job] == [Enqueued, Started, Ended]


async def test_a_paused_handler_is_left(app: Aether, store: Watched, ran: list[Any]) -> None:
    async with app:
        await app.pause(handler="Work")
        await asleep(app)
        before = store.at_once
        job = await app.enqueue("Work")
        await anyio.sleep(0.3)
        assert (ran, store.at_once) == ([], before)
        await app.resume(handler="Work")
        await app.wait(job, 10)


async def test_what_is_claimed_a_moment_later_keeps_its_claim(
    make_app: Callable[..., Aether], store: Watched, clock: FakeClock
) -> None:
    """Also where the clock stands still: the store has refused the claim of the insert, and the next one is as old."""
    app, ran = make_app(store, clock=clock), list[str]()

    @app.handler("First")
    async def first() -> None: ...

    @app.handler("Work")
    async def work(payload: str) -> None:
        ran.append(payload)
        await anyio.sleep(0.1)

    async with app:
        await asleep(app)
        store.slow = True
        for name in map(str, range(10)):
            await app.pause(handler="Work")
            await anyio.sleep(0.02)
            job = await app.enqueue("Work", payload=name)
            await app.resume(handler="Work")
            await app.wait(job, 10)
            (run,) = await app.store.history(job)
            assert run.outcome == "completed"
    assert ran == [str(n) for n in range(10)]


async def test_a_limit_is_counted_by_claims(app: Aether, store: Watched) -> None:
    @app.handler("First")
    async def first() -> None: ...

    @app.handler("Limited", concurrency=1)
    async def limited() -> None: ...

    async with app:
        await asleep(app)
        before = store.claimed, store.at_once
        await app.wait(await app.enqueue("Limited"), 10)
    assert (store.claimed, store.at_once) == (before[0] + 1, before[1])


async def test_a_caller_that_is_cancelled(app: Aether, store: Watched, ran: list[Any]) -> None:
    async with app:
        await asleep(app)
        store.keep_back, store.inserted = True, anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.enqueue, "Work", "cancelled")
            await store.inserted.wait()
            store.keep_back = False
            tasks.cancel_scope.cancel()
        await app.wait("cancelled", 10)
    assert len(ran) == 1


async def test_a_lost_answer(app: Aether, store: Watched, ran: list[Any]) -> None:
    async with app:
        await asleep(app)
        store.lose = True
        job = await app.enqueue("Work", "lost")
        done = await app.wait(job, 10)
    assert (len(ran), done.status) == (1, JobStatus.COMPLETED)
    assert not store.lose


async def test_a_name_that_is_held(app: Aether, ran: list[Any]) -> None:
    async with app:
        await asleep(app)
        await app.enqueue("Work", "named", {"n": 1}, schedule="@every 1h")
        with pytest.raises(JobConflict):
            await app.enqueue("Work", "named", {"n": 2})
        await app.wait(await app.enqueue("Work"), 10)
    assert ran == [None]


async def test_a_process_that_was_declared_dead(app: Aether, store: Watched, ran: list[Any]) -> None:
    async with app:
        await asleep(app)
        before = store.at_once
        with closing(sqlite3.connect(store.path)) as conn, conn:
            conn.execute("DELETE FROM aether_owners")
        await app.wait(await app.enqueue("Work"), 20)
    assert (len(ran), store.at_once) == (1, before)


async def test_a_full_process_takes_no_more(make_app: Callable[..., Aether], store: Watched) -> None:
    app, gauge = make_app(store, concurrency=2), Gauge()

    @app.handler("First")
    async def first() -> None: ...

    @app.handler("Work")
    async def work() -> None:
        await gauge(0.02)

    async with app:
        await asleep(app)
        jobs = [await app.enqueue("Work") for _ in range(20)]
        for job in jobs:
            await app.wait(job, 10)
    assert gauge.most == 2
