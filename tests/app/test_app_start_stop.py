"""`start` and `stop` beside `async with`. docs/protocol.md, S10."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from aether_bg import Aether, AlreadyStarted, JobStatus, NotAnOwner, NotStarted, RunOutcome, WrongLoop

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


class Pool: ...


@pytest.fixture
def working(app: Aether) -> Aether:
    @app.handler("Work")
    async def work() -> None: ...

    return app


async def test_as_a_block_without_a_block(working: Aether) -> None:
    for _ in range(2):
        assert await working.start() is working
        assert (await working.wait(await working.enqueue("Work"), 10)).status is JobStatus.COMPLETED
        await working.stop()
    with pytest.raises(NotStarted):
        await working.enqueue("Work")


async def test_the_wrong_order_is_said(working: Aether) -> None:
    with pytest.raises(NotStarted, match="it is not running"):
        await working.stop()
    await working.start()
    for again in (working.start, working.__aenter__):
        with pytest.raises(AlreadyStarted, match="it is running already"):
            await again()
    await working.stop()
    with pytest.raises(NotStarted, match="it is not running"):
        await working.stop()
    async with working:
        with pytest.raises(AlreadyStarted):
            await working.start()
        await working.stop()
    assert "not running" in repr(working)


async def test_stopped_by_another_task(working: Aether) -> None:
    """Each half has a task of its own, with a cancel scope of its own, that has ended."""

    async def in_a_task(half: Callable[[], object]) -> None:
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(20):
                group.start_soon(half)

    await in_a_task(working.start)
    assert (await working.wait(await working.enqueue("Work"), 10)).status is JobStatus.COMPLETED
    await in_a_task(working.stop)
    assert "not running" in repr(working)


async def test_two_stops_at_once_both_wait(working: Aether) -> None:
    await working.start()
    async with anyio.create_task_group() as group:
        group.start_soon(working.stop)
        group.start_soon(working.stop)
    assert "not running" in repr(working)


async def test_stop_honours_the_grace(make_app: Callable[..., Aether]) -> None:
    app, begun = make_app(grace=5), anyio.Event()

    @app.handler("Slow")
    async def slow() -> None:
        begun.set()
        await anyio.sleep(0.3)

    await app.start()
    job = await app.enqueue("Slow")
    await begun.wait()
    await app.stop()
    async with app.client() as client:
        row = await client.store.get(job)
        assert row is not None
        assert row.status is JobStatus.COMPLETED


async def test_a_start_that_fails_may_be_tried_again(make_app: Callable[..., Aether]) -> None:
    app, tries = make_app(), list[int]()

    def pool() -> Pool:
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        return Pool()

    app.provide(Pool, pool, scope="app")
    with pytest.raises(Exception, match="OSError"):
        await app.start()
    with pytest.raises(NotStarted):
        await app.stop()
    await app.start()
    await app.stop()


async def test_not_from_another_thread_and_not_for_clients(working: Aether) -> None:
    await working.start()

    async def stop() -> None:
        await working.stop()

    with pytest.raises(WrongLoop):
        await anyio.to_thread.run_sync(lambda: anyio.run(stop))
    await working.stop()
    async with working.client() as client:
        with pytest.raises(NotAnOwner):
            _ = client.stop  # type: ignore[attr-defined]


HOST = """
import asyncio, sys
from aether_bg import Aether
app = Aether(sys.argv[1], scheduler="timer")
@app.handler("Slow", retries=3)
async def slow():
    print("begun", flush=True)
    await asyncio.sleep(60)
async def main():
    await app.start()
    await app.enqueue("Slow", "slow")
    await asyncio.sleep(60 if sys.argv[2] == "killed" else 0.5)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["killed", "forgotten"])
async def test_a_host_that_ends_without_stop_loses_nothing(
    make_app: Callable[..., Aether], path: Path, how: str
) -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST, path, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert host.stdout is not None
        assert await anyio.to_thread.run_sync(host.stdout.readline) == b"begun\n"
        if how == "killed":
            host.kill()
        await anyio.to_thread.run_sync(host.wait)
    finally:
        host.kill()
        host.communicate()
    app = make_app()

    @app.handler("Slow", retries=3)
    async def slow() -> None: ...

    async with app:
        row = await app.wait("slow", 20)
        assert row.status is JobStatus.COMPLETED
        first = (await app.store.history(row.id))[-1]
        assert first.outcome in (RunOutcome.CRASHED, RunOutcome.RELEASED)
