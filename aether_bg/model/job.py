"""What a job is: its states, its row, its history."""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

import attrs
from attrs import field

from aether_bg.model.plain import to_plain
from aether_bg.model.progress import Progress

T = TypeVar("T")
SUSPECT: Final = 2
"""From this number of crashes on, a job runs alone (docs/protocol.md, R3)."""
Misfire: TypeAlias = Literal["once", "skip", "all"]


class JobStatus(IntEnum):
    """The five states. COMPLETED, FAILED and CANCELLED are terminal; only `retry` leads back."""

    SCHEDULED = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def terminal(self) -> bool:
        return self > JobStatus.RUNNING

    def __str__(self) -> str:
        return self.name


class RunOutcome(StrEnum):
    """How an attempt ended, or why an occurrence had none."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    SNOOZED = "snoozed"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"
    COALESCED = "coalesced"
    DUPLICATE = "duplicate"
    OVERLAPPED = "overlapped"


@attrs.frozen(kw_only=True, eq=False, slots=False)  # without slots a frozen class is made twice as fast
class JobInfo:
    """One row of the store, as it was read. All datetimes are aware and in UTC.

    The first ten fields and the audit fields are the model's; the rest say when the job is due, how often it
    has been tried, and what schedulers need. Two readings are equal when id, seq and schedule_rev are.
    """

    id: UUID
    handler_name: str
    job_name: str
    expression_value: str
    """The schedule as given, stripped; `@at …` for a datetime, `@after …` for a timedelta."""
    payload: Any = None
    """A JSON value."""
    status: JobStatus = JobStatus.SCHEDULED
    handled_time: datetime | None = None
    """When the last outcome was recorded."""
    retry_count: int = 0
    """Retries of the current occurrence so far; of the last one if terminal."""
    last_error: str | None = None
    extra_properties: Mapping[str, Any] = field(factory=dict)

    created_at: datetime
    created_by: str | None = None
    modified_at: datetime
    modified_by: str | None = None

    due_at: datetime | None = None
    """When it is called next: the occurrence itself, or later after a failure. None if terminal."""
    occurrence: datetime | None = None
    """The due instant that is waiting or running now."""
    timezone: str | None = None
    start: datetime | None = None
    repeats: int | None = None
    until: datetime | None = None
    misfire: Misfire = "once"
    misfire_grace: float = 10.0
    jitter: float = 0.0
    """The most seconds by which `due_at` is later than the occurrence; the name decides how many."""
    priority: int = 0
    """-100 to 100: among due jobs, higher first (docs/protocol.md, L5)."""
    paused: bool = False
    handler_paused: bool = False
    """Its handler is paused (docs/protocol.md, L3). Not part of the row: a store sets it on the jobs that it finds."""

    seq: int = 0
    """The fencing number (docs/protocol.md, C1): while RUNNING, the token of the attempt."""
    schedule_rev: int = 0
    """Increased by every change of the row that does not move seq."""
    armed_seq: int = -1
    """The seq that the scheduler durably holds (docs/protocol.md, D4)."""
    manual: bool = False
    """Requested by `trigger`: can be claimed even if paused; the claim clears it (docs/protocol.md, U3)."""
    off_schedule: bool = False
    """The waiting or running occurrence is not one of the schedule's: it moves neither `last_occurrence` nor
    `occurrences` (docs/protocol.md, U3)."""
    trigger_pending: bool = False
    """Triggered while RUNNING: one more run follows."""
    crash_count: int = 0
    anchor: datetime
    """Creation or the last change of the schedule: `@every` counts from here."""
    last_occurrence: datetime | None = None
    occurrences: int = 0
    """How many occurrences have ended; `repeats` is compared with it."""
    attempt: int = 0
    """Attempts begun at the current occurrence."""
    holds_name: bool = True
    """False once cancelled or replaced: the name is free (docs/protocol.md, N1)."""
    owner: UUID | None = None
    """The process that runs it now."""
    started_at: datetime | None = None
    """When the last attempt was claimed."""
    progress: Progress | None = None
    """Progress of the last attempt, as its handler reports it; a claim clears it (docs/protocol.md, G1)."""
    checkpoint: Any | None = None
    """A JSON value that the handler left for the next attempt at this occurrence (docs/protocol.md, G2)."""
    declared: bool = False
    """Made or last redefined by a declaration (docs/protocol.md, N9)."""
    unique_for: float | None = None
    """Seconds after its end for which it holds its name; None: until it is purged (docs/protocol.md, N10)."""
    parents: int = 0
    """How many jobs it runs after."""
    waits_for: int = 0
    """How many of them have not ended. No claim takes the job until this is 0. Only the store writes it
    (docs/protocol.md, A1)."""
    after_any: bool = False
    """It runs when they have ended, whatever their status; otherwise only if all are COMPLETED."""

    @property
    def schedule(self) -> str:
        """Alias of `expression_value`."""
        return self.expression_value

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Alias of `extra_properties`."""
        return self.extra_properties

    @property
    def recurs(self) -> bool:
        """Whether its schedule is more than one instant (`@once`, `@at …`, `@after …`). Words of a plugin count as
        recurring."""
        text = self.expression_value
        return text.lower() != "@once" and not text.startswith(("@at ", "@after "))

    @property
    def held(self) -> bool:
        """Paused, or its handler is paused, and not triggered: it cannot be claimed, even if due."""
        return (self.paused or self.handler_paused) and not self.manual

    @property
    def waiting(self) -> bool:
        """SCHEDULED, not held, and its parents have ended: only its due instant keeps it from being claimed."""
        return self.status is JobStatus.SCHEDULED and not self.held and not self.waits_for

    @property
    def suspect(self) -> bool:
        """It may have crashed its process more than once: only one such job runs at a time (docs/protocol.md, R3)."""
        return self.crash_count >= SUSPECT

    def claimable(self, now: datetime) -> bool:
        """Whether a claim at `now` can take it (docs/protocol.md, C1)."""
        return self.waiting and self.due_at is not None and self.due_at <= now

    def under(self, held: Container[str]) -> JobInfo:
        """The job while these handlers are paused; for stores, which keep that apart from the rows."""
        paused = self.handler_name in held
        return self if paused is self.handler_paused else attrs.evolve(self, handler_paused=paused)

    def gives_way_to(self, other: JobInfo) -> bool:
        """Whether it has ended, and its name is free for `other` by now (docs/protocol.md, N10)."""
        window = self.unique_for if other.unique_for is None else other.unique_for
        if window is None or not self.status.terminal:
            return False
        return self.handled_time is None or (other.created_at - self.handled_time).total_seconds() >= window

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON: ids and instants as text (ISO 8601, UTC), states by their names in lower case."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JobInfo):
            return NotImplemented
        return (self.id, self.seq, self.schedule_rev) == (other.id, other.seq, other.schedule_rev)

    def __hash__(self) -> int:
        return hash((self.id, self.seq, self.schedule_rev))

    def __repr__(self) -> str:
        due = f" due={self.due_at:%Y-%m-%dT%H:%M:%SZ}" if self.due_at else ""
        return f"<JobInfo {self.job_name!r} {self.handler_name} {self.status.name}{due} seq={self.seq} id={self.id}>"


class Unreadable(JobInfo):
    """Stands for a row that its store cannot read: with the columns that can be read, the nearest valid value for the
    others, and in `last_error` what is wrong. It never runs; `delete` works."""

    stored: Mapping[str, Any] = MappingProxyType({})
    """The columns as they are stored."""

    @property
    def waiting(self) -> bool:
        """No claim may take it."""
        return False

    def under(self, held: Container[str]) -> JobInfo:
        return self


@attrs.frozen(kw_only=True, slots=False)
class JobRun:
    """One row of history: an attempt, or a stretch of occurrences that had none.

    `token` is the seq of the attempt's claim; `gap` is 0 for the attempt and counts the gaps closed with it.
    For a gap, `occurrence` is the first one missed, `last_occurrence` the newest, `count` how many.
    """

    job_id: UUID
    token: int
    gap: int = 0
    attempt: int = 0
    occurrence: datetime | None = None
    outcome: RunOutcome | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    owner: UUID | None = None
    last_occurrence: datetime | None = None
    count: int = 1
    result: Any | None = None
    """What the handler returned, a JSON value, if `has_result`."""
    has_result: bool = False
    """Whether the handler keeps results and the result of this attempt was kept."""

    def repeats(self, other: JobRun) -> bool:
        """Whether both completed the same occurrence, under two tokens: a store refuses the second (docs/protocol.md,
        C6)."""
        return (
            self.outcome is other.outcome is RunOutcome.COMPLETED
            and (self.job_id, self.occurrence) == (other.job_id, other.occurrence)
            and self.token != other.token
        )

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON, as `JobInfo.to_dict`."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def error_line(error: str | None) -> str:
    """How errors are grouped: the text before the first line break or NUL, at most 200 characters."""
    return (error or "").partition("\n")[0].partition("\0")[0][:200]


def by_due(job: JobInfo) -> tuple[Any, ...]:
    """The order of claims: earliest due first, then by id; rows without `due_at` come first."""
    return (job.due_at is not None, job.due_at or job.id, job.id)


def log_fields(job: JobInfo) -> dict[str, Any]:
    """What every log record about a job carries, as its `extra`."""
    return {"job_id": str(job.id), "job_name": job.job_name, "handler": job.handler_name, "attempt": job.attempt}


@attrs.frozen
class JobType(Generic[T]):
    """A kind of work shared by producer and worker: the handler's name and its payload's type.

    A producer that enqueues by `JobType` needs neither the handler nor its imports.
    """

    name: str
    payload_type: type[T]
