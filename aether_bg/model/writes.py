"""What a store writes: rows, changes of rows, the user's functions, pauses of handlers (docs/protocol.md, C1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias
from uuid import UUID

import attrs

from aether_bg.model.claims import Claim
from aether_bg.model.filled import filled
from aether_bg.model.job import JobInfo, JobRun, JobStatus, Misfire
from aether_bg.model.progress import Progress

if TYPE_CHECKING:
    from aether_bg.model.queries import Query


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
    jitter: float
    priority: int
    anchor: datetime
    extra_properties: Mapping[str, Any]
    declared: bool = False
    unique_for: float | None = None


@attrs.frozen(kw_only=True, slots=False)  # made for every outcome; see JobInfo
class Change:
    """The whole new state of one row, guarded by the seq and schedule_rev on which it was decided (docs/protocol.md,
    C1).

    `job_id, seq, schedule_rev` are expected; `next_seq, next_rev` and everything below are written. `definition` None
    leaves the author's part as it is. `runs` are written whole, by (job_id, token, gap). `rejoins`: the row was
    terminal, and waits for its parents again: the store sets `waits_for` as at an Insert (docs/protocol.md, A1).
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
    rejoins: bool = False
    progress: Progress | None = None
    """The attempt's last progress, if it is not written yet; None leaves the column as it is."""

    def guards(self, job: JobInfo | None) -> bool:
        """Whether `job` is still the row on which this change was decided; otherwise a store raises `Stale`."""
        return job is not None and (job.seq, job.schedule_rev) == (self.seq, self.schedule_rev)

    def applied_to(self, job: JobInfo) -> JobInfo:
        """The row after this change."""
        written = {name: getattr(self, name) for name in _STATE}
        if self.definition is not None:
            written |= {name: getattr(self.definition, name) for name in _DEFINITION}
        if self.progress is not None:
            written["progress"] = self.progress
        if self.drops_checkpoint:
            written["checkpoint"] = None
        return attrs.evolve(job, seq=self.next_seq, schedule_rev=self.next_rev, **written)

    @property
    def whole(self) -> Change:
        """The same with all its fields, if it is a `Completion`: needed to derive another change from it."""
        return self

    @property
    def drops_checkpoint(self) -> bool:
        """Whether the occurrence has ended, or has not been attempted: then there is no checkpoint to go on from
        (docs/protocol.md, G2)."""
        return self.status.terminal or self.attempt == 0


class Completion(Change):
    """The change with which most jobs end: the attempt went well, and nothing follows.

    A store may treat it as any other `Change`. Or it recognises the type and lets the database do to all such rows at
    once what is the same for each: COMPLETED, no longer due, handled and modified at `modified_at` by `modified_by`,
    its occurrence the last one and counted, without owner, error, crashes, checkpoint and the marks of `trigger`; and
    the history row of its attempt, which completed at `modified_at`.

    It holds only these fields. `rest` computes the other fields of a `Change` once something asks for them.
    """

    rest: Callable[[], Change] | None = None

    @classmethod
    def of(cls, job: JobInfo, now: datetime, by: str | None, rest: Callable[[], Change]) -> Completion:
        return filled(cls, {
            "job_id": job.id, "seq": job.seq, "schedule_rev": job.schedule_rev, "status": JobStatus.COMPLETED,
            "modified_at": now, "modified_by": by, "rest": rest,
        })  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        if name not in _FIELDS or self.rest is None:
            raise AttributeError(name)
        self.__dict__.update(vars(self.rest()))
        return self.__dict__[name]

    @property
    def whole(self) -> Change:
        return self if self.rest is None else self.rest()


_FIELDS: Final = frozenset(attrs.fields_dict(Change))
_DEFINITION: Final = tuple(attrs.fields_dict(Definition))
_STATE: Final = tuple(
    attrs.fields_dict(Change).keys() & attrs.fields_dict(JobInfo).keys() - {"seq", "schedule_rev", "progress"}
)


class Transaction(Protocol):
    """What a `Call` may use, inside the one write transaction."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. It must not begin, commit, attach or set pragmas (`DeniedSQL`)."""
        ...

    def add(self, job: JobInfo, after: Sequence[UUID] = ()) -> None:
        """Insert a job, which runs after these. Raises `NameHeld`, and `JobNotFound` for a parent that does not
        exist."""
        ...

    def find(self, query: Query) -> list[JobInfo]:
        """Rows as this transaction sees them."""
        ...


@attrs.frozen
class Insert:
    """Insert `job`. Raises `NameHeld` (with the holder) when `holds_name` and the name is taken, `StoreRefused` when a
    row with its id exists.

    A holder that `gives_way_to` the job loses the name to it, in the same transaction: `holds_name` becomes False and
    `schedule_rev` goes up (docs/protocol.md, N10).

    `after`: its parents, each once. It is stored as `placed` says, with a link to each; those that the same transaction
    has inserted before count. Raises `JobNotFound` for a parent that does not exist, after the check that the name is
    free (docs/protocol.md, A1).

    `claim`: only for a store whose heartbeats say `begins_at_once`, and as the only write: of a job that is due and has
    no parents. If the owner is registered and the handler is not paused, the row is stored as `claim.take` returns it,
    with its `begun_run`, and is the result of this write. Otherwise it is inserted as usual (docs/protocol.md, C9).
    """

    job: JobInfo
    after: tuple[UUID, ...] = ()
    claim: Claim | None = None

    @property
    def wakes(self) -> bool:
        """Whether schedulers of other processes must look again once it is committed: something new may be due."""
        return self.job.status is JobStatus.SCHEDULED


@attrs.frozen
class Update:
    """Write `change`. Raises `Stale` (with the row as it is) when seq or schedule_rev differ.

    A change that makes a row terminal settles its children in the same transaction: each is changed as `relieved` says;
    if a child is cancelled, so are its own children (docs/protocol.md, A2).
    """

    change: Change

    @property
    def wakes(self) -> bool:
        return self.change.status is JobStatus.SCHEDULED


class Keep(Enum):
    """Stands for "leave it as it is" where None is a value."""

    KEEP = auto()


KEEP: Final = Keep.KEEP


@attrs.frozen(kw_only=True)
class Note:
    """What an attempt reports while it runs. Raises `Stale` (with the row as it is) unless the job is RUNNING under
    this `seq`, the attempt's token (docs/protocol.md, G1 and G2).

    It moves neither seq nor schedule_rev nor `modified_at`, and wakes no scheduler. `progress` None leaves it as it is;
    `checkpoint` None clears it.
    """

    job_id: UUID
    seq: int
    progress: Progress | None = None
    checkpoint: Any = KEEP

    wakes = False

    def guards(self, job: JobInfo | None) -> bool:
        """Whether `job` is still at the attempt that wrote this."""
        return job is not None and job.status is JobStatus.RUNNING and job.seq == self.seq

    def applied_to(self, job: JobInfo) -> JobInfo:
        """The row after this note."""
        checkpoint = job.checkpoint if self.checkpoint is KEEP else self.checkpoint
        return attrs.evolve(job, progress=self.progress or job.progress, checkpoint=checkpoint)


@attrs.frozen
class Call:
    """Run a plain function of the user's inside the transaction. Result: what it returns. `name`: for messages.

    The function may read before it writes, so a store runs it while it holds its write lock, or on a connection of its
    own that does not block other writes. It is short: a store may end a function that takes seconds. After a
    `StoreBusy` the whole transaction may be carried out again, and the function with it.
    """

    fn: Callable[[Transaction], Any]
    name: str = "a function"

    @property
    def wakes(self) -> bool:
        return True


@attrs.frozen(kw_only=True)
class Hold:
    """Pause a handler (`held`), or let it go on; no row of a job changes (docs/protocol.md, L3). The second time
    changes nothing: the first `at` and `by` stay."""

    handler: str
    held: bool
    at: datetime
    by: str | None = None

    @property
    def wakes(self) -> bool:
        return not self.held


Write: TypeAlias = Insert | Update | Note | Call | Hold


ParamStyle: TypeAlias = Literal["%s", "$1", ":name"]
"""How SQL marks a parameter: for psycopg, asyncpg, SQLAlchemy."""


@attrs.frozen
class Statement:
    """One SQL statement of a store's, for a connection of the user's (docs/protocol.md, W13).

    `params`: all of them text, so that any driver can send them; by name in the style `:name`. `read`: makes a job of
    its first row. `hint`: it only makes a job start sooner, and may be left out; its row means nothing.
    """

    sql: str
    params: tuple[str | None, ...] | Mapping[str, str | None]
    read: Callable[[Sequence[Any]], JobInfo] | None = None
    hint: bool = False


@attrs.frozen
class Insertion:
    """An enqueue as one SQL statement, to run on a connection of your own: `sql` with `params`, as your driver takes
    them. `id`: the id of the job.

    The first column of its row is the id of the job that has the name: yours, or the job that held the name already. No
    row: another transaction has taken the name at this moment; run the statement again.
    """

    sql: str
    params: tuple[str | None, ...] | Mapping[str, str | None]
    id: UUID
