"""Dependencies that last as long as the app. docs/protocol.md, S9."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from aether_bg import Aether, DependencyFailed, InvalidOption, JobContext, JobStatus, UnresolvedDependency
from aether_bg.testing import sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


class Settings: ...


class Broken: ...


class Pool:
    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings


class Connection:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


@pytest.fixture
def told() -> list[str]:
    return []


def provide_all(app: Aether, told: list[str], seen: list[Any]) -> None:
    async def pool(settings: Settings) -> AsyncIterator[Pool]:
        told.append("pool made")
        yield Pool(settings)
        told.append("pool closed")

    def settings() -> Iterator[Settings]:
        told.append("settings made")
        try:
            yield Settings()
        finally:
            told.append("settings closed")

    app.provide(Pool, pool, scope="app")  # before what it asks for
    app.provide(Settings, settings, scope="app")
    app.provide(Connection)

    @app.handler("Work")
    async def work(*, connection: Connection, pool: Pool) -> None:
        told.append("work")
        seen.append((connection, pool))

    @app.handler("Plain")
    def plain(*, pool: Pool) -> None:
        seen.append((None, pool))


async def test_made_once_in_order_and_closed_in_reverse(app: Aether, told: list[str]) -> None:
    seen: list[Any] = []
    provide_all(app, told, seen)
    for _ in range(2):
        told.clear()
        seen.clear()
        async with app:
            assert told == ["settings made", "pool made"]
            for name in ("Work", "Work", "Plain"):
                assert (await app.wait(await app.enqueue(name), 10)).status is JobStatus.COMPLETED
        assert told == ["settings made", "pool made", "work", "work", "pool closed", "settings closed"]
        (first, pool), (second, same), (_, plainly) = seen
        assert first is not second
        assert first.pool is second.pool is pool is same is plainly
        assert isinstance(pool.settings, Settings)


async def test_clients_make_none(app: Aether, told: list[str]) -> None:
    provide_all(app, told, [])
    async with app.client() as client:
        await client.enqueue("Work")
    assert told == []


async def test_closed_after_the_last_attempt(make_app: Callable[..., Aether], told: list[str]) -> None:
    app, begun = make_app(grace=5), anyio.Event()
    provide_all(app, told, [])

    @app.handler("Slow")
    async def slow(*, pool: Pool) -> None:
        begun.set()
        await anyio.sleep(0.2)
        told.append("slow ended")

    async with app:
        await app.enqueue("Slow")
        await begun.wait()
    assert told[-3:] == ["slow ended", "pool closed", "settings closed"]


async def test_one_that_fails_keeps_the_app_from_starting(app: Aether, told: list[str]) -> None:
    provide_all(app, told, [])

    def broken(pool: Pool) -> Broken:
        raise ConnectionError("no route")

    app.provide(Broken, broken, scope="app")
    with pytest.raises(DependencyFailed, match=r"the dependency .*Broken: its factory failed: ConnectionError: no rou"):
        await app.__aenter__()
    assert told == ["settings made", "pool made", "pool closed", "settings closed"]
    assert "not running" in repr(app)
    async with app.client() as client:
        assert (await client.store.stats()).owners == 0


async def test_one_that_cannot_be_closed_is_logged(app: Aether, caplog: pytest.LogCaptureFixture) -> None:
    def pool() -> Iterator[Pool]:
        yield Pool()
        raise OSError("gone")

    app.provide(Pool, pool, scope="app")
    async with app:
        pass
    assert "closing Pool: OSError: gone" in caplog.text


async def test_it_asks_for_nothing_of_an_attempt(app: Aether) -> None:
    app.provide(Settings)
    app.provide(Pool, lambda_of_settings, scope="app")
    with pytest.raises(UnresolvedDependency, match=r"Pool lasts as long as the app, and Settings is made for each att"):
        await app.__aenter__()


def lambda_of_settings(settings: Settings) -> Pool:
    return Pool(settings)


async def test_it_has_no_context(app: Aether) -> None:
    def pool(ctx: JobContext) -> Pool:
        return Pool()

    app.provide(Pool, pool, scope="app")
    with pytest.raises(UnresolvedDependency, match="JobContext is made for each attempt"):
        await app.__aenter__()


async def test_a_ring_is_refused(app: Aether) -> None:
    def settings(connection: Connection) -> Settings:
        return Settings()

    def connection(settings: Settings) -> Connection:
        return Connection(Pool(settings))

    app.provide(Settings, settings, scope="app")
    app.provide(Connection, connection, scope="app")
    with pytest.raises(UnresolvedDependency, match="it needs itself: Settings → Connection → Settings"):
        await app.__aenter__()


async def test_the_scope_is_one_of_two(app: Aether) -> None:
    with pytest.raises(InvalidOption, match="scope must be one of 'attempt', 'app'"):
        app.provide(Pool, scope="request")  # type: ignore[arg-type]


async def test_pings_and_sandbox(app: Aether, told: list[str]) -> None:
    seen: list[Any] = []
    provide_all(app, told, seen)
    app.provide(Pool, Pool, scope="app", ping=lambda pool: told.append(type(pool).__name__))
    async with app:
        assert (await app.health())["dependencies"] == {"test_lasting.Pool": None}
    assert told[-1] == "settings closed"
    assert "Pool" in told
    fake = Pool()
    async with sandbox(app, override={Pool: fake}) as jobs:
        await jobs.enqueue("Work")
        await jobs.drain()
    assert seen[-1][1] is fake
    assert seen[-1][0].pool is fake
