"""Who runs what: claims of due rows, and the heartbeats of the processes that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import attrs
from attrs import field

from aether_bg.model.job import JobInfo, JobRun, JobStatus, by_due


@attrs.frozen(kw_only=True)
class Claim:
    """Take due rows for `owner`: up to `limit` of these handlers, or exactly (`job_id`, `seq`).

    A row can be taken when it is SCHEDULED, due at `now`, and not paused or `manual`; the owner's row must exist
    (PROTOCOL P4). Taking means: RUNNING, seq + 1, attempt + 1, owner, and a history row, all in one transaction.
    Rows with two crashes or more are left out unless `suspect`, and then at most one is taken (PROTOCOL R3).
    `unreadable`: schedules, as (expression_value, timezone), that this process cannot read; rows with them are left to
    other processes and do not count for `next_due`. An exact claim does not look at `unreadable`.
    """

    owner: UUID
    now: datetime
    limit: int
    handlers: tuple[str, ...]
    suspect: bool = True
    unreadable: tuple[tuple[str, str | None], ...] = ()
    job_id: UUID | None = None
    seq: int | None = None

    def asks_for(self, job: JobInfo) -> bool:
        """Whether `job` is one of the rows that this claim is about, due or not."""
        if self.job_id is not None:
            return job.waiting and (job.id, job.seq) == (self.job_id, self.seq)
        if not job.waiting or job.handler_name not in self.handlers or (job.suspect and not self.suspect):
            return False
        return not self.unreadable or (job.expression_value, job.timezone) not in self.unreadable

    def choose(self, jobs: Iterable[JobInfo]) -> list[JobInfo]:
        """Those of `jobs` to take: due, earliest first, up to `limit`, one suspect at most."""
        chosen: list[JobInfo] = []
        for job in sorted((job for job in jobs if self.asks_for(job) and job.claimable(self.now)), key=by_due):
            if len(chosen) == self.limit:
                break
            if not job.suspect or not any(taken.suspect for taken in chosen) or self.job_id is not None:
                chosen.append(job)
        return chosen

    def take(self, job: JobInfo) -> JobInfo:
        """The row once this claim has taken it; its `seq` is the token."""
        return attrs.evolve(
            job, status=JobStatus.RUNNING, seq=job.seq + 1, attempt=job.attempt + 1, manual=False, owner=self.owner,
            started_at=self.now, modified_at=self.now,
        )  # fmt: skip


def begun_run(taken: JobInfo) -> JobRun:
    """The history row that a claim writes with the row it has taken."""
    return JobRun(
        job_id=taken.id, token=taken.seq, attempt=taken.attempt, occurrence=taken.occurrence,
        started_at=taken.started_at, owner=taken.owner,
    )  # fmt: skip


@attrs.frozen(kw_only=True)
class Claimed:
    """The rows taken, as they are now (`seq` is the token), and when the next one of these handlers is due."""

    jobs: tuple[JobInfo, ...] = ()
    next_due: datetime | None = None


def _no() -> bool:
    return False


@attrs.frozen(kw_only=True)
class Heartbeat:
    """I am alive (PROTOCOL P). `join`: register a new owner; `leave`: withdraw it; `recovered`: owners whose rows have
    been taken back: they are registered no longer, and what proved them dead (a lock) can be let go.

    `stopping`: this owner has begun to stop. The mark stays until its row is gone: its handlers are advertised no
    longer, and what it still holds when its process ends counts as interrupted by the stop, not as crashed.

    `stop_asked` says, in any thread, whether the process has been asked to stop. The store calls it often, off the
    event loop, and sets the same mark once it is true: a handler may block the loop until the process ends.

    Until `keep_for` seconds from now the store renews the beat by itself every `interval` seconds, off the
    event loop. `now` serves to tell which handlers have due rows. `problems`: declarations that this owner could not
    apply, in words; a store that people can look at keeps them with the owner, another may leave them out.
    """

    owner: UUID
    handlers: tuple[str, ...]
    now: datetime
    interval: float
    keep_for: float
    join: bool = False
    leave: bool = False
    stopping: bool = False
    stop_asked: Callable[[], bool] = _no
    recovered: tuple[UUID, ...] = ()
    problems: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Alive:
    """The answer. `known`: this owner's row exists; `beats`: each owner's counter, to be compared with the
    observer's own clock; `dead`: proven dead; `stopping`: those of `beats` that have said so; `running`: (job id, seq)
    of what this owner holds; `advertised`: handlers of the owners that are not stopping; `due`: handlers that have due
    rows; `size`: bytes of the store, 0 where unknown."""

    store_id: UUID
    known: bool = True
    beats: Mapping[UUID, int] = field(factory=dict)
    dead: tuple[UUID, ...] = ()
    stopping: frozenset[UUID] = frozenset()
    running: tuple[tuple[UUID, int], ...] = ()
    advertised: frozenset[str] = frozenset()
    due: frozenset[str] = frozenset()
    size: int = 0


class Fired(StrEnum):
    """What the door answers a trigger (PROTOCOL C2)."""

    CLAIMED = "claimed"
    CONSUMED = "consumed"
    """Old news: acknowledge it and do nothing."""
    RETRY = "retry"
    """Not now: deliver it again later."""
