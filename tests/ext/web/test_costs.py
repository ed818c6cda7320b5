"""How often a screen asks the store. Counts are kept: a look does not make the store count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from web_texts import SCREENS

from aether_bg.ext.web import _source

Serve = Callable[..., Any]
QUESTIONS = ("find", "history", "runs", "failures", "stats", "processes", "explain")
MOST = {
    "": {"find": 2}, "jobs": {"find": 1}, "failures": {}, "recurring": {"find": 2, "runs": 1}, "handlers": {},
    "processes": {"find": 1}, "system": {},
}  # fmt: skip
"""What each screen asks while it has what it keeps."""


@pytest.fixture
def both() -> Any:
    return "memory", "asyncio"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted = Counter[str]()

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(_source._Live, name)

        async def ask(self: Any, *args: Any) -> Any:
            counted[name] += 1
            return await real(self, *args)

        return ask

    for name in QUESTIONS:
        monkeypatch.setattr(_source._Live, name, counting(name))
    return counted


def keep(service: Any) -> None:
    """Everything that the page keeps, for as long as the test takes."""
    screens = service.client.app.routes[0].app._screens
    for path in SCREENS:
        service.settled(path)
    for kept in (screens.stats, screens.activity, screens.failed, screens.health, screens.seen):
        kept._until = float("inf")


def test_each_screen_asks_for_its_rows_alone(serve: Serve, asked: Counter[str]) -> None:
    with serve() as service:
        keep(service)
        for path, most in MOST.items():
            asked.clear()
            assert service.get(path).status_code == 200
            assert asked == most, path
        for name in ("failed-0", "nightly", "long", "mark"):
            asked.clear()
            service.get(f"jobs/{service.ids[name]}")
            assert asked == {"find": 3, "history": 1, "explain": 1}, name


def test_many_who_look_make_no_more_counts(serve: Serve, asked: Counter[str]) -> None:
    with serve() as service:
        keep(service)
        asked.clear()
        for _ in range(10):
            for path in SCREENS:
                service.get(path)
        assert not {"stats", "failures", "processes"} & set(asked)


def test_a_screen_says_of_when_its_counts_are(serve: Serve) -> None:
    with serve() as service:
        for path in ("", "failures", "handlers", "system", "processes"):
            assert "kept for some seconds" in service.settled(path).text, path


def test_a_screen_whose_counts_are_on_their_way_asks_again_soon(
    serve: Serve, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import anyio

    async def stats(self: Any) -> Any:
        await anyio.sleep_forever()

    with serve() as service, monkeypatch.context() as patched:
        patched.setattr(_source._Live, "stats", stats)
        for path in ("", "handlers", "system"):
            text = service.get(path).text
            assert "every 1s" in text
            assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in text
        assert "every 5s" in service.get("recurring").text
