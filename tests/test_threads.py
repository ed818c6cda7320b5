"""`bridge.Threads`: calls that block never wait for each other, calls that return at once share a thread."""

from __future__ import annotations

import contextvars
import random
import threading
import time
from typing import Any

import anyio
import pytest

from aether_bg import bridge
from aether_bg.bridge import Threads

pytestmark = pytest.mark.anyio


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Threads:
    return Threads(f"test {request.node.name}")


def alive(threads: Threads) -> int:
    return sum(thread.name == threads._name for thread in threading.enumerate())


async def together(threads: Threads, count: int, call: Any) -> None:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(threads.run, call)


async def test_calls_that_block_all_run_at_once(threads: Threads) -> None:
    met = threading.Barrier(60)
    await together(threads, 60, lambda: met.wait(30))
    assert alive(threads) == 60


async def test_calls_that_return_at_once_share_threads(threads: Threads) -> None:
    used = list[int]()
    await together(threads, 500, lambda: used.append(threading.get_ident()))
    assert len(used) == 500
    assert alive(threads) < 50


async def test_a_call_that_blocks_does_not_hold_up_the_next(threads: Threads) -> None:
    go, done = threading.Event(), list[int]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(threads.run, go.wait)
        for n in range(50):
            await threads.run(done.append, n)
        go.set()
    assert done == list(range(50))


async def test_a_result_an_error_and_the_context(threads: Threads) -> None:
    number = contextvars.ContextVar[int]("number")
    number.set(7)
    assert await threads.run(lambda: number.get() + 1) == 8
    for error in (ValueError("wrong"), SystemExit(3)):
        with pytest.raises(type(error)) as raised:
            await threads.run(_raise, error)
        assert raised.value is error


def _raise(error: BaseException) -> None:
    raise error


async def test_threads_end_when_there_is_nothing_to_do(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_IDLE", 0.02)
    met = threading.Barrier(5)
    await together(threads, 5, lambda: met.wait(30))
    with anyio.fail_after(30):
        while alive(threads):
            await anyio.sleep(0.01)
    assert await threads.run(lambda: "again") == "again"


async def test_no_call_is_lost_while_threads_end(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_IDLE", 0.0005)
    numbers, done = random.Random(1), list[None]()

    async def some() -> None:
        for _ in range(150):
            await threads.run(done.append, None)
            await anyio.sleep(numbers.choice([0, 0.0004, 0.0005, 0.0006, 0.001]))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(some)
    assert len(done) == 600


async def test_without_new_threads_calls_run_here(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert await threads.run(threading.get_ident) == threading.get_ident()


async def test_a_cancelled_caller_waits_for_its_call(threads: Threads) -> None:
    ended = list[float]()
    with anyio.move_on_after(0.05):
        await threads.run(lambda: (time.sleep(0.2), ended.append(1.0)))
    assert ended
