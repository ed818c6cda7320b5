"""Passes events to the observers in order, after the commit, in a task of its own: no observer can delay a job."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from aether_bg.errors import brief, loggable, shown
from aether_bg.explain import first_line
from aether_bg.model import Event

log = logging.getLogger("aether_bg")

MOST_WAITING: Final = 10_000

Observer = Callable[[Event], Awaitable[object]]


class Observers:
    """`slow`: seconds from which an observer is reported as slow."""

    def __init__(self, observers: Sequence[Observer], slow: float) -> None:
        self._observers, self._slow = observers, slow
        self.present = bool(observers)
        self._waiting: deque[Event] = deque()
        self._something = anyio.Event()
        self._dropped = 0
        self._telling = False

    def emit(self, event: Event) -> None:
        if not self.present:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1  # an observer hangs; jobs go on
            return
        self._waiting.append(event)
        self._something.set()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._telling

    async def run(self) -> None:
        while True:
            await self._something.wait()
            self._something = anyio.Event()
            while self._waiting:
                event = self._waiting.popleft()
                self._telling = True
                for observer in self._observers:
                    await self._tell(observer, event)
                self._telling = False
            if self._dropped:
                log.warning("%d events were dropped: an observer was too slow", self._dropped)
                self._dropped = 0

    async def _tell(self, observer: Observer, event: Event) -> None:
        """Logs what an observer raises, and that it took long."""
        began, name = anyio.current_time(), type(event).__name__
        try:
            await observer(event)
        except (Exception, SystemExit) as error:
            text = first_line(brief(error))
            log.error("lifecycle_event of %s failed on %r: %s", shown(observer), name, text, exc_info=loggable(error))
        if (took := anyio.current_time() - began) > self._slow:
            log.warning("lifecycle_event of %s took %.1f s on %s", shown(observer), took, name)
