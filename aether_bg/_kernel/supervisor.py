"""Restarts loops of the kernel and of plugins: one that fails is reported and started again (docs/protocol.md, S6)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio

from aether_bg._kernel.identity import Identity
from aether_bg._kernel.problems import Problems, one_line
from aether_bg._kernel.tasks import Run, Spawn, longer
from aether_bg._kernel.timings import Timings
from aether_bg.protocols import Clock

Loop = Callable[[], Awaitable[object]]


class Supervisor:
    """Starts loops as tasks of their own, so that their failures never reach the host program."""

    def __init__(
        self, *, spawn: Spawn, on_loop: Run, clock: Clock, identity: Identity, problems: Problems, timings: Timings
    ) -> None:
        self._start, self._on_loop, self._clock = spawn, on_loop, clock
        self._identity, self._problems, self._timings = identity, problems, timings
        self._failed: dict[str, float] = {}
        """When each loop last failed."""
        self._loops: set[anyio.CancelScope] = set()
        self._kept: list[anyio.CancelScope] = []

    def spawn(self, fn: Loop, name: str) -> None:
        """Runs `fn` until it returns. From any thread."""
        self._on_loop(lambda: self._start(self._run, fn, name, False))

    def supervise(self, fn: Loop, name: str) -> None:
        """Runs a loop that is not meant to return."""
        self._start(self._run, fn, name, True)

    def keep(self, fn: Loop) -> None:
        """Runs a loop of the kernel's own until `end`: the others do their last work through it."""
        self._start(self._keep, fn)

    def failing(self, name: str) -> bool:
        """Whether this loop cannot get going; a loop that runs again no longer counts."""
        return self._clock.monotonic() - self._failed.get(name, -math.inf) <= 2 * self._timings.backoff[1]

    def cancel(self) -> None:
        """Cancels what was spawned or supervised; the kernel's own loops go on."""
        for scope in self._loops:
            scope.cancel()

    def end(self) -> None:
        self.cancel()
        for scope in self._kept:
            scope.cancel()

    async def _keep(self, fn: Loop) -> None:
        scope = anyio.CancelScope()
        self._kept.append(scope)
        with scope:
            await fn()

    async def _run(self, fn: Loop, name: str, forever: bool) -> None:
        scope = anyio.CancelScope()
        self._loops.add(scope)
        try:
            with scope:
                await self._restart(fn, name, forever)
        finally:
            self._loops.discard(scope)

    async def _restart(self, fn: Loop, name: str, forever: bool) -> None:
        wait, reported = self._timings.backoff[0], ("", -math.inf)
        while not self._identity.stopping:
            began = self._clock.monotonic()
            try:
                await fn()
                if not forever:
                    return
                problem: BaseException | str = "it returned, though it should run until the stop"
            except Exception as error:
                problem = error
            if self._identity.stopping:
                return
            text, now = one_line(problem), self._clock.monotonic()
            self._failed[name] = now
            if text != reported[0] or now - reported[1] >= self._timings.recent:
                reported = (text, now)
                self._problems.report(name, problem)
            wait = longer(0.0 if now - began > self._timings.recent else wait, self._timings.backoff)
            await anyio.sleep(wait)
