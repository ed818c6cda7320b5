"""A rate limit for handlers, tenants or anything else: attempts that come too soon are postponed, never dropped.

    from rate_limiter import Rate, RateLimiter

    app = Aether("jobs.db", plugins=[
        RateLimiter(Rate(100, per=60, burst=20)),                                      # each handler
        RateLimiter(Rate(1, per=5), key=lambda ctx: ctx.job.metadata.get("tenant")),   # each tenant
    ])

Every key has a bucket of `burst` tokens that refills at `count` tokens per `per` seconds; each attempt takes one, and
so does each retry. If the bucket is empty, the attempt is postponed (`Snooze`: it waits in the store, no retry is
spent, the history says so) to the instant when its own token arrives: of a thousand jobs due at once, each is postponed
once.

What it does not do: it counts in one process, so N processes on one file allow N times the rate; a restart begins with
full buckets. If a job is deleted while it is postponed, its token stays unused. Time is the app's clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

import anyio
import attrs

from aether_bg import JobContext, Snooze, hookimpl
from aether_bg.errors import InvalidOption, shown
from aether_bg.protocols import Kernel

FINEST: Final = 0.1
"""Seconds: no scheduler is finer, so a shorter wait is slept."""
KEPT: Final = 3600.0
"""Seconds that a token is kept for a job that does not use it."""


def _above_zero(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidOption(f"Rate({attribute.name}={shown(value)})", "must be a number above 0")


def _whole(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(f"Rate({attribute.name}={shown(value)})", "must be a whole number, at least 1")


@attrs.frozen
class Rate:
    """`count` attempts per `per` seconds. `burst`: how many may follow each other directly after a rest."""

    count: float = attrs.field(validator=_above_zero)
    per: float = attrs.field(default=1.0, validator=_above_zero, kw_only=True)
    burst: int = attrs.field(default=1, validator=_whole, kw_only=True)

    @property
    def interval(self) -> float:
        """Seconds in which one token arrives."""
        return self.per / self.count


def by_handler(ctx: JobContext) -> str:
    """A bucket for each kind of work."""
    return ctx.job.handler_name


class RateLimiter:
    """The plugin. `key`: which bucket an attempt takes from; None: it is not limited."""

    def __init__(self, rate: Rate, *, key: Callable[[JobContext], str | None] = by_handler) -> None:
        self._rate, self._key = rate, key
        self._full_at: dict[str, float] = {}  # when each bucket will be full again; not there: it is
        self._promised: dict[UUID, float] = {}  # when the token arrives that a job was put off for
        self._swept = 0.0
        self._kernel: Kernel | None = None

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[None] | None:
        key = self._key(ctx)
        return None if key is None else self._in_turn(key, ctx.job.id)

    @asynccontextmanager
    async def _in_turn(self, key: str, job: UUID) -> AsyncIterator[None]:
        assert self._kernel is not None  # nothing runs before the start
        clock = self._kernel.clock
        now = clock.monotonic()
        arrives = self._token(key, job, now)
        if arrives - now > FINEST:
            self._promised[job] = arrives
            raise Snooze(clock.now() + timedelta(seconds=arrives - now))
        await anyio.sleep(max(arrives - now, 0))
        try:
            yield
        except Snooze:  # put off further within: the work was not done, so its token waits for it
            self._promised[job] = arrives
            raise

    def _token(self, key: str, job: UUID, now: float) -> float:
        """Take the token that was promised, or the next one; returns when it arrives. No await in between."""
        self._sweep(now)
        if (promised := self._promised.pop(job, None)) is not None:
            return promised
        interval = self._rate.interval
        self._full_at[key] = full_at = max(self._full_at.get(key, now), now) + interval
        return full_at - self._rate.burst * interval

    def _sweep(self, now: float) -> None:
        """Once a minute: forget full buckets, and promised tokens that no job has used."""
        if now - self._swept < 60:
            return
        self._swept = now
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        self._promised = {job: at for job, at in self._promised.items() if at > now - KEPT}
