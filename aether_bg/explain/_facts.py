"""Who could run a job, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import attrs
from attrs import field

from aether_bg.model import JobInfo, JobStatus, Process

OVERDUE: Final = 10.0
"""Seconds after which a late job counts as overdue, no longer as about to be claimed."""


class Waiting(StrEnum):
    """What a SCHEDULED job waits for."""

    TIME = "time"
    RETRY = "retry"
    """The backoff after a failure, or the instant a snoozed handler asked for."""
    PARENTS = "parents"
    """The jobs that it runs after have not all ended (docs/protocol.md, A1)."""
    RESUME = "resume"
    OWNER = "owner"
    """No live process runs jobs on this store."""
    HANDLER = "handler"
    """There are live processes, but none has its handler (docs/protocol.md, C7)."""
    SCHEDULE = "schedule"
    """This process cannot read its schedule: another one must (docs/protocol.md, C8)."""
    LIMIT = "limit"
    """As many jobs of its handler run as may run at once (docs/protocol.md, L1)."""
    SLOT = "slot"
    SCHEDULER = "scheduler"
    CLAIM = "claim"
    """It is due, and no reason to wait is known."""


@attrs.frozen(kw_only=True)
class Around:
    """Who could run the job, as far as known; None means: not known.

    `owners`: the live processes, with a name for each; `gone`: those that no longer count, and why ("has died");
    `handlers`: those of the live processes; `running` and `limit`: how many jobs of its handler run now, and how many
    may; `free`: free slots; `here`: this process itself, if it is an owner; `arms`: the scheduler must be armed for
    each job; `trouble`: what is wrong with it; `readable`: whether this process can read the schedule; `parents`: the
    jobs that it runs after.
    """

    owners: Mapping[UUID, str] | None = None
    gone: Mapping[UUID, str] = field(factory=dict)
    handlers: frozenset[str] | None = None
    running: int = 0
    limit: int | None = None
    free: int | None = None
    here: UUID | None = None
    arms: bool = False
    trouble: str | None = None
    readable: bool = True
    parents: Sequence[JobInfo] = ()

    @classmethod
    def of(cls, known: Sequence[Process]) -> Around:
        """Built from the processes that are registered in a store."""
        live = [process for process in known if process.state == "alive"]
        silent = "has given no sign since {:%Y-%m-%d %H:%M:%SZ}"
        return cls(
            owners={process.id: process.name for process in live},
            gone={
                process.id: "has died" if process.state == "dead" else silent.format(process.beat_at)
                for process in known
                if process.state != "alive"
            },
            handlers=frozenset(name for process in live for name in process.handlers),
        )


def waiting(job: JobInfo, now: datetime, around: Around) -> Waiting | None:
    """What the job waits for; None if it is not SCHEDULED."""
    if job.status is not JobStatus.SCHEDULED:
        return None
    if job.waits_for:
        return Waiting.PARENTS
    if job.held:
        return Waiting.RESUME
    if job.due_at is not None and job.due_at > now:
        return Waiting.RETRY if job.attempt else Waiting.TIME
    if around.owners is not None and not around.owners:
        return Waiting.OWNER
    if around.handlers is not None and job.handler_name not in around.handlers:
        return Waiting.HANDLER
    if not around.readable:
        return Waiting.SCHEDULE
    if around.limit is not None and around.running >= around.limit:
        return Waiting.LIMIT
    if around.free is not None and around.free < 1:
        return Waiting.SLOT
    if around.trouble or (around.arms and job.armed_seq != job.seq) or (around.free and late(job, now) > OVERDUE):
        return Waiting.SCHEDULER
    return Waiting.CLAIM


def late(job: JobInfo, now: datetime) -> float:
    return 0.0 if job.due_at is None else (now - job.due_at).total_seconds()
