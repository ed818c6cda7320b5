"""A third party's store, opened through the hooks as the kernel would, at a place of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import attrs

from aether_bg import Aether
from aether_bg.hookspecs import plugin_manager
from aether_bg.model import (
    Alive,
    Change,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Insert,
    JobInfo,
    JobRun,
    Purge,
    Query,
    Ran,
    Runs,
    Stats,
    Update,
    Write,
)
from aether_bg.testing.contracts.suite import Suite, expect
from aether_bg.testing.contracts.values import a_job, difference, new_id, now


class Opened:
    """One opening of a store: its hooks, and the few verbs that the checks use."""

    def __init__(self, hooks: Any, placeholder: str = "?") -> None:
        self._hooks = hooks
        self.placeholder = placeholder

    # -- the hooks -------------------------------------------------------------------------------

    async def transact(self, *writes: Write) -> Sequence[object]:
        return cast(Sequence[object], await self._hooks.store_transact(writes=writes))

    async def claim(self, owner: UUID, limit: int = 100, **fields: Any) -> Claimed:
        about: dict[str, Any] = {"owner": owner, "now": now(), "limit": limit, "handlers": ("Work",)}
        return cast(Claimed, await self._hooks.store_claim(claim=Claim(**about | fields)))

    async def beat(self, owner: UUID, **fields: Any) -> Alive:
        about: dict[str, Any] = {"owner": owner, "handlers": ("Work",), "now": now(), "interval": 5.0, "keep_for": 60.0}
        return cast(Alive, await self._hooks.store_heartbeat(beat=Heartbeat(**about | fields)))

    async def find(self, **fields: Any) -> list[JobInfo]:
        return list(await self._hooks.store_find(query=Query(**fields)))

    async def history(self, job_id: UUID, limit: int = 100) -> list[JobRun]:
        return list(await self._hooks.store_history(job_id=job_id, limit=limit))

    async def runs(self, **fields: Any) -> list[Ran]:
        return list(await self._hooks.store_runs(query=Runs(**fields)))

    async def failures(self, **fields: Any) -> list[FailureGroup]:
        return list(await self._hooks.store_failures(query=Failures(**fields)))

    async def stats(self) -> Stats:
        return cast(Stats, await self._hooks.store_stats())

    async def purge(self, **fields: Any) -> int:
        return cast(int, await self._hooks.store_purge(purge=Purge(**fields)))

    # -- in the words of the checks --------------------------------------------------------------

    async def add(self, *jobs: JobInfo) -> None:
        await self.transact(*map(Insert, jobs))

    async def save(self, *changes: Change) -> None:
        await self.transact(*map(Update, changes))

    async def row(self, job: JobInfo | UUID) -> JobInfo | None:
        found = await self.find(ids=(job.id if isinstance(job, JobInfo) else job,))
        return found[0] if found else None

    async def the(self, job: JobInfo | UUID) -> JobInfo:
        """The row, which must exist."""
        row = await self.row(job)
        expect(row is not None, f"the row of {job} is gone")
        return cast(JobInfo, row)

    async def same(self, job: JobInfo, what: str) -> None:
        """The row must exist, and equal `job` in every field."""
        differs = difference(await self.the(job), job)
        expect(not differs, f"{what}: {differs}")

    async def owner(self, **fields: Any) -> UUID:
        """A new owner, registered."""
        me = new_id()
        await self.beat(me, join=True, **fields)
        return me

    async def running(self, owner: UUID | None = None, **fields: Any) -> JobInfo:
        """A new job, claimed (by a new owner)."""
        owner = owner or await self.owner()
        job = a_job(**fields)
        await self.add(job)
        taken = (await self.claim(owner, job_id=job.id, seq=job.seq)).jobs
        expect(len(taken) == 1, f"a claim of exactly one due job by a registered owner took {len(taken)}")
        return taken[0]


@attrs.frozen
class StoreWorld:
    """`open` as often as needed: all openings use one place, made for this check alone. `patience`: seconds after which
    what should have come about counts as missing."""

    make: Callable[[Path], Any]
    place: Path
    patience: float

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Opened]:
        async with AsyncExitStack() as stack:
            store = await plugin_of(self.make(self.place), stack)
            await stack.enter_async_context(Aether(store, scheduler="timer").client())
            yield Opened(hooks_of(store), getattr(store, "placeholder", "?"))

    @asynccontextmanager
    async def plugin(self) -> AsyncIterator[Any]:
        """The store itself, not opened, for an app that will."""
        async with AsyncExitStack() as stack:
            yield await plugin_of(self.make(self.place), stack)


async def plugin_of(made: Any, stack: AsyncExitStack) -> Any:
    """A factory returns the plugin, or a context manager, async or not, that yields it and cleans up after it."""
    if implements_something(made):
        return made
    if hasattr(type(made), "__aenter__"):
        return await stack.enter_async_context(made)
    if hasattr(type(made), "__enter__"):
        return stack.enter_context(made)
    return made  # registration will say what is wrong with it


def hooks_of(plugin: Any) -> Any:
    """Only its hooks, through pluggy: names given by `specname` count, attributes do not."""
    manager = plugin_manager()
    manager.register(plugin)
    return manager.hook


def implements(plugin: Any, hook: str) -> bool:
    return bool(getattr(hooks_of(plugin), hook).get_hookimpls())


def implements_something(thing: Any) -> bool:
    manager = plugin_manager()
    manager.register(thing)
    return bool(manager.get_hookcallers(thing))


STORE: Suite[StoreWorld] = Suite("store")
"""The rules of `store_*`, each registered by the file that has its check."""
