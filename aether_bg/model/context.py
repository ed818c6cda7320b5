"""`JobContext`: an attempt, as its handler sees it and speaks to it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import attrs

from aether_bg.errors import UsageError
from aether_bg.model.after import Parents
from aether_bg.model.job import JobInfo, log_fields
from aether_bg.model.progress import Progress

if TYPE_CHECKING:
    from logging import LoggerAdapter

    _Adapter = LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class _JobLog(_Adapter):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


class Notes(Protocol):
    """Where a context writes to."""

    def progress(self, ctx: JobContext, done: Any, total: Any, note: Any) -> None: ...
    def checkpoint(self, ctx: JobContext, value: Any) -> Awaitable[None]: ...


class _Elsewhere:
    """For a context that was carried to another process."""

    def __reduce__(self) -> str:
        return "ELSEWHERE"

    def progress(self, ctx: JobContext, done: Any, total: Any, note: Any) -> None:
        self.checkpoint(ctx, done)

    def checkpoint(self, ctx: JobContext, value: Any) -> Awaitable[None]:
        raise UsageError(
            repr(ctx), "it was carried to another process, and only the app's can write to the store",
            "Report progress and checkpoints from a handler that runs in the app's process.",
        )  # fmt: skip


ELSEWHERE: Final = _Elsewhere()


class _Done:
    """Something that is done already, for callers who await it."""

    def __await__(self) -> Iterator[Any]:
        return iter(())


DONE: Final[Awaitable[None]] = cast(Awaitable[None], _Done())


class CancelReason(StrEnum):
    """Why an attempt is cancelled."""

    TIMEOUT = "timeout"
    """It took longer than its handler's `timeout`."""
    STOP = "stop"
    """The app is stopping, and the grace is over. The job is put back."""
    DELETED = "deleted"
    """The job was deleted, or moved to a terminal state by hand, in this process."""
    LOST = "lost"
    """Another process deleted the job or has taken it over; nothing of this attempt counts."""


@attrs.define(eq=False, repr=False)
class JobContext:
    """One attempt, as its handler and the wraps around it see it."""

    job: JobInfo
    """The row at the claim."""
    deadline: datetime | None = None
    """When the attempt will be cancelled, by the app's clock; None without a timeout."""
    _complete: Callable[[JobContext, Any], Awaitable[None]] | None = None
    _notes: Notes | None = None
    """The kernel's; None in a context that a test made by hand."""
    _kept: Any = None
    """The last checkpoint of this attempt, in a list with one item."""
    _until: float = math.inf
    """When its timeout is over, by `time.monotonic`."""
    _cancelled: CancelReason | None = None
    _parents: Callable[[JobContext], Parents] | None = None

    @property
    def attempt(self) -> int:
        """1 for the first try at this occurrence."""
        return self.job.attempt

    @property
    def occurrence(self) -> datetime:
        """The due instant this attempt is for."""
        assert self.job.occurrence is not None  # a claimed row always has one
        return self.job.occurrence

    @property
    def token(self) -> int:
        """The fencing token: only its holder can record an outcome (docs/protocol.md, C1)."""
        return self.job.seq

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this occurrence: a unique key for effects elsewhere (docs/protocol.md, W9)."""
        return f"{self.job.id}/{self.occurrence:%Y-%m-%dT%H:%M:%S.%fZ}"

    def complete(self, connection: Any) -> Awaitable[None]:
        """Make *Completed* part of your own transaction, as its last statement: `await ctx.complete(session)`. Your
        commit is then the outcome of the attempt, together with your rows (docs/protocol.md, W13). In a plain handler,
        and in any other thread, write `ctx.complete(session)`: it waits by itself.

        `connection`: what `enqueue(connection=…)` takes, with a PostgreSQL store. Commit, then return: without a commit
        the attempt has failed.

        Raises `TokenLost` if this attempt no longer holds the job (let it pass, so that your work is rolled back),
        `UsageError` outside of its handler or for the second time, `InsideUnitOfWork` in a handler with a unit of work,
        `Unsupported`, and what the driver raises.
        """
        if self._complete is None:
            raise UsageError(repr(self), "it is not the context of a running attempt", "Call it in the handler.")
        return self._complete(self, connection)

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Report how far the attempt has come: `ctx.progress(30, 120, "customers")`. From any thread; never waits.

        Shown as `job.progress`, by `aether-bg show --follow` and to `wait(on_progress=…)`. It is written at most once a
        second for all attempts of the process together, and the last one with the outcome (docs/protocol.md, G1).
        `note`: at most 200 characters. `done` may be larger than `total`. Raises `InvalidOption` unless both are finite
        numbers of 0 or more.
        """
        if self._notes is not None:
            return self._notes.progress(self, done, total, note)
        Progress.checked(done, total, note, datetime.now(UTC))
        return None

    def checkpoint(self, value: Any) -> Awaitable[None]:
        """Keep a JSON value for the next attempt at this occurrence: `await ctx.checkpoint({"row": n})`. It is durable
        when that returns. In a plain handler, and in any other thread, write `ctx.checkpoint(…)`: it waits by itself.

        After a failure, a crash or a stop, the next attempt finds it in `ctx.checkpointed`, until the occurrence ends
        (docs/protocol.md, G2). It is committed at once, separately from the handler's unit of work. Raises
        `InvalidPayload` if it is not JSON or is larger than `max_payload`, `TokenLost` if another process has taken the
        job over or it was deleted, and a `StoreError`.
        """
        if self._notes is not None:
            return self._notes.checkpoint(self, value)
        self.keep(json.loads(json.dumps(value, allow_nan=False)))
        return DONE

    @property
    def checkpointed(self) -> Any:
        """The last checkpoint of this occurrence, a copy; None if there is none."""
        return deepcopy(self.job.checkpoint if self._kept is None else self._kept[0])

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the attempt is being cancelled; None while it is not. From any thread. Nothing can cancel a thread, so a
        long plain handler checks this from time to time and returns."""
        timed_out = CancelReason.TIMEOUT if time.monotonic() >= self._until else None
        return self._cancelled or timed_out

    def keep(self, checkpoint: Any) -> None:
        """For the kernel: this checkpoint is durable."""
        self._kept = [checkpoint]

    def ends_within(self, timeout: float, now: datetime) -> None:
        """For the kernel: the attempt begins, and has this many seconds."""
        self.deadline, self._until = now + timedelta(seconds=timeout), time.monotonic() + timeout

    def cancel(self, reason: CancelReason) -> None:
        """For the kernel: the attempt is cancelled now; the first reason counts."""
        self._cancelled = self.cancel_reason or reason

    def parents(self) -> Parents:
        """The jobs that this one runs after, in the order of `after=`, with what they returned: `await ctx.parents()`.
        Empty for a job without `after=`. In a plain handler, and in any other thread, write `ctx.parents()`: it waits
        by itself.

        Raises a `StoreError`, and `UsageError` outside of a handler or in another process.
        """
        if self._parents is None:
            raise UsageError(repr(self), "it is not the context of a running attempt", "Call it in the handler.")
        return self._parents(self)

    @property
    def log(self) -> LoggerAdapter[logging.Logger]:
        """The logger `aether_bg.job.<handler>`. Its records carry `job_id`, `job_name`, `handler` and `attempt`, in
        addition to the `extra` of a call."""
        return _JobLog(logging.getLogger(f"aether_bg.job.{self.job.handler_name}"), log_fields(self.job))

    def __reduce__(self) -> Any:
        """In another process only its data remain."""
        return JobContext, (self.job, self.deadline, None, self._notes and ELSEWHERE, self._kept)

    def __repr__(self) -> str:
        return f"<JobContext {self.job.job_name!r} attempt {self.attempt} token {self.token}>"
