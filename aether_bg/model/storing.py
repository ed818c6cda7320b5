"""What crosses the persistence hooks: writes, claims, heartbeats, queries and their answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeAlias
from uuid import UUID

import attrs
from attrs import field

from aether_bg.model.job import JobInfo, JobRun, JobStatus, Misfire, RunOutcome
from aether_bg.model.plain import to_plain


@attrs.frozen(kw_only=True)
class Definition:
    """The part of a row that its author chose; `update` and `if_exists="replace"` write it anew."""

    handler_name: str
    payload: Any
    expression_value: str
    timezone: str | None
    start: datetime | None
    repeats: int | None
    until: datetime | None
    misfire: Misfire
    misfire_grace: float
    anchor: datetime
    extra_properties: Mapping[str, Any]


@attrs.frozen(kw_only=True, slots=False)  # made for every outcome; see JobInfo
class Change:
    """The whole new state of one row, guarded by the seq and schedule_rev it was decided on (PROTOCOL C1).

    `job_id, seq, schedule_rev` are expected; `next_seq, next_rev` and everything below are written. `definition`
    None leaves the author's part as it is. `runs` are written whole, by (job_id, token, gap).
    """

    job_id: UUID
    seq: int
    schedule_rev: int
    next_seq: int
    next_rev: int
    status: JobStatus
    due_at: datetime | None
    occurrence: datetime | None
    last_occurrence: datetime | None
    occurrences: int
    attempt: int
    retry_count: int
    crash_count: int
    last_error: str | None
    handled_time: datetime | None
    paused: bool
    manual: bool
    off_schedule: bool
    trigger_pending: bool
    holds_name: bool
    armed_seq: int
    owner: UUID | None
    modified_at: datetime
    modified_by: str | None
    definition: Definition | None = None
    runs: tuple[JobRun, ...] = ()

    def guards(self, job: JobInfo | None) -> bool:
        """Whether `job` is still the row that this change was decided on; otherwise a store raises `Stale`."""
        return job is not None and (job.seq, job.schedule_rev) == (self.seq, self.schedule_rev)

    def applied_to(self, job: JobInfo) -> JobInfo:
        """The row after this change."""
        written = {name: getattr(self, name) for name in _STATE}
        if self.definition is not None:
            written |= {name: getattr(self.definition, name) for name in _DEFINITION}
        return attrs.evolve(job, seq=self.next_seq, schedule_rev=self.next_rev, **written)


_DEFINITION: Final = tuple(attrs.fields_dict(Definition))
_STATE: Final = tuple(attrs.fields_dict(Change).keys() & attrs.fields_dict(JobInfo).keys() - {"seq", "schedule_rev"})


class Transaction(Protocol):
    """What a `Call` may use, inside the one write transaction."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows. May not begin, commit, attach or set pragmas (`DeniedSQL`)."""
        ...

    def add(self, job: JobInfo) -> None:
        """Insert a job. Raises `NameHeld`."""
        ...


@attrs.frozen
class Insert:
    """Insert `job`. Raises `NameHeld` (with the holder) when `holds_name` and the name is taken, `StoreRefused` when
    its id is there already."""

    job: JobInfo


@attrs.frozen
class Update:
    """Write `change`. Raises `Stale` (with the row as it is) when seq or schedule_rev differ."""

    change: Change


@attrs.frozen
class Call:
    """Run a plain function of the user's inside the transaction. Result: what it returns. `name`: for messages."""

    fn: Callable[[Transaction], Any]
    name: str = "a function"


Write: TypeAlias = Insert | Update | Call


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
        for job in sorted((job for job in jobs if self.asks_for(job) and job.claimable(self.now)), key=_by_due):
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


@attrs.frozen(kw_only=True)
class Heartbeat:
    """I am alive (PROTOCOL P). `join`: register a new owner; `leave`: withdraw it; `recovered`: owners whose rows have
    been taken back: they are registered no longer, and what proved them dead (a lock) can be let go.

    `stopping`: this owner has begun to stop. The mark stays until its row is gone: its handlers are advertised no
    longer, and what it still holds when its process ends counts as interrupted by the stop, not as crashed.

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


@attrs.frozen(kw_only=True)
class Query:
    """Which rows; every field given must hold. `metadata`: equal as JSON, types included, at these top-level keys.

    `order`: by id ("created"), or by `due_at`, then id ("due"); rows without `due_at` come first. `after`: only rows
    that come after the one with this id (keyset paging); by id that one need not exist any more, by due nothing follows
    one that is gone.
    `due_before`: rows that could be claimed by then. `unarmed`: waiting rows whose current seq the scheduler does not
    hold. `changed_after`: waiting rows last changed later than this instant (if that is now, the clock has been set
    back). `zoned`: waiting rows with a time zone. `job_name` finds the holder of the name first, then the
    newest that had it.
    """

    ids: tuple[UUID, ...] | None = None
    job_name: str | None = None
    handler_name: str | None = None
    status: tuple[JobStatus, ...] | None = None
    metadata: Mapping[str, Any] | None = None
    owner: UUID | None = None
    due_before: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    unarmed: bool = False
    changed_after: datetime | None = None
    zoned: bool = False
    order: Literal["created", "due"] = "created"
    after: UUID | None = None
    limit: int = 1000

    def matches(self, job: JobInfo) -> bool:
        """Whether every field given holds for `job`; the order and the page are left to `select`."""
        return (
            (self.ids is None or job.id in self.ids)
            and (self.job_name is None or job.job_name == self.job_name)
            and (self.handler_name is None or job.handler_name == self.handler_name)
            and (self.status is None or job.status in self.status)
            and (self.metadata is None or _has(job.metadata, self.metadata))
            and (self.owner is None or (job.status is JobStatus.RUNNING and job.owner == self.owner))
            and (self.due_before is None or job.claimable(self.due_before))
            and (self.created_after is None or job.created_at > self.created_after)
            and (self.created_before is None or job.created_at < self.created_before)
            and (not self.unarmed or (job.waiting and job.armed_seq != job.seq))
            and (self.changed_after is None or _waits_since_after(job, self.changed_after))
            and (not self.zoned or (job.status is JobStatus.SCHEDULED and job.timezone is not None))
        )

    def select(self, jobs: Iterable[JobInfo]) -> list[JobInfo]:
        """The page of `jobs` that this query asks for, in its order. `jobs` has every row, or at least those that match
        and the one of `after`."""
        rows = list(jobs)
        key = _by_due if self.order == "due" else _by_id
        found = sorted((job for job in rows if self.matches(job)), key=key)
        if self.job_name is not None:
            found.sort(key=lambda job: (job.holds_name, job.id), reverse=True)
        if self.after is not None:
            last = next((key(job) for job in rows if job.id == self.after), None)
            if last is None and key is _by_id:
                last = (self.after,)
            found = [job for job in found if last is not None and key(job) > last]
        return found[: self.limit]


def _by_id(job: JobInfo) -> tuple[Any, ...]:
    return (job.id,)


def _by_due(job: JobInfo) -> tuple[Any, ...]:
    return (job.due_at is not None, job.due_at or job.created_at, job.id)


def _waits_since_after(job: JobInfo, at: datetime) -> bool:
    return job.status is JobStatus.SCHEDULED and job.modified_at > at


def _has(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Equal as JSON at these keys: to Python, True equals 1."""
    return all(
        key in metadata and json.dumps(metadata[key], sort_keys=True) == json.dumps(value, sort_keys=True)
        for key, value in wanted.items()
    )


@attrs.frozen(kw_only=True)
class Stats:
    """Counts at one moment. `by_handler`: per handler, per status; `size`: bytes of the store, 0 where unknown."""

    store_id: UUID
    scheduled: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    paused: int = 0
    due: int = 0
    oldest_due: datetime | None = None
    owners: int = 0
    runs: int = 0
    size: int = 0
    by_handler: Mapping[str, Mapping[str, int]] = field(factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON, as `JobInfo.to_dict`."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @property
    def total(self) -> int:
        return self.scheduled + self.running + self.completed + self.failed + self.cancelled


@attrs.frozen(kw_only=True)
class Purge:
    """Delete up to `limit` terminal jobs of `status` (None: any) with their history, oldest `handled_time` first: those
    handled before `before`, and those beyond the newest `keep`, which comes with a `status`. With both None: all; with
    both given, both must hold; with either, a row without `handled_time` stays. With `job_id`: instead, of that job all
    history rows beyond the newest `history`, whatever `limit` says; `skipped` rows, the only word of occurrences that
    never ran, are counted apart (docs/protocol.md, N5)."""

    status: JobStatus | None = None
    before: datetime | None = None
    keep: int | None = None
    limit: int = 500
    job_id: UUID | None = None
    history: int = 1000

    def beyond(self, outcomes: Iterable[RunOutcome | None]) -> list[int]:
        """With `job_id`: which history rows go, by their place; given the outcome of each, newest first."""
        seen, gone = {True: 0, False: 0}, []
        for place, outcome in enumerate(outcomes):
            skipped = outcome is RunOutcome.SKIPPED
            seen[skipped] += 1
            if seen[skipped] > self.history:
                gone.append(place)
        return gone

    def select(self, jobs: Iterable[JobInfo]) -> list[JobInfo]:
        """The jobs of this bite, oldest first; for a purge without `job_id`."""
        ended = [job for job in jobs if job.status.terminal and self.status in (None, job.status)]
        if self.before is not None or self.keep is not None:
            ended = [job for job in ended if job.handled_time is not None]
        ended.sort(key=lambda job: (job.handled_time is not None, job.handled_time or job.created_at))
        if self.keep is not None:
            ended = ended[: max(len(ended) - self.keep, 0)]
        before = self.before
        return [job for job in ended if before is None or (job.handled_time and job.handled_time < before)][
            : self.limit
        ]
