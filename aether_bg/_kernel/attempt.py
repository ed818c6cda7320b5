"""A claimed job, while its handler runs and until its outcome is committed."""

from __future__ import annotations

from typing import Any, Final

import anyio

from aether_bg._handlers.dependencies import Closing
from aether_bg._handlers.handlers import Handler
from aether_bg._handlers.work import UnitOfWork
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.results import COMPLETED, Completed, Result
from aether_bg.errors import InvalidPayload
from aether_bg.model import CancelReason, Change, JobContext, JobInfo, Progress

NOT_NOW: Final[Any] = None
"""Stands for what an attempt has only at times."""


class Attempt:
    """What few attempts ever have is an attribute of the class until it is set, and costs the others nothing."""

    revoked: bool = False
    """The row was changed elsewhere: the outcome of this attempt is not recorded."""
    releasing: bool = False
    """The stop interrupts it."""
    unreadable: InvalidPayload | None = None
    """Its payload cannot be decoded."""
    after: Attempt | None = None
    """An earlier attempt of the same job that has not ended here: this one begins after it (docs/protocol.md, P7)."""
    ended: anyio.Event | None = None
    """Set when it has ended, if another attempt waits for that."""
    error: BaseException | None = None
    """Why it failed, for the log."""
    overdue_since: float | None = None
    """When it was first seen running after its cancellation; infinite once that has been reported."""
    work: UnitOfWork | None = None
    written: Change | None = None
    """Its outcome, if the handler writes it in a transaction of its own (docs/protocol.md, W13)."""
    withheld: bool = False
    """That outcome has not released its children: they wait for its result, which follows when the handler returns."""
    completed: Completed = COMPLETED
    """Its result if it completes."""
    closing: Closing | None = None
    """The clean-up of its dependencies."""

    # until its outcome is recorded

    progress: Progress | None = None
    """The last one, which it takes along."""
    wait: float = 0.0
    unsure: Change | None = None
    """Handed in, and whether the store has it is unknown."""

    def __init__(self, job: JobInfo, context: JobContext) -> None:
        self.job, self.context = job, context
        self.scope: anyio.CancelScope = NOT_NOW
        """From when its task begins to its end."""
        self.plan: Plan | None = None
        """When the job is due, once its schedule has been read."""
        self.handler: Handler | None = None
        self.begun = False
        self.threaded = False
        """Its code runs in a thread, which nothing can cancel."""
        self.result: Result | Change = COMPLETED
        self.change: Change = NOT_NOW
        """What is handed in for it."""

    def revoke(self, reason: CancelReason = CancelReason.LOST) -> None:
        self.revoked = True
        self.context.cancel(reason)
        self.scope.cancel()

    @property
    def plain(self) -> bool:
        """Nothing about it has to be looked at after its scope."""
        looked_at = self.written or self.closing or self.context.deadline or self.scope.cancel_called
        return not looked_at

    @property
    def in_thread(self) -> bool:
        """A thread of this job runs: its own, or one of the attempt before it."""
        return (self.begun and self.threaded) or (self.after is not None and self.after.in_thread)

    @property
    def late(self) -> bool:
        """Its thread returned too late: after its timeout, or after the job was deleted."""
        return self.threaded and self.scope.cancel_called and not self.releasing

    def __str__(self) -> str:
        return f"{self.job.handler_name} ({self.job.job_name})"
