"""A dependency sees how the attempt failed: what it has begun is rolled back (docs/protocol.md, S8)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import pytest

from aether_bg import Aether, GiveUp, RunOutcome, Snooze

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


class Seen(list[Any]):
    """What a dependency saw at its end: the error's type, None for a good end."""


class Resource: ...


class Broken: ...


def generator(seen: Seen) -> Any:
    def factory() -> Iterator[Resource]:
        try:
            yield Resource()
        except BaseException as error:
            seen.append(type(error))
            raise
        seen.append(None)

    return factory


def async_generator(seen: Seen) -> Any:
    async def factory() -> AsyncIterator[Resource]:
        try:
            yield Resource()
        except BaseException as error:
            await anyio.sleep(0.01)
            seen.append(type(error))
            raise
        seen.append(None)

    return factory


class Manager(AbstractContextManager[Resource]):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def __enter__(self) -> Resource:
        return Resource()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert (kind is None) == (error is None) == (trace is None)
        self.seen.append(kind)


class AsyncManager:
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def __aenter__(self) -> Resource:
        return Resource()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await anyio.sleep(0.01)
        self.seen.append(kind)


def suppresses(seen: Seen) -> Any:
    def factory() -> Iterator[Resource]:
        try:
            yield Resource()
        except BaseException as error:
            seen.append(type(error))
        else:
            seen.append(None)

    return factory


def raises_it_again(seen: Seen) -> Any:
    class Again(Manager):
        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            super().__exit__(kind, error, trace)
            if error is not None:
                raise error

    return lambda: Again(seen)


FACTORIES: dict[str, Callable[[Seen], Any]] = {
    "generator": generator,
    "async generator": async_generator,
    "contextmanager": lambda seen: contextmanager(generator(seen)),
    "asynccontextmanager": lambda seen: asynccontextmanager(async_generator(seen)),
    "manager": lambda seen: lambda: Manager(seen),
    "async manager": lambda seen: lambda: AsyncManager(seen),
    "suppresses": suppresses,
    "raises it again": raises_it_again,
}


@pytest.fixture(params=FACTORIES)
def seen(request: pytest.FixtureRequest, app: Aether) -> Seen:
    seen = Seen()
    app.provide(Resource, FACTORIES[request.param](seen))
    return seen


async def _first_run(app: Aether, handler: str, payload: Any = None) -> Any:
    job_id = await app.enqueue(handler, payload=payload)
    with anyio.fail_after(20):
        while not (runs := await app.store.history(job_id)) or runs[-1].outcome is None:
            await anyio.sleep(0.01)
    return runs[-1]


ENDS: dict[str, tuple[BaseException | None, RunOutcome]] = {
    "returns": (None, RunOutcome.COMPLETED),
    "fails": (ValueError("no"), RunOutcome.FAILED),
    "exits": (SystemExit(2), RunOutcome.FAILED),
    "stops": (StopIteration(), RunOutcome.FAILED),
    "gives up": (GiveUp("no"), RunOutcome.FAILED),
    "snoozes": (Snooze(timedelta(hours=1)), RunOutcome.SNOOZED),
}


@pytest.mark.parametrize("plain", [False, True], ids=["async", "thread"])
async def test_how_the_handler_ended(app: Aether, seen: Seen, plain: bool) -> None:
    @app.handler("Async")
    async def work(end: str, resource: Resource) -> None:
        if (error := ENDS[end][0]) is not None:
            raise error

    @app.handler("Thread")
    def work_in_thread(end: str, resource: Resource) -> None:
        if (error := ENDS[end][0]) is not None:
            raise error

    async with app:
        for end, (error, outcome) in ENDS.items():
            seen.clear()
            run = await _first_run(app, "Thread" if plain else "Async", end)
            assert run.outcome is outcome, end
            assert "closing" not in str(run.error)
            # a coroutine cannot raise StopIteration: Python makes it a RuntimeError
            kinds = {None if error is None else type(error), RuntimeError if isinstance(error, StopIteration) else None}
            assert len(seen) == 1, end
            assert seen[0] in kinds
            assert (seen[0] is None) == (error is None)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "thread"])
async def test_a_timeout(app: Aether, seen: Seen, plain: bool) -> None:
    go = threading.Event()

    @app.handler("Async", timeout=0.1)
    async def sleeps(resource: Resource) -> None:
        await anyio.sleep_forever()

    @app.handler("Thread", timeout=0.1)
    def waits(resource: Resource) -> None:
        go.wait(0.5)

    async with app:
        run = await _first_run(app, "Thread" if plain else "Async")
        assert run.outcome is RunOutcome.TIMED_OUT
        assert seen == [anyio.get_cancelled_exc_class()]
        assert "closing" not in str(run.error)


@pytest.mark.parametrize("how", ["delete", "stop"])
async def test_a_cancelled_attempt(make_app: Callable[..., Aether], how: str) -> None:
    app, seen, started = make_app(grace=0), Seen(), anyio.Event()
    app.provide(Resource, generator(seen))

    @app.handler("Work")
    async def work(resource: Resource) -> None:
        started.set()
        await anyio.sleep_forever()

    async with app:
        job_id = await app.enqueue("Work")
        await started.wait()
        if how == "delete":
            assert await app.delete(job_id)
    assert seen == [anyio.get_cancelled_exc_class()]


async def test_a_payload_or_another_dependency_that_fails(app: Aether, seen: Seen) -> None:
    def broken(resource: Resource) -> Broken:
        raise LookupError("no")

    app.provide(Broken, broken)

    @app.handler("Work")
    async def work(broken: Broken) -> None: ...

    async with app:
        assert (await _first_run(app, "Work")).outcome is RunOutcome.FAILED
    assert seen == [LookupError]


async def test_what_a_failed_handler_wrote_is_rolled_back(app: Aether, tmp_path: Path) -> None:
    """The usual factory for a database of one's own."""
    own = tmp_path / "own.db"
    with closing(sqlite3.connect(own)) as conn:
        conn.execute("CREATE TABLE sent (mail)")

    def connect() -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(own)) as connection, connection:
            yield connection

    app.provide(sqlite3.Connection, connect)

    @app.handler("Send", retries=1)
    async def send(mail: str, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO sent VALUES (?)", [mail])
        if mail == "bad":
            raise ValueError(mail)

    async with app:
        assert (await _first_run(app, "Send", "bad")).outcome is RunOutcome.FAILED
        await app.wait(await app.enqueue("Send", payload="good"), 20)
    with closing(sqlite3.connect(own)) as conn:
        assert conn.execute("SELECT mail FROM sent").fetchall() == [("good",)]


def _bare(told: list[str]) -> Iterator[Resource]:
    yield Resource()
    told.append("closed")


async def _bare_async(told: list[str]) -> AsyncIterator[Resource]:
    with suppress(LookupError):
        told.clear()
    yield Resource()
    await anyio.sleep(0.01)
    with suppress(LookupError):
        told.append("closed")


@pytest.mark.parametrize("factory", [_bare, _bare_async, contextmanager(_bare), asynccontextmanager(_bare_async)])
@pytest.mark.parametrize("handler", ["Fails", "Hangs"])
async def test_what_follows_a_bare_yield_runs_in_any_case(app: Aether, factory: Any, handler: str) -> None:
    told: list[str] = []
    app.provide(Resource, lambda: factory(told))

    @app.handler("Fails")
    async def fails(resource: Resource) -> None:
        raise ValueError("no")

    @app.handler("Hangs", timeout=0.1)
    async def hangs(resource: Resource) -> None:
        await anyio.sleep_forever()

    async with app:
        run = await _first_run(app, handler)
        assert run.outcome in (RunOutcome.FAILED, RunOutcome.TIMED_OUT)
    assert told == ["closed"]
