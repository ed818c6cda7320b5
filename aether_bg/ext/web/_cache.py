"""Answers that take long when there are many jobs: kept for some seconds, and refreshed in the background."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import anyio
import attrs

from aether_bg._app.operator import spawner
from aether_bg.errors import AetherError

T = TypeVar("T")
log = logging.getLogger("aether_bg.web")
PATIENCE: Final = 0.04
"""Seconds that a page waits for first answers, for all of them together."""


@attrs.frozen
class Kept(Generic[T]):
    """An answer, and when it was true. `error` instead of it: why there is no answer."""

    value: T | None = None
    at: datetime | None = None
    error: str | None = None

    @property
    def pending(self) -> bool:
        """It is there in a moment."""
        return self.value is None and self.error is None


class Cached(Generic[T]):
    """`ask`: the question. `seconds`: how long its answer is used; at least ten times as long as it took. `gate`: of
    the questions that share one, one is asked at a time."""

    def __init__(self, ask: Callable[[], Awaitable[tuple[T, datetime]]], seconds: float, gate: anyio.Lock) -> None:
        self._ask, self._seconds, self._gate = ask, seconds, gate
        self._kept: Kept[T] = Kept()
        self._until = 0.0
        self._done: anyio.Event | None = None
        self._changes, self._answered = 1, 0  # up to which change the answer is true

    @property
    def kept(self) -> Kept[T]:
        """The last answer, of the past as it may be."""
        return self._kept

    def begin(self) -> None:
        """An old answer is refreshed in the background."""
        if time.monotonic() >= self._until and self._done is None:
            self._done = anyio.Event()
            spawner()(self._refresh)

    async def fresh(self) -> None:
        """Waits for the first answer, for the first after a change or an error, if it has been asked for."""
        if self._answered < self._changes and (done := self._done) is not None:
            await done.wait()

    def forget(self) -> None:
        """Something was changed: ask again the next time, even if an answer is on its way."""
        self._until, self._changes = 0.0, self._changes + 1

    async def _refresh(self) -> None:
        began, changes, good = time.monotonic(), self._changes, False
        try:
            async with self._gate:
                began, changes = time.monotonic(), self._changes
                value, at = await self._ask()
            self._kept, self._answered, good = Kept(value, at), changes, changes == self._changes
        except AetherError as error:
            self._answered, self._kept = 0, Kept(error=str(error))
        except Exception as error:
            log.exception("the page cannot read the store")
            self._answered, self._kept = 0, Kept(error=f"{type(error).__name__}; the log says more")
        finally:
            now = time.monotonic()
            self._until = now + max(self._seconds, 10 * (now - began)) if good else 0.0  # 0: again the next time
            done, self._done = self._done, None
            if done is not None:
                done.set()


async def ready(*cached: Cached[Any]) -> None:
    """All begin at once; if one has no answer yet, or none since a change, this waits a moment for it."""
    for one in cached:
        one.begin()
    with anyio.move_on_after(PATIENCE):
        for one in cached:
            await one.fresh()
