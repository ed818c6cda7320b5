"""Answers that take long when there are many jobs: kept for some seconds, and refreshed in the background."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

import anyio
import attrs

from aether_bg._app.operator import spawner
from aether_bg.errors import AetherError

T = TypeVar("T")
log = logging.getLogger("aether_bg.web")
PATIENCE: Final = 0.04
"""Seconds that a page waits for the first answer."""


@attrs.frozen
class Kept(Generic[T]):
    """An answer, and when it was true. `error` instead of it: why there is no answer."""

    value: T | None = None
    at: datetime | None = None
    error: str | None = None


class Cached(Generic[T]):
    """`ask`: the question. `seconds`: how long its answer is used; at least ten times as long as it took. `gate`: of
    the questions that share one, one is asked at a time: a store has few connections, and jobs need them too."""

    def __init__(self, ask: Callable[[], Awaitable[tuple[T, datetime]]], seconds: float, gate: anyio.Lock) -> None:
        self._ask, self._seconds, self._gate = ask, seconds, gate
        self._kept: Kept[T] = Kept()
        self._until = 0.0
        self._done: anyio.Event | None = None

    async def get(self, patience: float = PATIENCE) -> Kept[T]:
        """The last answer. An old one is refreshed in the background; the first time this waits a moment."""
        if time.monotonic() >= self._until and self._done is None:
            self._done = anyio.Event()
            spawner()(self._refresh)
        if self._kept.value is None and (done := self._done) is not None:
            with anyio.move_on_after(patience):
                await done.wait()
        return self._kept

    def forget(self) -> None:
        """Something was changed: ask again the next time."""
        self._until = 0.0

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            async with self._gate:
                began = time.monotonic()
                value, at = await self._ask()
            self._kept = Kept(value, at)
        except AetherError as error:
            self._kept = Kept(error=str(error))
        except Exception as error:
            log.exception("the page cannot read the store")
            self._kept = Kept(error=f"{type(error).__name__}; the log says more")
        finally:
            now = time.monotonic()
            self._until = now + max(self._seconds, 10 * (now - began))
            done, self._done = self._done, None
            if done is not None:
                done.set()
