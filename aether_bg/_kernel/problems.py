"""Errors without a caller to raise them to: logged, kept for `health`, passed to observers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aether_bg._kernel.identity import Identity
from aether_bg._kernel.observers import Observers
from aether_bg._kernel.tasks import Run
from aether_bg.errors import NotStarted, StoreError, brief, loggable
from aether_bg.explain import plain
from aether_bg.model import JobInfo, Problem
from aether_bg.model.job import log_fields
from aether_bg.protocols import Clock

log = logging.getLogger("aether_bg")


class Problems:
    """`recent`: seconds for which a problem is kept. `on_loop`: runs a function on the kernel's event loop."""

    def __init__(self, *, clock: Clock, identity: Identity, observers: Observers, on_loop: Run, recent: float) -> None:
        self._clock, self._identity, self._observers, self._on_loop = clock, identity, observers, on_loop
        self._recent = recent
        self._last: dict[str, tuple[float, str]] = {}
        self._reported_at_stop: set[tuple[str, object]] = set()

    def report(self, part: str, problem: BaseException | str, job: JobInfo | None = None) -> None:
        """From any thread. During the stop: one line per part and kind of problem; a problem after the end is
        dropped."""
        error = problem if isinstance(problem, BaseException) else None
        if self._identity.stopping:
            if isinstance(error, NotStarted):
                return
            kind = (part, type(error) if error else problem)
            if kind in self._reported_at_stop:
                return
            self._reported_at_stop.add(kind)
        text = one_line(problem)
        exc_info = loggable(error) if log.isEnabledFor(logging.DEBUG) else None
        extra = log_fields(job) if job else None
        log.warning("%s: %s", part, text, exc_info=exc_info, extra=extra)
        self._last[part] = (self._clock.monotonic(), text)
        self._on_loop(lambda: self._observers.emit(Problem(part, problem)))

    @contextmanager
    def reported(self, part: str, job: JobInfo | None = None) -> Iterator[None]:
        """For work that no caller waits for: what the store raises ends the block, and is reported."""
        try:
            yield
        except (StoreError, NotStarted) as error:
            self.report(part, error, job)

    @property
    def current(self) -> dict[str, str]:
        """The last problem of each part, if it is recent."""
        since = self._clock.monotonic() - self._recent
        return {part: text for part, (when, text) in list(self._last.items()) if when >= since}


def one_line(problem: BaseException | str) -> str:
    """An error for logs: bounded, without line breaks and escape sequences; for a group, every error in it."""
    text = _text(problem) if isinstance(problem, BaseException) else problem
    return plain(text[:2000])


def _text(problem: BaseException) -> str:
    if isinstance(problem, BaseExceptionGroup):
        return "; ".join(map(_text, problem.exceptions))
    return brief(problem)
