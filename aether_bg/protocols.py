"""Signatures for type checkers: what the kernel offers plugins, and what a layer's owner offers the kernel.

Nobody subclasses these. An author who writes `store: Store = MyStore(...)` has mypy check every signature.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    Fired,
    Heartbeat,
    Invocation,
    JobContext,
    JobInfo,
    JobRun,
    Purge,
    Query,
    Stats,
    Write,
)


class Clock(Protocol):
    """Where the app reads the time. Tests pass their own."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...


class Reader(Protocol):
    """The kernel's read access to the store, for plugins."""

    async def find(self, query: Query) -> Sequence[JobInfo]: ...
    async def history(self, job_id: UUID, limit: int = 100) -> Sequence[JobRun]: ...
    async def stats(self) -> Stats: ...


class Kernel(Protocol):
    """What a plugin may ask of the kernel, from its event loop; `wake`, `spawn` and `report` from any thread."""

    @property
    def owner(self) -> UUID:
        """This process's owner id, new at every start (PROTOCOL P1)."""
        ...

    @property
    def store_id(self) -> UUID:
        """The id kept in the store (PROTOCOL D3)."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def store(self) -> Reader: ...

    async def fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        """The door for a push scheduler: a trigger has come (PROTOCOL C2). Returns once the claim is committed; the
        handler runs after, whatever becomes of the caller. Never raises for stale or foreign triggers."""
        ...

    async def fire_due(self) -> datetime | None:
        """The door for a pull scheduler: claim and start what is due, up to the free capacity, waiting for some
        where there is none. Returns when to come back; None when nothing waits."""
        ...

    async def sleep_until(self, when: datetime | None) -> None:
        """Sleep until `when` by the app's clock, at most one second (the wall clock may jump, PROTOCOL R4), or until
        `wake`."""
        ...

    def wake(self) -> None:
        """Something may be due, or may need arming: another process wrote, or time was moved."""
        ...

    def spawn(self, fn: Callable[[], Awaitable[object]], name: str) -> None:
        """Run `fn` on the app's event loop, beside the app, supervised: when it raises it is reported and started again
        with backoff; when it returns it is done; it is cancelled at the stop. From any thread: an engine that calls
        back on one of its own hands `fire` over with this."""
        ...

    def report(self, part: str, problem: BaseException | str) -> None:
        """Log a problem that nobody can be raised to, and pass it to `lifecycle_event`."""
        ...


class PayloadCodec(Protocol):
    """Turns a JSON value into another one for the store, and back (encryption, compression)."""

    def encode(self, payload: Any) -> Any: ...
    def decode(self, stored: Any) -> Any: ...


class Runner(Protocol):
    """Runs one handler call somewhere: awaits it on the loop, or carries it to a thread or a process.

    `call()` returns a coroutine for an async handler and the result for a plain one. Must end when cancelled, or, if
    it cannot (a thread), keep going shielded until the work has really ended (PROTOCOL S4), and let the cancellation
    out afterwards: `anyio.lowlevel.checkpoint_if_cancelled`.
    """

    async def __call__(self, ctx: JobContext, call: Invocation) -> Any: ...


@runtime_checkable
class Store(Protocol):
    """The persistence layer, hook by hook. See `aether_bg.hookspecs`."""

    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]: ...
    async def store_claim(self, claim: Claim) -> Claimed: ...
    async def store_heartbeat(self, beat: Heartbeat) -> Alive: ...
    async def store_find(self, query: Query) -> Sequence[JobInfo]: ...
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]: ...
    async def store_stats(self) -> Stats: ...
    async def store_purge(self, purge: Purge) -> int: ...
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None: ...


@runtime_checkable
class Scheduler(Protocol):
    """The scheduling layer. `schedule_arm` is left out by a scheduler that reads due rows itself.

    It may have `health`, an attribute or a plain method: None while it is well, else what is wrong, as text;
    `app.health()` asks it.
    """

    async def schedule_run(self, kernel: Kernel) -> None: ...
