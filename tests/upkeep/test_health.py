"""`health` says whether due jobs run, from the rows, with any scheduler; `explain` names the cause too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from aether_bg import Aether, NewJob, hookimpl
from aether_bg._kernel.timings import Timings
from aether_bg._upkeep import health
from aether_bg.errors import StoreGone
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]
Make = Callable[..., Aether]


class Silent:
    """A scheduler that never calls, and knows why."""

    likely_cause: Any = "its line is cut"
    notice: Any = None

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await anyio.sleep_forever()


async def problems(app: Aether, part: str, present: bool) -> dict[str, Any]:
    """Health, once it has the part, or has it no longer."""
    with anyio.fail_after(10):
        while True:
            health = await app.health()
            if (part in health["problems"]) is present:
                return health
            await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("cause", "words"), [("its line is cut", "its line is cut"), (lambda: "asked", "asked"), (None, "does not call")]
)
async def test_overdue_jobs_make_health_bad(make_app: Make, clock: FakeClock, cause: Any, words: str) -> None:
    silent = Silent()
    silent.likely_cause = cause
    app = make_app(scheduler=silent, clock=clock)
    app.handler("Work")(lambda: None)
    async with app:
        for name in ("a", "b"):
            await app.enqueue("Work", name)
        paused = await app.enqueue("Work", "paused")
        await app.pause(paused)
        assert (await app.health())["ok"]
        clock.advance(seconds=9)
        await anyio.sleep(0.5)
        assert (await app.health())["ok"], "not yet"
        clock.advance(seconds=2)
        health = await problems(app, "overdue", True)
        assert not health["ok"]
        assert "2 jobs are overdue" in health["problems"]["overdue"]
        assert words in health["problems"]["overdue"]
        assert words in await app.explain("a")
        clock.advance(hours=3)
        await anyio.sleep(0.5)
        assert not (await app.health())["ok"], "it does not heal by being forgotten"
        await app.drain()
        assert (await app.health())["ok"], "as soon as they have run"


async def test_jobs_that_wait_for_a_slot(make_app: Make, clock: FakeClock) -> None:
    app = make_app(clock=clock, concurrency=1, scheduler="timer")
    gate = anyio.Event()

    @app.handler("Work")
    async def work() -> None:
        await gate.wait()

    async with app:
        await app.enqueue("Work", "first")
        with anyio.fail_after(5):
            while not (await app.health())["running"]:
                await anyio.sleep(0.01)
        await app.enqueue("Work", "second")
        clock.advance(seconds=11)
        health = await problems(app, "overdue", True)
        assert "all 1 slots of this process are taken" in health["problems"]["overdue"]
        gate.set()
        assert (await problems(app, "overdue", False))["ok"]


async def test_jobs_of_a_handler_that_is_elsewhere_are_not_this_process_s(make_app: Make, clock: FakeClock) -> None:
    other = make_app(clock=clock, scheduler=Silent())
    other.handler("Elsewhere")(lambda: None)
    async with other.client() as jobs:
        await jobs.enqueue("Elsewhere", schedule=timedelta(seconds=1))
    app = make_app(clock=clock, scheduler=Silent())
    app.handler("Work")(lambda: None)
    async with app:
        clock.advance(seconds=20)
        await anyio.sleep(0.5)
        assert "overdue" not in (await app.health())["problems"]


async def test_a_notice_is_shown_and_keeps_health_good(make_app: Make) -> None:
    silent = Silent()
    silent.notice = "the door is open"
    app = make_app(scheduler=silent)
    async with app:
        health = await app.health()
    assert health["ok"]
    assert health["problems"] == {"notice": "the door is open"}


class Broken:
    """Its loop fails until it is mended."""

    def __init__(self) -> None:
        self.tries, self.mended = 0, False

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.tries += 1
        if not self.mended:
            raise OSError("no line")
        await anyio.sleep_forever()


async def test_a_loop_that_keeps_failing_is_reported_once(
    make_app: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    app = make_app(scheduler=broken, clock=clock, timings=Timings(backoff=(0.02, 0.2)))
    async with app:
        with anyio.fail_after(10):
            while broken.tries < 5:
                await anyio.sleep(0.05)
        assert not (await app.health())["ok"]
        assert [record for record in caplog.messages if "no line" in record] == ["scheduler: OSError: no line"]
        broken.mended = True
        with anyio.fail_after(10):
            while broken.tries < 6:
                await anyio.sleep(0.05)
        clock.advance(seconds=11)
        assert (await app.health())["ok"]


async def test_overdue_jobs_are_warned_about_once(
    make_app: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for as long as it lasts, however many jobs become overdue meanwhile."""
    app = make_app(scheduler=Silent(), clock=clock, timings=Timings(look=0.02))
    app.handler("Work")(lambda: None)

    async def late(name: str) -> int:
        await app.enqueue("Work", name)
        for seconds in (61, 11, 11):
            clock.advance(seconds=seconds)
            await anyio.sleep(0.15)
        return len([text for text in caplog.messages if "overdue by more than a minute" in text])

    async with app:
        assert await late("a") == 1
        assert await late("b") == 1
        await app.drain()
        clock.advance(seconds=11)
        await anyio.sleep(0.15)
        assert await late("c") == 2


async def test_many_jobs_are_not_counted_for_each_probe(
    make_app: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, counts = make_app(clock=clock), 0
    app.handler("Work")(lambda: None)
    stats = app.calls.stats

    async def counted() -> Any:
        nonlocal counts
        counts += 1
        return await stats()

    app.calls.stats = counted  # type: ignore[method-assign]

    async def scheduled() -> int:
        return int((await app.health())["stats"]["scheduled"])

    async with app.client() as jobs:
        await jobs.enqueue_many([NewJob("Work", schedule=timedelta(days=1))] * 3)
    async with app:
        assert ([await scheduled() for _ in range(3)], counts) == ([3, 3, 3], 3), "few are counted each time"
        monkeypatch.setattr(health, "MANY", 2)
        assert [await scheduled() for _ in range(3)] == [3, 3, 3]
        await app.enqueue("Work", schedule=timedelta(days=1))
        assert (await scheduled(), counts) == (3, 4)
        clock.advance(seconds=11)
        assert (await scheduled(), counts) == (4, 5)

        async def lost(query: Any) -> Any:
            raise StoreGone("the file", "it is gone", "Bring it back.")

        app.calls.find = lost  # type: ignore[method-assign]
        found = await app.health()
        assert (found["ok"], found["stats"]) == (False, None), "the store is asked all the same"
