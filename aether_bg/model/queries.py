"""Questions to a store: which rows, how many, and which old rows to delete."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal
from uuid import UUID

import attrs
from attrs import field

from aether_bg.model.job import JobInfo, JobStatus, RunOutcome, by_due, error_line
from aether_bg.model.plain import to_plain

_NONE: Final[Mapping[UUID, Sequence[UUID]]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class Query:
    """Which rows; every field given must match. `metadata`: equal as JSON, types included, at these top-level keys.

    `order`: by id ("created"), by id descending ("newest"), by `due_at`, then id ("due"; rows without `due_at` come
    first), or by `handled_time` descending, then id ("ended"; only terminal rows that have one). `after`: only rows
    that come after the one with this id (keyset paging). By id, that row need not exist any more; in another order,
    nothing follows a row that is gone. `due_before`: rows that could be claimed by then. `unarmed`: waiting rows whose
    current seq the scheduler does not hold. `changed_after`: waiting rows last changed later than this instant (if that
    is now, the clock has been set back). `zoned`: waiting rows with a time zone. `declared`: declared rows that have
    not ended. `job_name` finds the holder of the name first, then the newest that had it. `holders`: rows that hold one
    of these names. `name_prefix`: the exact beginning of the name. `error_line`: rows for whose `last_error` the
    function `error_line` gives this. `paused`: paused rows that have not ended. `recurring`: rows whose schedule is not
    one instant. `parents_of`, `children_of`: rows linked by `Insert.after` with the job of this id; parents come in the
    order in which they were given, whatever `order` says.
    """

    ids: tuple[UUID, ...] | None = None
    job_name: str | None = None
    holders: tuple[str, ...] | None = None
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
    name_prefix: str | None = None
    error_line: str | None = None
    paused: bool = False
    recurring: bool = False
    declared: bool = False
    parents_of: UUID | None = None
    children_of: UUID | None = None
    order: Literal["created", "newest", "due", "ended"] = "created"
    after: UUID | None = None
    limit: int = 1000

    def matches(self, job: JobInfo) -> bool:
        """Whether every field given matches `job`; `select` handles links, order and page."""
        return (
            (self.ids is None or job.id in self.ids)
            and (self.job_name is None or job.job_name == self.job_name)
            and (self.holders is None or (job.holds_name and job.job_name in self.holders))
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
            and (self.name_prefix is None or job.job_name.startswith(self.name_prefix))
            and (self.error_line is None or error_line(job.last_error) == self.error_line)
            and (not self.paused or (job.paused and not job.status.terminal))
            and (not self.recurring or job.recurs)
            and (self.order != "ended" or (job.status.terminal and job.handled_time is not None))
            and (not self.declared or (job.declared and not job.status.terminal))
        )

    def select(self, jobs: Iterable[JobInfo], links: Mapping[UUID, Sequence[UUID]] = _NONE) -> list[JobInfo]:
        """The page of `jobs` that this query asks for, in its order. `jobs` has every row, or at least the matching
        ones and the one of `after`; `links` has the parents of each child."""
        rows = every = list(jobs)
        key, down = _ORDERS[self.order]
        if self.parents_of is not None:
            place = {parent: number for number, parent in enumerate(links.get(self.parents_of, ()))}
            rows = [job for job in rows if job.id in place]
            key, down = lambda job: (place.get(job.id, len(place)),), False  # a row that is no parent comes last
        if self.children_of is not None:
            rows = [job for job in rows if self.children_of in links.get(job.id, ())]
        found = sorted((job for job in rows if self.matches(job)), key=key, reverse=down)
        if self.job_name is not None:
            found.sort(key=lambda job: (job.holds_name, job.id), reverse=True)
        if self.after is not None:
            last = next((key(job) for job in every if job.id == self.after), None)
            if last is None and key is _by_id:
                last = (self.after,)
            found = [job for job in found if last is not None and (key(job) < last if down else key(job) > last)]
        return found[: self.limit]


def _by_id(job: JobInfo) -> tuple[Any, ...]:
    return (job.id,)


def _by_end(job: JobInfo) -> tuple[Any, ...]:
    return (job.handled_time or job.created_at, job.id)


_ORDERS: Final[Mapping[str, tuple[Callable[[JobInfo], tuple[Any, ...]], bool]]] = {
    "created": (_by_id, False),
    "newest": (_by_id, True),
    "due": (by_due, False),
    "ended": (_by_end, True),
}
"""The key of each order, and whether the largest comes first."""


def _waits_since_after(job: JobInfo, at: datetime) -> bool:
    return job.status is JobStatus.SCHEDULED and job.modified_at > at


def _has(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Equal as JSON at these keys: in Python, True equals 1."""
    return all(
        key in metadata and json.dumps(metadata[key], sort_keys=True) == json.dumps(value, sort_keys=True)
        for key, value in wanted.items()
    )


@attrs.frozen(kw_only=True)
class Stats:
    """Counts at one moment. `paused`: jobs that are paused themselves; `paused_handlers`: handlers that are, by name;
    `by_handler`: per handler, per status; `size`: bytes of the store, 0 if unknown."""

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
    paused_handlers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, store_id: UUID, jobs: Iterable[JobInfo], now: datetime, *, owners: int, runs: int, size: int = 0,
        held: Collection[str] = (),
    ) -> Stats:  # fmt: skip
        """The counts of `jobs`, which has every row; `held`: handlers that are paused."""
        jobs, by_handler = [job.under(held) for job in jobs], dict[str, Counter[str]]()
        for job in jobs:
            by_handler.setdefault(job.handler_name, Counter())[job.status.name.lower()] += 1
        counts: dict[str, Any] = sum(by_handler.values(), Counter[str]())
        return cls(
            store_id=store_id,
            **counts,
            paused=sum(job.paused and not job.status.terminal for job in jobs),
            due=sum(job.claimable(now) for job in jobs),
            oldest_due=min((job.due_at for job in jobs if job.waiting and job.due_at), default=None),
            owners=owners,
            runs=runs,
            size=size,
            by_handler=by_handler,
            paused_handlers=tuple(sorted(held)),
        )

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
    handled before `before`, and those beyond the newest `keep`, which requires a `status`. With neither: all. With
    both: both must hold. With either, a row without `handled_time` stays. A parent of a job that has not ended stays as
    well (docs/protocol.md, A4).

    With `job_id`, instead: delete all history rows of that job beyond the newest `history`, whatever `limit` says.
    `skipped` rows are counted apart, since nothing else records occurrences that never ran (docs/protocol.md, N5).
    """

    status: JobStatus | None = None
    before: datetime | None = None
    keep: int | None = None
    limit: int = 500
    job_id: UUID | None = None
    history: int = 1000

    def beyond(self, outcomes: Iterable[RunOutcome | None]) -> list[int]:
        """With `job_id`: which history rows go, as positions; `outcomes`: the outcome of each row, newest first."""
        seen, gone = {True: 0, False: 0}, []
        for place, outcome in enumerate(outcomes):
            skipped = outcome is RunOutcome.SKIPPED
            seen[skipped] += 1
            if seen[skipped] > self.history:
                gone.append(place)
        return gone

    def select(self, jobs: Iterable[JobInfo], needed: Container[UUID] = ()) -> list[JobInfo]:
        """The jobs that this purge deletes, oldest first; for a purge without `job_id`. `needed`: the parents of jobs
        that have not ended."""
        ended = [job for job in jobs if job.status.terminal and self.status in (None, job.status)]
        if self.before is not None or self.keep is not None:
            ended = [job for job in ended if job.handled_time is not None]
        ended.sort(key=lambda job: (job.handled_time is not None, job.handled_time or job.created_at))
        if self.keep is not None:
            ended = ended[: max(len(ended) - self.keep, 0)]
        before = self.before
        old = [job for job in ended if before is None or (job.handled_time and job.handled_time < before)]
        return [job for job in old if job.id not in needed][: self.limit]
