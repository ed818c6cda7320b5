"""Observers get events in order; none of them delays a job or another observer."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from kernel.conftest import eventually

from aether_bg._kernel import observers as module
from aether_bg._kernel.observers import Observers
from aether_bg.model import Problem

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no")], ids=["error", "exit"])
async def test_one_that_fails_keeps_nothing_from_the_next(
    running: Any, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen: list[Any] = []

    async def fails(event: Any) -> None:
        raise error

    async def notes(event: Any) -> None:
        seen.append(event)

    observers = Observers([fails, notes], slow=5)
    async with running(observers.run):
        for n in "abc":
            observers.emit(Problem("part", n))
        await eventually(lambda: observers.idle)
    assert [event.error for event in seen] == ["a", "b", "c"]
    assert len([record for record in caplog.records if "failed on 'Problem'" in record.getMessage()]) == 3


async def test_one_that_hangs_or_is_slow(
    running: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)

    async def slow(event: Any) -> None:
        await anyio.sleep(0.05)

    observers = Observers([slow], slow=0.01)
    for n in range(10):
        observers.emit(Problem("part", str(n)))
    async with running(observers.run):
        await eventually(lambda: any("7 events were dropped" in r.getMessage() for r in caplog.records))
    assert any("took" in record.getMessage() for record in caplog.records)


async def test_none() -> None:
    observers = Observers([], slow=5)
    observers.emit(Problem("part", "x"))
    assert (observers.present, observers.idle) == (False, True)
