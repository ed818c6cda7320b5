"""`app.explain`: what the kernel knows reaches the sentences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobNotFound, hookimpl, schedule

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def test_slots_handlers_pause_and_this_process(make_app: Callable[..., Aether]) -> None:
    app = make_app(concurrency=1)
    begun, go = anyio.Event(), anyio.Event()

    @app.handler("Slow")
    async def slow() -> None:
        begun.set()
        await go.wait()

    async with app:
        await app.enqueue("Slow", "first")
        await begun.wait()
        await app.enqueue("Slow", "second")
        async with app.client() as client:
            other = Aether(app.plugins.owners("persistence")[0].path, scheduler="timer")
            async with other.client() as foreign:
                await foreign.enqueue("Unknown", "strange")
            assert "claimed by owner" in await client.explain("first")  # a client does not know who lives
        assert "claimed by this process (owner " in await app.explain("first")
        assert "It waits for a free slot: all of this process's are taken." in await app.explain("second")
        assert "the handler 'Unknown': the one live process has Slow." in await app.explain("strange")
        await app.pause("second")
        assert "It is paused: `resume` lets it go on" in await app.explain("second")
        go.set()
        await app.wait("first", 5)
        assert "It completed at " in await app.explain("first")
        with pytest.raises(JobNotFound):
            await app.explain("nothing")


class Opening:
    """A schedule in words of its own."""

    text, timezone, recurring = "@market-open", None, True

    def __init__(self) -> None:
        self._cron = schedule.parse("30 9 * * MON-FRI", "America/New_York")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cron, name)


class Market:
    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> Any:
        return Opening() if text == "@market-open" else None


async def test_a_schedule_in_a_plugins_words(make_app: Callable[..., Aether], path: Path) -> None:
    app = make_app(plugins=[Market()])
    app.handler("Ok")(lambda: None)
    async with app:
        await app.enqueue("Ok", "soon", schedule=timedelta(hours=1))
        assert "once, after 1 hour." in await app.explain("soon")
        market = await app.enqueue("Ok", "market", schedule="@market-open")
        assert "'@market-open': at 09:30 every Monday to Friday, America/New_York." in await app.explain(market)
    async with Aether(path, scheduler="timer").client() as client:  # without the plugin
        assert "'@market-open': a schedule that no plugin here can read." in await client.explain(market)
