"""Which process runs what: claims of due rows, and the heartbeats of the processes that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import attrs
from attrs import field

from aether_bg.model.job import JobInfo, JobRun, JobStatus

_MINUTE: Final = timedelta(minutes=1)


class Row(Protocol):
    """What a choice needs to know about a due row: a `JobInfo`, or the columns that a store has read."""

    @property
    def id(self) -> Any: ...
    @property
    def handler_name(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def due_at(self) -> datetime | None: ...
    @property
    def suspect(self) -> bool: ...


R = TypeVar("R", bound=Row)


@attrs.frozen(kw_only=True)
class Claim:
    """Take due rows for `owner`: up to `limit` of these handlers, or exactly (`job_id`, `seq`).

    A row can be taken when it is SCHEDULED, due at `now`, and not paused or `manual`; the owner's row must exist
    (docs/protocol.md, P4). Taking it means: RUNNING, seq + 1, attempt + 1, owner, and a history row, in one
    transaction. Rows with two crashes or more are left out unless `suspect`, and then at most one is taken
    (docs/protocol.md, R3). `unreadable`: schedules, as (expression_value, timezone), that this process cannot read;
    rows with them are left to other processes and do not count for `next_due`. An exact claim ignores `unreadable`.
    `limits`: how many jobs of a handler may be RUNNING in the whole store, counted inside the transaction
    (docs/protocol.md, L1). `busy`: handlers of which this process already runs a job; `kept`: how many of its free
    slots are reserved for the other handlers, at most (docs/protocol.md, L4); 0 in an exact claim, which has its slot.
    """

    owner: UUID
    now: datetime
    limit: int
    handlers: tuple[str, ...]
    suspect: bool = True
    unreadable: tuple[tuple[str, str | None], ...] = ()
    job_id: UUID | None = None
    seq: int | None = None
    limits: Mapping[str, int] = field(factory=dict)
    busy: frozenset[str] = frozenset()
    kept: int = 0

    def asks_for(self, job: JobInfo) -> bool:
        """Whether this claim is about `job`, due or not."""
        if self.job_id is not None:
            return job.waiting and (job.id, job.seq) == (self.job_id, self.seq)
        if not job.waiting or job.handler_name not in self.handlers or (job.suspect and not self.suspect):
            return False
        return not self.unreadable or (job.expression_value, job.timezone) not in self.unreadable

    def choose(self, jobs: Iterable[JobInfo]) -> list[JobInfo]:
        """The rows of `jobs` to take. `jobs`: all rows, or at least the due and the running ones."""
        jobs = list(jobs)
        return self.deal((job for job in jobs if self.asks_for(job) and job.claimable(self.now)), running(jobs))

    def deal(self, due: Iterable[R], running: Mapping[str, int]) -> list[R]:
        """Which due rows to take: in the order of `rank`, up to `limit`, at most one suspect, within the limits of
        their handlers (`running`: what runs in the store). A handler that is not busy gets its first row before others
        get another one, and gets the slots that are `kept` (docs/protocol.md, L1, L4, L5, R3)."""
        rows, chosen = sorted(due, key=self.rank), dict[Any, R]()
        busy, runs, alone = set(self.busy), Counter(running), False
        for first in (True, False):
            room = self.limit - (0 if first else self._kept(busy))
            for row in rows:
                name = row.handler_name
                if len(chosen) >= room:
                    break
                if (first and name in busy) or row.id in chosen or (alone and row.suspect) or self._full(name, runs):
                    continue
                chosen[row.id] = row
                busy.add(name)
                runs[name] += 1
                alone = alone or row.suspect
        return sorted(chosen.values(), key=self.rank)

    def rank(self, row: Row) -> tuple[Any, ...]:
        """The position of a due row: by its priority plus the whole minutes for which it has been due, more first; then
        the earliest due (docs/protocol.md, L5)."""
        due = row.due_at or self.now
        return (-row.priority - (self.now - due) // _MINUTE, due, row.id)

    def most(self, handler: str, running: Mapping[str, int]) -> int:
        """How many due rows of this handler it takes if there are no others."""
        free = self.limit - self._kept({*self.busy, handler})
        free = max(free, min(1, self.limit)) if handler not in self.busy else free
        if handler in self.limits:
            free = min(free, self.limits[handler] - running.get(handler, 0))
        return max(0, free)

    def _kept(self, busy: set[str]) -> int:
        return min(len(set(self.handlers) - busy), self.kept)

    def _full(self, handler: str, running: Mapping[str, int]) -> bool:
        return handler in self.limits and running.get(handler, 0) >= self.limits[handler]

    def after(self, taken: Iterable[Row]) -> Claim:
        """What is left of this claim once these rows are taken."""
        names = [row.handler_name for row in taken]
        return attrs.evolve(self, limit=self.limit - len(names), busy=self.busy.union(names))

    def waits_for_others(self, handler: str, running: Mapping[str, int]) -> bool:
        """Whether no row of this handler can start, although slots are free, before another job has ended."""
        return self._full(handler, running) or (self.limit > 0 and self.most(handler, running) < 1)

    def take(self, job: JobInfo) -> JobInfo:
        """The row after this claim has taken it; its `seq` is the token."""
        return attrs.evolve(
            job, status=JobStatus.RUNNING, seq=job.seq + 1, attempt=job.attempt + 1, manual=False, owner=self.owner,
            started_at=self.now, modified_at=self.now, progress=None, handler_paused=False,
        )  # fmt: skip

    def holds(self, row: JobInfo) -> bool:
        """Whether `row` is RUNNING because this claim took it."""
        return row.status is JobStatus.RUNNING and (row.owner, row.started_at) == (self.owner, self.now)

    def answer(self, taken: Sequence[JobInfo], jobs: Iterable[JobInfo]) -> Claimed:
        """The answer once `taken` are written. `jobs`: all rows after that."""
        jobs, rest, alone = list(jobs), self.after(taken), any(job.suspect for job in taken)
        waiting = [job for job in jobs if self.asks_for(job) and not (alone and job.suspect)]
        runs = running(jobs)
        free = [job for job in waiting if not rest.waits_for_others(job.handler_name, runs)]
        next_due = min((job.due_at for job in free if job.due_at), default=None)
        return Claimed(jobs=tuple(taken), next_due=next_due, short=len(free) < len(waiting))


def running(jobs: Iterable[JobInfo]) -> Counter[str]:
    """How many rows of each handler are RUNNING."""
    return Counter(job.handler_name for job in jobs if job.status is JobStatus.RUNNING)


def begun_run(taken: JobInfo) -> JobRun:
    """The history row that a claim writes with a row that it takes."""
    return JobRun(
        job_id=taken.id, token=taken.seq, attempt=taken.attempt, occurrence=taken.occurrence,
        started_at=taken.started_at, owner=taken.owner,
    )  # fmt: skip


@attrs.frozen(kw_only=True)
class Claimed:
    """The rows taken, as they are now (`seq` is the token), and when the next one of these handlers is due.

    `next_due` leaves out the rows of handlers that cannot start another one before a job has ended, although slots are
    free (docs/protocol.md, L2); `short`: there are such rows.
    """

    jobs: tuple[JobInfo, ...] = ()
    next_due: datetime | None = None
    short: bool = False


def _no() -> bool:
    return False


@attrs.frozen(kw_only=True)
class Heartbeat:
    """This owner is alive (docs/protocol.md, P1 to P7). `join`: register it; `leave`: remove it; `recovered`: dead
    owners whose jobs have been taken back: remove their rows, and release what proved them dead (a lock).

    `stopping`: this owner has begun to stop. The mark stays until its row is gone: its handlers are no longer
    advertised, and what it still holds when its process ends counts as interrupted by the stop, not as crashed.

    `stop_asked` says, in any thread, whether the process has been asked to stop. The store calls it often, off the
    event loop, and sets the same mark once it is true: a handler may block the loop until the process ends.

    Until `keep_for` seconds from now the store renews the beat by itself every `interval` seconds, off the event loop.
    `now` decides which handlers have due rows. `problems`: declarations that this owner could not apply, in words;
    `limits`: of handlers that have one (docs/protocol.md, L1). A store that people can look at keeps both with the
    owner; others may ignore them.
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
    declares: tuple[str, ...] = ()
    """Names of the jobs that this owner's code declares; they never change while it lives."""
    limits: Mapping[str, int] = field(factory=dict)

    @property
    def gone(self) -> tuple[UUID, ...]:
        """The owners whose rows are removed."""
        return (*self.recovered, self.owner) if self.leave else self.recovered


@attrs.frozen
class Owner:
    """What a store keeps about a registered owner: its counter, its handlers, whether it is stopping, and the names of
    the jobs that it declares."""

    beat: int
    handlers: tuple[str, ...]
    stopping: bool = False
    declares: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Alive:
    """The answer. `known`: this owner's row exists; `beats`: each owner's counter, which the observer compares with its
    own monotonic clock; `dead`: proven dead; `stopping`: those of `beats` that are stopping; `running`: (job id, seq)
    of what this owner holds; `advertised`, `declared`: handlers of the owners that are not stopping, and names of the
    jobs that they declare; `due`: handlers that have due rows; `size`: bytes of the store, asked only of a beat with
    `join`, 0 if unknown; `now`: the time by the clock of a store's server (aware), by which all its processes then
    decide what is due; None where the processes share a clock; `sure_to_wake`: every commit of another process, a join
    included, leads to `kernel.wake`, and none can be lost (docs/protocol.md, P12); `begins_at_once`: an `Insert` may
    carry a claim (docs/protocol.md, C9).
    """

    store_id: UUID
    known: bool = True
    beats: Mapping[UUID, int] = field(factory=dict)
    dead: tuple[UUID, ...] = ()
    stopping: frozenset[UUID] = frozenset()
    running: tuple[tuple[UUID, int], ...] = ()
    advertised: frozenset[str] = frozenset()
    declared: frozenset[str] = frozenset()
    due: frozenset[str] = frozenset()
    size: int = 0
    now: datetime | None = None
    sure_to_wake: bool = False
    begins_at_once: bool = False

    @classmethod
    def of(
        cls, beat: Heartbeat, store_id: UUID, owners: Mapping[UUID, Owner], jobs: Iterable[JobInfo],
        dead: Iterable[UUID] = (),
    ) -> Alive:  # fmt: skip
        """The answer to `beat`. `owners`: those registered; `jobs`: all rows, or at least the RUNNING and due ones;
        `dead`: registered owners that are proven dead."""
        jobs = list(jobs)
        running = [job for job in jobs if job.status is JobStatus.RUNNING]
        orphaned = {job.owner for job in running if job.owner is not None} - owners.keys() - {beat.owner}
        return cls(
            store_id=store_id,
            known=beat.owner in owners,
            beats={id_: owner.beat for id_, owner in owners.items()},
            dead=(*orphaned, *dead),
            stopping=frozenset(id_ for id_, owner in owners.items() if owner.stopping),
            running=tuple((job.id, job.seq) for job in running if job.owner == beat.owner),
            advertised=frozenset(name for owner in owners.values() if not owner.stopping for name in owner.handlers),
            declared=frozenset(name for owner in owners.values() if not owner.stopping for name in owner.declares),
            due=frozenset(job.handler_name for job in jobs if job.claimable(beat.now)),
        )


class Fired(StrEnum):
    """How `fire` answers a trigger (docs/protocol.md, C2)."""

    CLAIMED = "claimed"
    CONSUMED = "consumed"
    """Out of date: acknowledge it and do nothing."""
    RETRY = "retry"
    """Not now: deliver it again later."""
