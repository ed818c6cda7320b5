"""One function per layer: from an author's factory to the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aether_bg.testing.contracts import schedulers as _schedulers
from aether_bg.testing.contracts import (
    store_after,
    store_at_once,
    store_choosing,
    store_claims,
    store_guards,
    store_lasting,
    store_listing,
    store_notes,
    store_owners,
    store_reading,
    store_values,
    store_waking,
)
from aether_bg.testing.contracts.opening import STORE, StoreWorld, plugin_of
from aether_bg.testing.contracts.policies import POLICY, PolicyWorld
from aether_bg.testing.contracts.runners import RUNNER, RunnerWorld
from aether_bg.testing.contracts.scheduling import SCHEDULER, SchedulerWorld
from aether_bg.testing.contracts.suite import BACKENDS, Contract

_ROOMS = (
    store_values,
    store_guards,
    store_claims,
    store_choosing,
    store_notes,
    store_after,
    store_at_once,
    store_owners,
    store_listing,
    store_reading,
    store_lasting,
    store_waking,
    _schedulers,
)
"""Imported for their rules, in this order."""


def store_contract(
    make: Callable[[Path], Any],
    *,
    durable: bool = True,
    shared: bool | None = None,
    name: str = "store",
    backends: Sequence[str] = BACKENDS,
    limit: float = 30.0,
) -> Contract[StoreWorld]:
    """The rules of the persistence hooks, for the store that `make(place)` makes.

    `durable`: made again at the same place, it has the same jobs. `shared`: also while the first is open; by default
    as `durable`. `name`: part of the tests' names. `backends`: event loops to test on; by default
    those that are installed. `limit`: seconds per rule; what a rule waits for must come within a third of it.
    """

    @asynccontextmanager
    async def enter(folder: Path) -> AsyncIterator[StoreWorld]:
        yield StoreWorld(make, folder, patience=limit / 3)

    has = {"durable": durable, "shared": durable if shared is None else shared}
    return Contract(STORE, enter, name=name, has=has, backends=backends, limit=limit)


def scheduler_contract(
    make: Callable[[], Any],
    *,
    patience: float = 10.0,
    name: str = "scheduler",
    backends: Sequence[str] = BACKENDS,
    limit: float = 60.0,
) -> Contract[SchedulerWorld]:
    """The rules of the scheduling hooks, for the scheduler that `make()` makes: an app on a SQLite file runs under it.

    Time is real: about half a minute for each event loop. What `make()` makes later finds the engine as the earlier
    one left it. `patience`: seconds after which what should have been called counts as forgotten. `name, backends,
    limit`: as for `store_contract`.
    """

    @asynccontextmanager
    async def enter(folder: Path) -> AsyncIterator[SchedulerWorld]:
        yield SchedulerWorld(make, folder, patience)

    return Contract(SCHEDULER, enter, name=name, has={}, backends=backends, limit=limit)


def runner_contract(
    make: Callable[[], Any], *, name: str = "runner", backends: Sequence[str] = BACKENDS, limit: float = 60.0
) -> Contract[RunnerWorld]:
    """The rules of `dispatch_runner`, for the plugin that `make()` makes: for async handlers, plain ones, or both.

    `name, backends, limit`: as for `store_contract`.
    """

    @asynccontextmanager
    async def enter(folder: Path) -> AsyncIterator[RunnerWorld]:
        async with AsyncExitStack() as stack:
            yield RunnerWorld(await plugin_of(make(), stack), folder)

    return Contract(RUNNER, enter, name=name, has={}, backends=backends, limit=limit)


def policy_contract(
    make: Callable[[], Any],
    *,
    words: Sequence[str] = (),
    name: str = "policy",
    backends: Sequence[str] = BACKENDS,
    limit: float = 30.0,
) -> Contract[PolicyWorld]:
    """The rules of every other hook, for the plugin that `make()` makes: those it implements are looked at.

    `words`: schedules that its `schedule_parse` reads. `name, backends, limit`: as for `store_contract`.
    """

    @asynccontextmanager
    async def enter(folder: Path) -> AsyncIterator[PolicyWorld]:
        async with AsyncExitStack() as stack:
            plugin, later = [await plugin_of(make(), stack) for _ in range(2)]
            yield PolicyWorld(plugin, later, tuple(words), folder)

    return Contract(POLICY, enter, name=name, has={}, backends=backends, limit=limit)
