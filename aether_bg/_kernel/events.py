"""Observers: told in order, after the commit, by one task of their own, so that none can hold a job up."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import anyio

from aether_bg._hooks.calls import Calls
from aether_bg.errors import brief, loggable, shown
from aether_bg.explain import first_line
from aether_bg.model import Event, Problem

log = logging.getLogger("aether_bg")

_MOST_WAITING: Final = 10_000
_SLOW: Final = 5.0


class Events:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.observed = calls.observed
        self._waiting: deque[Event] = deque()
        self._something = anyio.Event()
        self._dropped = 0
        self._telling = False

    def emit(self, event: Event) -> None:
        if not self.observed:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1  # an observer hangs; jobs go on
            return
        self._waiting.append(event)
        self._something.set()

    def problem(self, part: str, error: BaseException | str) -> None:
        self.emit(Problem(part, error))

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._telling

    async def run(self) -> None:
        """What an observer raises is logged and goes no further; one that takes long is named."""
        observers = self._calls.observers()
        while True:
            await self._something.wait()
            self._something = anyio.Event()
            while self._waiting:
                event = self._waiting.popleft()
                self._telling = True
                for observer in observers:
                    began = anyio.current_time()
                    try:
                        await observer(event)
                    except Exception as error:
                        log.error(
                            "lifecycle_event of %s failed on %r: %s", shown(observer), type(event).__name__,
                            first_line(brief(error)), exc_info=loggable(error),
                        )  # fmt: skip
                    if (took := anyio.current_time() - began) > _SLOW:
                        log.warning(
                            "lifecycle_event of %s took %.1f s on %s", shown(observer), took, type(event).__name__
                        )
                self._telling = False
            if self._dropped:
                log.warning("%d events were dropped: an observer was too slow", self._dropped)
                self._dropped = 0
