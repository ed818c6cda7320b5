"""Restarts loops of the kernel and of plugins: one that fails is reported and started again (docs/protocol.md, S6)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import attrs

from aether_bg._kernel.problems import one_line
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import Run, longer

Loop = Callable[[], Awaitable[object]]


@attrs.define(kw_only=True, eq=False)
class Supervisor:
    """Starts loops as tasks of their own, so that their failures never reach the host program."""

    _shared: Shared
    _on_loop: Run
    _failed: dict[str, float] = attrs.field(factory=dict, init=False)
    """When each loop last failed."""
    _loops: set[anyio.CancelScope] = attrs.field(factory=set, init=False)
    _kept: set[anyio.CancelScope] = attrs.field(factory=set, init=False)

    def spawn(self, fn: Loop, name: str) -> None:
        """Runs `fn` until it returns. From any thread."""
        once = partial(self._restart, fn, name, False)
        self._on_loop(lambda: self._shared.spawn(self._within, self._loops, once))

    def supervise(self, fn: Loop, name: str) -> None:
        """Runs a loop that is not meant to return."""
        self._shared.spawn(self._within, self._loops, partial(self._restart, fn, name, True))

    def keep(self, fn: Loop) -> None:
        """Runs a loop of the kernel's own until `end`: the others do their last work through it."""
        self._shared.spawn(self._within, self._kept, fn)

    def failing(self, name: str) -> bool:
        """Whether this loop cannot get going; a loop that runs again no longer counts."""
        shared = self._shared
        return shared.clock.monotonic() - self._failed.get(name, -math.inf) <= 2 * shared.timings.backoff[1]

    def cancel(self) -> None:
        """Cancels what was spawned or supervised; the kernel's own loops go on."""
        for scope in self._loops:
            scope.cancel()

    def end(self) -> None:
        for scope in self._loops | self._kept:
            scope.cancel()

    async def _within(self, scopes: set[anyio.CancelScope], fn: Loop) -> None:
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                await fn()
            finally:
                scopes.discard(scope)

    async def _restart(self, fn: Loop, name: str, forever: bool) -> None:
        identity, clock, timings = self._shared.identity, self._shared.clock, self._shared.timings
        wait, reported = timings.backoff[0], ("", -math.inf)
        while not identity.stopping:
            began = clock.monotonic()
            try:
                await fn()
                if not forever:
                    return
                problem: BaseException | str = "it returned, though it should run until the stop"
            except (Exception, SystemExit) as error:
                problem = error
            if identity.stopping:
                return
            text, now = one_line(problem), clock.monotonic()
            self._failed[name] = now
            if text != reported[0] or now - reported[1] >= timings.recent:
                reported = (text, now)
                self._shared.problems.report(name, problem)
            wait = longer(0.0 if now - began > timings.recent else wait, timings.backoff)
            await anyio.sleep(wait)
