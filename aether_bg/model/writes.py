"""What a store writes: new rows, changes of rows, functions of the user's (docs/protocol.md, C1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

import attrs

from aether_bg.model.job import JobInfo, JobRun, JobStatus, Misfire


@attrs.frozen(kw_only=True)
class Definition:
    """The part of a row that its author chose; `update` and `if_exists="replace"` replace it."""

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
    """The whole new state of one row, guarded by the seq and schedule_rev it was decided on (docs/protocol.md, C1).

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

    @property
    def wakes(self) -> bool:
        """Whether schedulers of other processes must look again once it is committed: something new may be due."""
        return self.job.status is JobStatus.SCHEDULED


@attrs.frozen
class Update:
    """Write `change`. Raises `Stale` (with the row as it is) when seq or schedule_rev differ."""

    change: Change

    @property
    def wakes(self) -> bool:
        return self.change.status is JobStatus.SCHEDULED


@attrs.frozen
class Call:
    """Run a plain function of the user's inside the transaction. Result: what it returns. `name`: for messages.

    The function may read before it writes, so a store runs it while it holds its write lock, or on a connection of its
    own that other writes need not wait for. It is short: a store may end one that takes seconds. After a `StoreBusy`
    the whole transaction may be carried out again, and the function with it.
    """

    fn: Callable[[Transaction], Any]
    name: str = "a function"

    @property
    def wakes(self) -> bool:
        return True


Write: TypeAlias = Insert | Update | Call
