"""A handler that holds the event loop is named, once; one that waits, or runs in a thread, is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from aether_bg import Aether
from aether_bg._kernel.timings import Timings

pytestmark = [pytest.mark.anyio, pytest.mark.any_store]


@pytest.fixture
def app(make_app: Callable[..., Aether]) -> Aether:
    return make_app(timings=Timings(silent=0.5, watch=0.05))


def told(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.getMessage().startswith("event loop: ")]


def sure(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Without the guesses: on a busy machine the loop may be late for a second although nothing holds it."""
    return [record for record in told(caplog) if "holds it" in record.getMessage()]


def hold() -> None:
    time.sleep(1.0)


async def deep() -> None:
    await anyio.sleep(0)
    hold()


class Holds:
    async def handle(self) -> None:
        hold()


async def holds() -> None:
    hold()


async def through_a_helper() -> None:
    await deep()


async def with_arguments(_: int) -> None:
    hold()


@pytest.mark.parametrize(
    "handler",
    [holds, *(pytest.param(other, marks=pytest.mark.one_loop)
              for other in (through_a_helper, Holds, partial(with_arguments, 1)))],
)  # fmt: skip
async def test_the_handler_is_named_once(app: Aether, caplog: pytest.LogCaptureFixture, handler: Any) -> None:
    app.handler("Holds")(handler)

    @app.handler("Waits")
    async def waits() -> None:
        await anyio.sleep(30)

    async with app:
        await app.enqueue("Waits", "innocent")
        await anyio.sleep(0.1)
        for number in range(2):
            await app.wait(await app.enqueue("Holds", f"job-{number}"), 20)
        assert "event loop" in (await app.health())["problems"]
        await app.delete("innocent")
    (record,) = sure(caplog)
    said = record.getMessage()
    assert f"Holds ({record.job_name}) holds it" in said
    assert "test_blocked.py:" in said
    assert "Waits" not in said
    assert (record.levelname, record.handler) == ("WARNING", "Holds")


async def test_plain_handlers_and_waiting_ones_are_not(app: Aether, caplog: pytest.LogCaptureFixture) -> None:
    app.handler("Thread")(hold)

    @app.handler("Waits")
    async def waits() -> None:
        await anyio.sleep(1.0)

    async with app:
        for job in [await app.enqueue("Thread"), await app.enqueue("Waits")]:
            await app.wait(job, 20)
    assert sure(caplog) == []
    assert not any("Thread" in record.getMessage() for record in told(caplog))


async def test_the_host_that_holds_it(app: Aether, caplog: pytest.LogCaptureFixture) -> None:
    """If no job runs, the host holds the loop; otherwise the place is named, and the handlers that ran."""

    @app.handler("Waits")
    async def waits() -> None:
        await anyio.sleep(30)

    async with app:
        hold()
        await anyio.sleep(0.3)
        assert told(caplog) == []
        job = await app.enqueue("Waits", "innocent")
        await anyio.sleep(0.2)
        hold()
        await anyio.sleep(0.2)
        await app.delete(job)
    (record,) = told(caplog)
    assert "ran meanwhile and may hold it" in record.getMessage()
    assert f"{__file__}:" in record.getMessage()


@pytest.mark.one_loop
async def test_c_code_that_keeps_all_threads_waiting(app: Aether, caplog: pytest.LogCaptureFixture) -> None:
    @app.handler("Counts")
    async def counts() -> None:
        began = time.monotonic()
        size = 10**6
        while time.monotonic() - began < 1.0:
            sum(range(size))

    async with app:
        await app.wait(await app.enqueue("Counts", "job"), 60)
    assert {record.handler for record in told(caplog)} == {"Counts"}


def test_the_bounds_are_those_of_the_document() -> None:
    assert Timings().silent == 2.0
