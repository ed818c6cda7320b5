"""The 20 hooks: four layers, five shapes. hookspecs.md has an example of each.

Each class is a `Protocol` whose methods are the hook specifications: one source for pluggy, for type checkers and for
the documents. They are never subclassed; a plugin is any object with methods marked `@hookimpl`.

    owned            async; exactly one implementation; one plugin owns the whole layer
    policy           sync, first result; None means "not mine" and nothing else
    wrap, collect    sync, every result that is not None, in order of registration
    start            async, every plugin, in layer order: persistence, scheduling, dispatch, lifecycle
    observe          async, every plugin, in order of registration; after the commit; errors are logged

Owned implementations declare exactly the parameters of the specification: with fewer parameters, or with defaults,
pluggy would silently pass less than the kernel says. All of this is checked when the app is built.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import pluggy

from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    Decision,
    Event,
    Failure,
    FailureGroup,
    Failures,
    HandlerInfo,
    Heartbeat,
    JobContext,
    JobInfo,
    JobRun,
    ParamStyle,
    Purge,
    Query,
    Ran,
    Runs,
    Statement,
    Stats,
    Write,
)
from aether_bg.schedule import Schedule

if TYPE_CHECKING:
    from aether_bg.protocols import Kernel, PayloadCodec, Runner

PROJECT: Final = "aether_bg"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Scheduling(Protocol):
    """One plugin owns this: it brings due jobs to the kernel."""

    @hookspec(firstresult=True)
    async def schedule_run(self, kernel: Kernel) -> None:
        """Bring due jobs to the kernel, as long as the app runs.

        Shape: owned. Called once, after recovery, in a supervised task: an exception is reported and the call repeated
        with backoff; returning early counts as an error. A pull scheduler loops `await kernel.sleep_until(await
        kernel.fire_due())`; a push scheduler serves triggers and passes each to `kernel.fire`. Cancelled at the stop.
        """
        ...


class Arming(Protocol):
    """The owner of `schedule_run` implements this as well when its engine must hold each due instant."""

    @hookspec(firstresult=True)
    async def schedule_arm(self, job: JobInfo) -> bool:
        """Make the engine hold what `job` says, and nothing else about it.

        Shape: owned by the owner of `schedule_run`, or absent (then nothing is armed). Called by the outbox after the
        commit. SCHEDULED and (not paused, or `manual`): call back at `due_at` with (store id, id, seq, occurrence).
        Anything else: forget it. True: durably held. False or an exception: called again later, with backoff.
        """
        ...


class Language(Protocol):
    """Any plugin may add words to the schedule language."""

    @hookspec(firstresult=True)
    def schedule_parse(self, text: str, timezone: str | None) -> Schedule | None:
        """Read a schedule in words of your own, or one with your calendar.

        Shape: policy. Called at enqueue, update and load, before the built-in language. None: not mine. Raises
        `InvalidSchedule` for text that is yours but wrong. The same text must always mean the same.
        """
        ...


class Persistence(Protocol):
    """One plugin owns all of these."""

    @hookspec(firstresult=True)
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        """The only hook that writes jobs: carry out all of `writes`, in order, or none; they are durable when it
        returns.

        Shape: owned. One result per write: the function's result for Call; for Insert and Update None, or the children
        that no longer wait, as `Settled`; None for Note. Raises `Stale` when a guard fails, `NameHeld` when a name is
        taken, `JobNotFound` when a parent does not exist, `Unsupported` for a Call if there is no SQL, what the user's
        function raised, or a `StoreError` that says it may be tried again.
        """
        ...

    @hookspec(firstresult=True)
    async def store_claim(self, claim: Claim) -> Claimed:
        """Take due rows atomically, in the order of `Claim.rank`: status, seq, attempt, owner and history row
        (docs/protocol.md, C1, L1 to L5).

        Shape: owned. Also answers when the next row of these handlers is due. Raises a `StoreError`.
        """
        ...

    @hookspec(firstresult=True)
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        """Register, renew or remove this owner, and answer which others are alive (docs/protocol.md, P1 to P4).

        Shape: owned. Called before the first claim, then often; must be cheap. Between calls the store keeps the beat
        itself, off the event loop, for `keep_for` seconds. An owner that has never joined only asks: the answer has
        `known=False`, and nothing changes.
        """
        ...

    @hookspec(firstresult=True)
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        """Every read of jobs. Shape: owned. Sees at least what was committed before the call."""
        ...

    @hookspec(firstresult=True)
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        """The newest `limit` history rows of a job, newest first. Shape: owned. Unknown job: empty."""
        ...

    @hookspec(firstresult=True)
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        """Attempts of all jobs that have ended, the latest first. Shape: owned."""
        ...

    @hookspec(firstresult=True)
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        """FAILED jobs, grouped by handler and first line of the error. Shape: owned."""
        ...

    @hookspec(firstresult=True)
    async def store_stats(self) -> Stats:
        """Counts by status and handler. Shape: owned."""
        ...

    @hookspec(firstresult=True)
    async def store_purge(self, purge: Purge) -> int:
        """Delete a bounded number of terminal jobs; returns how many. Shape: owned.

        Never touches a live row (docs/protocol.md, N5).
        """
        ...


class Joining(Protocol):
    """The owner of `store_transact` implements this as well when its jobs live in a database that the user's own
    transactions can reach."""

    @hookspec(firstresult=True)
    def store_statements(self, writes: Sequence[Write], style: ParamStyle) -> Sequence[Statement]:
        """The SQL that carries out `writes` on a connection of the user's, in the user's transaction (docs/protocol.md,
        W13).

        Shape: policy, only for the owner of `store_transact`. Called for `enqueue(connection=…)`, `insertion` and
        `ctx.complete`; also while the store is not open. An `Insert` returns the row that has its name now, its own or
        the holder's; an `Update` returns the row after it, or no row if `schedule_rev` differs, and its SQL fails if
        `seq` differs; a statement without `read` follows an `Update` that ends a job, and settles its children.
        Statements that are a `hint` (tell the other processes) come last. Raises `Unsupported` for a `Call`.
        """
        ...


class Dispatch(Protocol):
    """Any plugin implements those it needs; the shipped `InProcess` runs what no other plugin runs."""

    @hookspec
    def dispatch_stamp(self, job: JobInfo) -> Mapping[str, Any] | None:
        """Metadata to merge into a job that is about to be added (trace context, tenant).

        Shape: collect. Later plugins win over earlier ones, the caller's own metadata over all. An exception fails the
        enqueue.
        """
        ...

    @hookspec
    def dispatch_codec(self) -> PayloadCodec | None:
        """A codec for every payload, result and checkpoint on its way to the store and back.

        Shape: collect. Called once, when the app is built. Several are applied in order of registration, and undone in
        reverse.
        """
        ...

    @hookspec(firstresult=True)
    def dispatch_runner(self, handler: HandlerInfo) -> Runner | None:
        """Where a handler's code runs. Shape: policy. Called once per handler, at start. None: not mine."""
        ...

    @hookspec
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[object] | None:
        """Something around each attempt, including the decoding of its payload.

        Shape: wrap. The first registered is outermost. If it raises, the attempt has failed; `Snooze` and `GiveUp` mean
        here what they mean in a handler. It must not swallow the handler's error.
        """
        ...

    @hookspec(firstresult=True)
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
        """What to do after a failure. Shape: policy. None: the handler's retries and backoff decide.

        Not called for crashes beyond their cap (docs/protocol.md, R3). An exception is reported and counts as None.
        """
        ...


class Opening(Protocol):
    """Any plugin that opens something while the app runs."""

    @hookspec
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        """Open what the plugin needs; push its clean-up on `stack`.

        Shape: start. The store's comes first, before the owner is registered (`kernel.store_id` is not known yet). An
        error aborts the start, undoing what was opened. The stack unwinds in reverse at the stop. Also called for
        clients, which never run jobs.
        """
        ...


class Observing(Protocol):
    """Any plugin that wants to know what has happened."""

    @hookspec
    async def lifecycle_event(self, event: Event) -> None:
        """Something has happened and is committed.

        Shape: observe. One union of events; match on their type. Called in the kernel's time: hand long work to
        `kernel.spawn`. An exception is logged and has no other effect.
        """
        ...


_CLASSES: Final[tuple[type[Any], ...]] = (
    Scheduling, Arming, Language, Persistence, Joining, Dispatch, Opening, Observing,
)  # fmt: skip


def _names(*classes: type[Any]) -> tuple[str, ...]:
    return tuple(name for cls in classes for name, value in vars(cls).items() if hasattr(value, f"{PROJECT}_spec"))


SPECS: Final[Mapping[str, Callable[..., Any]]] = {name: getattr(cls, name) for cls in _CLASSES for name in _names(cls)}
"""Every hook's specification, by name."""
LAYERS: Final[Mapping[str, tuple[str, ...]]] = {
    "persistence": _names(Persistence),
    "scheduling": _names(Scheduling),
    "dispatch": (),
    "lifecycle": (),
}
"""The hooks that the owner of each layer must implement. `schedule_arm` comes with `schedule_run` or not at all,
`store_statements` with `store_transact`."""


_ALL: Final = type("Hooks", (), dict(SPECS))


class Manager(pluggy.PluginManager):
    """Looks only at what is a hook: pluggy would look at all that a class has and inherits, for each app."""

    _found: Mapping[str, Any] | None = None

    def add(self, plugin: Any, found: Mapping[str, Any]) -> None:
        """Registers it. `found`: the options of its hooks, by their attributes."""
        self._found = found
        try:
            self.register(plugin)
        finally:
            self._found = None

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        return super().parse_hookspec_opts(module_or_class, name) if name in SPECS else None

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if self._found is not None:
            return self._found.get(name)
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)


def plugin_manager() -> Manager:
    """A manager that knows every hook and no plugin."""
    manager = Manager(PROJECT)
    manager.add_hookspecs(_ALL)
    return manager


@functools.cache
def parameters_of(hook: str) -> tuple[str, ...]:
    """The parameters that a hook passes, in order."""
    return tuple(inspect.signature(SPECS[hook]).parameters)[1:]
