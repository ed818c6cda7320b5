"""Jobs that run after others: what the end of a parent does to a child (docs/protocol.md, A)."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.errors import shown
from aether_bg.model.job import JobInfo, JobStatus

_PARENT: Final = "parent "
_LONGEST: Final = 500
"""The maximum length of a reason, in characters."""


@attrs.frozen
class Parent:
    """A job that another one runs after."""

    id: UUID
    job_name: str
    status: JobStatus
    error: str | None = None
    """Its last error; if it is COMPLETED, why its result was not kept."""
    result: Any = None
    """What its handler returned, if it keeps results: of the annotated type if that handler is registered here, else a
    JSON value. None if there is no result."""

    @classmethod
    def of(cls, job: JobInfo) -> Parent:
        return cls(job.id, job.job_name, job.status, job.last_error)

    @property
    def cause(self) -> str | None:
        """Why its children are CANCELLED: None if it is COMPLETED or has not ended."""
        if not self.status.terminal or self.status is JobStatus.COMPLETED:
            return None
        if self.status is JobStatus.CANCELLED and self.error is not None and self.error.startswith(_PARENT):
            return self.error  # the same for all that follow
        verb = "failed" if self.status is JobStatus.FAILED else "was cancelled"
        reason = (self.error or "").partition("\n")[0]
        return f"{_PARENT}{shown(self.job_name)} {verb}{': ' if reason else ''}{reason}"[:_LONGEST]


class Parents(list[Parent]):
    """What `ctx.parents()` returns: a list, to be awaited where an event loop runs."""

    def __await__(self) -> Generator[Any, None, list[Parent]]:
        yield from ()
        return self


@attrs.frozen
class Settled:
    """A child that no longer waits: released (`due_at`), or CANCELLED for `error`."""

    job_id: UUID
    seq: int
    due_at: datetime | None = None
    error: str | None = None

    @classmethod
    def of(cls, job: JobInfo) -> Settled | None:
        """None: it still waits."""
        if job.status is JobStatus.CANCELLED:
            return cls(job.id, job.seq, error=job.last_error)
        return None if job.waits_for else cls(job.id, job.seq, job.due_at)


def placed(child: JobInfo, parents: Iterable[Parent]) -> JobInfo:
    """`child` as it begins to wait for `parents`; some of them may have ended (docs/protocol.md, A1)."""
    parents = list(parents)
    cause = None if child.after_any else next((parent.cause for parent in parents if parent.cause), None)
    if cause is not None:
        return _cancelled(child, cause, child.modified_at)
    return attrs.evolve(child, waits_for=sum(not parent.status.terminal for parent in parents))


def relieved(child: JobInfo, ended: Iterable[Parent], now: datetime) -> JobInfo:
    """`child` once these parents have ended (docs/protocol.md, A2). A child that does not wait stays unchanged."""
    ended = list(ended)
    if child.status is not JobStatus.SCHEDULED or not child.waits_for:
        return child
    cause = None if child.after_any else next((parent.cause for parent in ended if parent.cause), None)
    if cause is not None:
        return attrs.evolve(_cancelled(child, cause, now), seq=child.seq + 1)
    left = max(child.waits_for - len(ended), 0)
    due = child.due_at and max(child.due_at, now)  # the latest of the ends, in whatever order they are committed
    if left:
        return attrs.evolve(child, waits_for=left, due_at=due)
    return attrs.evolve(child, waits_for=0, seq=child.seq + 1, due_at=due, modified_at=now)


def _cancelled(child: JobInfo, cause: str, now: datetime) -> JobInfo:
    return attrs.evolve(
        child, status=JobStatus.CANCELLED, waits_for=0, due_at=None, holds_name=False, manual=False,
        off_schedule=False, handled_time=now, last_error=cause, modified_at=now,
    )  # fmt: skip
