"""The 17 hooks, four layers, five shapes. hookspecs.md has an example for each.

    owned            async; exactly one implementation; one plugin owns the whole layer
    policy           sync, first result; None means "not mine" and nothing else
    wrap, collect    sync, every result that is not None, in order of registration
    start            async, every plugin, in layer order: persistence, scheduling, dispatch, lifecycle
    observe          async, every plugin, in order of registration; after the commit; errors are logged

Owned implementations declare exactly the parameters of the spec: with fewer or defaulted ones pluggy would pass
less than the kernel says, silently. All of this is checked when the app is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final
from uuid import UUID

import pluggy

from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    Decision,
    Event,
    Failure,
    HandlerInfo,
    Heartbeat,
    JobContext,
    JobInfo,
    JobRun,
    Purge,
    Query,
    Stats,
    Write,
)
from aether_bg.protocols import Kernel, PayloadCodec, Runner
from aether_bg.schedule import Schedule

PROJECT: Final = "aether_bg"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

LAYERS: Final[Mapping[str, tuple[str, ...]]] = {
    "persistence": (
        "store_transact",
        "store_claim",
        "store_heartbeat",
        "store_find",
        "store_history",
        "store_stats",
        "store_purge",
    ),
    "scheduling": ("schedule_run",),
    "dispatch": (),
    "lifecycle": (),
}
"""The hooks that the owner of each layer must implement. `schedule_arm` comes with `schedule_run` or not at all."""


# -- scheduling ----------------------------------------------------------------------------------


@hookspec(firstresult=True)
async def schedule_run(kernel: Kernel) -> None:
    """Bring due jobs to the kernel, for the app's life.

    Shape: owned. Called once, after recovery, in a supervised task: an exception is reported and the call repeated
    with backoff; returning early counts as an error. A pull scheduler loops
    `await kernel.sleep_until(await kernel.fire_due())`; a push scheduler serves triggers and passes each to
    `kernel.fire`. Cancelled at the stop.
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def schedule_arm(job: JobInfo) -> bool:
    """Make the engine hold what `job` says, and nothing else about it.

    Shape: owned by the owner of `schedule_run`, or absent (then nothing is armed). Called by the outbox after the
    commit. SCHEDULED and (not paused, or `manual`): call back at `due_at` with (store id, id, seq, occurrence).
    Anything else: forget it. True: durably held. False or an exception: asked again later, with backoff.
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def schedule_parse(text: str, timezone: str | None) -> Schedule | None:
    """Read a schedule in words of your own, or one with your calendar.

    Shape: policy. Called at enqueue, update and load, before the built-in language. None: not mine. Raises
    `InvalidSchedule` for text that is yours but wrong. The same text must always mean the same.
    """


# -- persistence ---------------------------------------------------------------------------------


@hookspec(firstresult=True)
async def store_transact(writes: Sequence[Write]) -> Sequence[object]:
    """The one write door: carry out all of `writes`, in order, or none, durably when it returns.

    Shape: owned. One result per write: None for Add and Save, rows for Execute, the function's result for Call.
    Raises `Stale` when a Save's guard does not hold, `NameHeld` when a name is taken, `Unsupported` for SQL where
    there is none, what the user's SQL or function raised, or a `StoreError` that says it may be tried again.
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def store_claim(claim: Claim) -> Claimed:
    """Take due rows, atomically (PROTOCOL C1): status, seq, attempt, owner and history row, earliest due first.

    Shape: owned. Also answers when the next row of these handlers is due. Raises a `StoreError`.
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def store_heartbeat(beat: Heartbeat) -> Alive:
    """Register, renew or withdraw this owner, and tell who else lives (PROTOCOL P1 to P4).

    Shape: owned. Called before the first claim, then several times a second; must be cheap. Between calls the store
    keeps the beat itself, off the event loop, for `keep_for` seconds.
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def store_find(query: Query) -> Sequence[JobInfo]:
    """Every read of jobs. Shape: owned. Sees at least what was committed before the call."""
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def store_history(job_id: UUID, limit: int) -> Sequence[JobRun]:
    """The newest `limit` history rows of a job, newest first. Shape: owned. Unknown job: empty."""
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def store_stats() -> Stats:
    """Counts by status and handler. Shape: owned."""
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
async def store_purge(purge: Purge) -> int:
    """Delete one bounded bite of terminal jobs; how many went. Shape: owned. Never touches a live row (PROTOCOL N5)."""
    raise AssertionError("a specification is never called")


# -- dispatch ------------------------------------------------------------------------------------


@hookspec
def dispatch_stamp(job: JobInfo) -> Mapping[str, Any] | None:
    """Metadata to merge into a job that is about to be added (trace context, tenant).

    Shape: collect. Later plugins win over earlier ones, the caller's own metadata over all. An exception fails the
    enqueue.
    """


@hookspec
def dispatch_codec() -> PayloadCodec | None:
    """A codec for every payload on its way to the store and back.

    Shape: collect. Called once, when the app is built. Several are applied in order of registration, and undone in
    reverse.
    """


@hookspec(firstresult=True)
def dispatch_runner(handler: HandlerInfo) -> Runner | None:
    """Where a handler's code runs. Shape: policy. Called once per handler, at start. None: not mine."""


@hookspec
def dispatch_wrap(ctx: JobContext) -> AbstractAsyncContextManager[object] | None:
    """Something around each attempt, decoding of the payload included.

    Shape: wrap. The first registered is outermost. What it raises counts as the attempt's failure; `Snooze` and
    `GiveUp` mean here what they mean in a handler. It may not swallow the handler's error.
    """


@hookspec(firstresult=True)
def dispatch_decide(ctx: JobContext, failure: Failure) -> Decision | None:
    """What to do after a failure. Shape: policy. None: the handler's retries and backoff decide.

    Not asked about crashes beyond their cap (PROTOCOL R3). An exception is reported and counts as None.
    """


# -- lifecycle -----------------------------------------------------------------------------------


@hookspec
async def lifecycle_start(kernel: Kernel, stack: AsyncExitStack) -> None:
    """Open what the plugin needs; push its clean-up on `stack`.

    Shape: start. The store's comes first, before the owner is registered (`kernel.store_id` is not known yet).
    An error aborts the start, undoing what was opened. The stack unwinds in reverse at the stop. Also called for
    clients, which never run jobs.
    """


@hookspec
async def lifecycle_event(event: Event) -> None:
    """Something has happened and is committed.

    Shape: observe. One union of events; match on their type. Called in the kernel's time: hand long work to
    `kernel.spawn`. An exception is logged and goes no further.
    """
