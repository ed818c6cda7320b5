"""Signatures for type checkers: what the kernel offers plugins, and what a layer's owner offers the kernel.

They are never subclassed. An author who writes `store: Store = MyStore(...)` has mypy check every signature.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from aether_bg.hookspecs import Opening, Persistence, Scheduling
from aether_bg.model import (
    About,
    FailureGroup,
    Failures,
    Fired,
    Invocation,
    JobContext,
    JobInfo,
    JobRun,
    Process,
    Purge,
    Query,
    Ran,
    Runs,
    Stats,
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
        """This process's owner id, new at every start (docs/protocol.md, P1)."""
        ...

    @property
    def client(self) -> bool:
        """Whether this start is a client's: it only enqueues and queries, and no scheduler runs."""
        ...

    @property
    def store_id(self) -> UUID:
        """The id kept in the store (docs/protocol.md, D3)."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def store(self) -> Reader: ...

    async def fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        """For a push scheduler: a trigger has arrived (docs/protocol.md, C2). Returns once the claim is committed; the
        handler runs after that, even if the caller is cancelled. Never raises for stale or foreign triggers."""
        ...

    async def fire_due(self) -> datetime | None:
        """For a pull scheduler: claim and start what is due, up to the free capacity; waits for some if there is none.
        Returns when to come back; None when nothing waits."""
        ...

    async def sleep_until(self, when: datetime | None) -> None:
        """Sleep until `when` by the app's clock, which is read each second (docs/protocol.md, R4), or until `wake`. At
        most a second; ten after a `fire_due` on a store that is sure to wake (P12)."""
        ...

    def wake(self) -> None:
        """Something may be due, or may need arming: another process wrote, or the clock was moved."""
        ...

    def spawn(self, fn: Callable[[], Awaitable[object]], name: str) -> None:
        """Run `fn` on the app's event loop, beside the app, supervised: if it raises, that is reported and it starts
        again with backoff; if it returns, it is done; at the stop it is cancelled. From any thread: an engine that
        calls back on a thread of its own passes `fire` to the loop with this."""
        ...

    def report(self, part: str, problem: BaseException | str) -> None:
        """Log a problem that has no caller to raise it to, and pass it to `lifecycle_event`."""
        ...


class PayloadCodec(Protocol):
    """Turns a JSON value into another one for the store, and back (encryption, compression). `about`: which value it
    is. If `encode` uses the handler or the metadata, for example to find a tenant's key, what it returns must name the
    key: by the time of `decode` the job may have another handler and other metadata."""

    def encode(self, value: Any, about: About) -> Any: ...
    def decode(self, stored: Any, about: About) -> Any: ...


class Runner(Protocol):
    """Runs one handler call somewhere: awaits it on the loop, or carries it to a thread or a process.

    `call()` returns a coroutine for an async handler and the result for a plain one. It must end when cancelled. If it
    cannot (a thread), it must wait, shielded, until the work has really ended (docs/protocol.md, S4), and then raise
    the cancellation: `anyio.lowlevel.checkpoint_if_cancelled`.
    """

    async def __call__(self, ctx: JobContext, call: Invocation) -> Any: ...


@runtime_checkable
class Store(Persistence, Opening, Protocol):
    """The persistence layer, hook by hook, for type checkers: `store: Store = MyStore(...)`.

    It may have an async method `backup(target: Path, progress: Callable[[int, int], object])`, which
    `app.store.backup()` calls: a copy of all that is committed, verified, under a name that did not exist. For the
    command line it may have two more, which work while the store is not open: `inspect()`, an async context manager
    that gives an `Inspection`, and `async check(*, quick: bool, progress: Callable[[], object]) -> Report`.

    If it runs SQL it has an attribute `placeholder`, which says how its SQL marks a parameter: `"?"` or `"%s"`. If it
    has `store_statements`, an attribute `dialect` may say what SQLAlchemy calls its database.
    """


class Inspection(Protocol):
    """A store opened for reading only, which changes nothing and joins no other process. The command line reads through
    it. The `store_…` methods answer as the hooks of those names. All raise a `StoreError`."""

    async def store_find(self, query: Query) -> Sequence[JobInfo]: ...
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]: ...
    async def store_runs(self, query: Runs) -> Sequence[Ran]: ...
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]: ...
    async def store_stats(self) -> Stats: ...

    async def processes(self) -> list[Process]:
        """The owners that are registered, oldest first."""
        ...

    async def purgeable(self, purge: Purge) -> int:
        """How many jobs a purge of one status would delete, whatever its `limit`."""
        ...

    async def writable(self) -> None:
        """Raises `StoreBusy` if another process blocks writers: opening the store would wait longer."""
        ...

    async def backup(self, target: Path, progress: Callable[[int, int], object]) -> None:
        """As `backup` of the store."""
        ...


@runtime_checkable
class Scheduler(Scheduling, Protocol):
    """The scheduling layer. A scheduler that reads due rows itself leaves out `schedule_arm`.

    It may have, as attributes or plain methods, text or None for `app.health()` and `app.explain()`: `health`, what is
    wrong with it; `likely_cause`, why due jobs may not be called (read when some are overdue); `notice`, what the
    operator should know although nothing is wrong.
    """
