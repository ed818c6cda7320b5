"""A circuit breaker: what keeps failing is left alone for a while, and its jobs wait instead of using up their retries.

    from circuit_breaker import CircuitBreaker

    app = Aether("jobs.db", plugins=[CircuitBreaker(failures=5, recovery=30)])      # a circuit for each handler
    #   CircuitBreaker(key=lambda ctx: ctx.job.metadata.get("host"))                # …for each host
    #   CircuitBreaker(counts=lambda failure: isinstance(failure, TimedOut))        # …that only timeouts open

Closed: attempts run; `failures` in a row open it. Open: every attempt is postponed (`Snooze`: it waits in the store, no
retry is spent, the history says so). After `recovery` seconds it is half-open: one attempt goes through, the others
wait another `recovery`. If that attempt succeeds the circuit closes; if it fails it is open again.

What it does not do: it works within one process; each process finds out for itself. An attempt that fails, including
the one that goes through, costs its job a retry as always; then the handler's backoff, or another plugin's
`dispatch_decide`, applies. `GiveUp`, `Snooze` and a payload that does not fit say nothing about the other side, and do
not count. Time is the app's clock. Register it before a rate limiter, so that a postponed attempt takes no token there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from enum import StrEnum

import attrs

from aether_bg import JobContext, Snooze, hookimpl
from aether_bg.errors import InvalidOption, shown
from aether_bg.model import Failure
from aether_bg.protocols import Kernel


class Circuit(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@attrs.define
class _State:
    """The state of one key, unless it is simply closed."""

    failures: int = 0
    open_until: float | None = None
    """By the monotonic clock; once it has passed, the circuit is half-open."""
    probe: JobContext | None = None
    """The attempt that goes through a half-open circuit."""


def by_handler(ctx: JobContext) -> str:
    """A circuit for each kind of work."""
    return ctx.job.handler_name


class CircuitBreaker:
    """The plugin. `failures` in a row open a circuit for `recovery` seconds. `key`: which circuit an attempt goes
    through; None: none. `counts`: whether a failure says something about the other side; by default, all do."""

    def __init__(
        self,
        *,
        failures: int = 5,
        recovery: float = 30.0,
        key: Callable[[JobContext], str | None] = by_handler,
        counts: Callable[[Failure], bool] = lambda failure: True,
    ) -> None:
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise InvalidOption(f"failures={shown(failures)}", "must be a whole number, at least 1")
        if isinstance(recovery, bool) or not isinstance(recovery, int | float) or not 0 < recovery < float("inf"):
            raise InvalidOption(f"recovery={shown(recovery)}", "must be a number of seconds above 0")
        self._failures, self._recovery, self._key, self._counts = failures, float(recovery), key, counts
        self._states: dict[str, _State] = {}
        self._kernel: Kernel | None = None

    def state(self, key: str) -> Circuit:
        """The state of this key's circuit, for a health page. An unknown key is closed."""
        state = self._states.get(key)
        if state is None or state.open_until is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self._now() < state.open_until else Circuit.HALF_OPEN

    def _now(self) -> float:
        assert self._kernel is not None  # nothing has failed before the start
        return self._kernel.clock.monotonic()

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[None] | None:
        key = self._key(ctx)
        return None if key is None else self._through(key, ctx)

    @asynccontextmanager
    async def _through(self, key: str, ctx: JobContext) -> AsyncIterator[None]:
        """No await before the yield: no other attempt starts between the check of a half-open circuit and the probe."""
        probing = self._admit(key, ctx)
        try:
            yield
        except BaseException:
            if probing is not None:  # whether it counts is said by `dispatch_decide`; until then the next may try
                probing.probe = None
            raise
        if probing is not None or self.state(key) is Circuit.CLOSED:
            self._states.pop(key, None)

    def _admit(self, key: str, ctx: JobContext) -> _State | None:
        """Lets it through, as the probe of the state returned if there is one; or raises `Snooze`."""
        state = self._states.get(key)
        if state is None or state.open_until is None:
            return None
        wait = state.open_until - self._now()
        if wait > 0 or state.probe is not None:
            assert self._kernel is not None
            raise Snooze(self._kernel.clock.now() + timedelta(seconds=wait if wait > 0 else self._recovery))
        state.probe = ctx
        return state

    @hookimpl(tryfirst=True)
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> None:
        """Counts, and decides nothing: None leaves the decision to others."""
        key = self._key(ctx)
        if key is None or not self._counts(failure) or self.state(key) is Circuit.OPEN:
            return
        state = self._states.setdefault(key, _State())
        state.failures += 1
        if state.failures >= self._failures:  # a half-open one has them already
            state.open_until = self._now() + self._recovery
