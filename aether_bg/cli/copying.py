"""`copy`: moves jobs with their history from one store to another, so that a service can outgrow its file.

It reads and writes through the hooks that every store has: pages of `store_find`, `store_history`, `store_transact`. A
job and its history are one transaction, so a copy that was killed goes on where it ended when it is run again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import attrs

from aether_bg.errors import JobNotFound, NameHeld, Stale, StoreRefused, UsageError
from aether_bg.model import Change, Definition, Hold, Insert, JobInfo, JobRun, Query, Unreadable, Update, Write
from aether_bg.protocols import Inspection

if TYPE_CHECKING:
    from aether_bg._app.operator import Operator

PAGE: Final = 200
_RUNS: Final = 2000
"""Rows of history in one transaction, except those of a single job."""
_ALL: Final = 10_000_000
_STATE: Final = tuple(attrs.fields_dict(Change).keys() & attrs.fields_dict(JobInfo).keys() - {"seq", "schedule_rev"})
_DEFINITION: Final = tuple(attrs.fields_dict(Definition))


@attrs.define(kw_only=True)
class Copied:
    """`copied`: new in the target; `renewed`: there from an earlier copy, and changed since; `already`: there and
    unchanged; `moved_on`: newer in the target, which runs them. `left`: live jobs, which were not requested. `runs`:
    rows of history written. `unreadable`, `conflicts`: jobs that could not be copied, and why. `missing`: jobs of the
    source that are not in the target in the end."""

    copied: int = 0
    renewed: int = 0
    already: int = 0
    moved_on: int = 0
    left: int = 0
    runs: int = 0
    missing: int = 0
    unreadable: list[UUID] = attrs.field(factory=list)
    conflicts: list[str] = attrs.field(factory=list)

    @property
    def verified(self) -> bool:
        """Whether everything in the source that was requested is in the target."""
        return not (self.missing or self.unreadable or self.conflicts)


async def refuse_running(source: Inspection, what: str) -> None:
    """Raises `UsageError` while a process runs jobs of the source: they would run in both."""
    for process in await source.processes():
        if process.state == "alive":
            raise UsageError(
                what, f"{process.name} runs its jobs, which would run from the copy as well",
                "Stop it first. With --ended you can copy the jobs that have ended now, and the rest after the stop.",
            )  # fmt: skip


async def copy(
    source: Inspection, target: Operator, *, ended_only: bool, progress: Callable[[int], object] = bool
) -> Copied:
    """All jobs, or only those that have ended. `progress` is called with the number of each page's jobs."""
    tally = Copied()
    paused = (await source.store_stats()).paused_handlers
    if paused:
        await target.calls.transact(
            [Hold(handler=handler, held=True, at=datetime.now(UTC), by="aether-bg copy") for handler in paused]
        )
    later: list[_Row] = []
    async for page in _pages(source):
        tally.left += sum(not job.status.terminal for job in page) if ended_only else 0
        batch: list[_Row] = []
        for job, known in await _beside(target, page, ended_only):
            if isinstance(job, Unreadable):
                tally.unreadable.append(job.id)
            elif known is not None and _version(known) >= _version(job):
                tally.already += _version(known) == _version(job)
                tally.moved_on += _version(known) > _version(job)
            else:
                batch.append(await _row(source, job, known))
                if sum(len(row.runs) for row in batch) > _RUNS:
                    later += await _put(target, batch, tally)
                    batch = []
        later += await _put(target, batch, tally)
        progress(len(page))
    for row in later:  # their parents are copied by now, or are live and were not requested
        left = await _put(target, [row], tally)
        tally.left += len(left) if ended_only else 0
        tally.conflicts += (
            [] if ended_only else [f"{row.job.job_name}: a job that it runs after is missing" for row in left]
        )
    return tally


async def verify(
    source: Inspection, target: Operator, tally: Copied, *, ended_only: bool, progress: Callable[[int], object] = bool
) -> None:
    """Looks for each job of the source once more, and counts those that are missing."""
    async for page in _pages(source):
        for job, known in await _beside(target, page, ended_only):
            behind = known is None or _version(known) < _version(job)
            tally.missing += behind and not isinstance(job, Unreadable)
        progress(len(page))


async def _pages(source: Inspection) -> AsyncIterator[Sequence[JobInfo]]:
    last = None
    while page := await source.store_find(Query(after=last, limit=PAGE)):
        yield page
        last = page[-1].id


async def _beside(target: Operator, page: Sequence[JobInfo], ended_only: bool) -> list[tuple[JobInfo, JobInfo | None]]:
    """Each requested job, and its row in the target."""
    wanted = [job for job in page if job.status.terminal or not ended_only]
    there = {job.id: job for job in await target.calls.find(Query(ids=tuple(job.id for job in wanted)))}
    return [(job, there.get(job.id)) for job in wanted]


@attrs.frozen
class _Row:
    """A job of the source with its history and parents, and its row in the target so far."""

    job: JobInfo
    known: JobInfo | None
    runs: tuple[JobRun, ...]
    parents: tuple[UUID, ...]

    @property
    def inserts(self) -> list[Write]:
        return [] if self.known is not None else [Insert(attrs.evolve(self.job, armed_seq=-1), self.parents)]

    @property
    def updates(self) -> list[Write]:
        """For a row that exists already; for a new one only the history, which an Update can carry."""
        if self.known is None and not self.runs:
            return []
        seq, rev = _version(self.known or self.job)
        job = attrs.evolve(self.job, armed_seq=-1)  # the target's scheduler does not know the job yet
        definition = None if self.known is None else Definition(**{name: getattr(job, name) for name in _DEFINITION})
        change = Change(
            job_id=job.id, seq=seq, schedule_rev=rev, next_seq=job.seq, next_rev=job.schedule_rev,
            definition=definition, runs=self.runs, **{name: getattr(job, name) for name in _STATE},
        )  # fmt: skip
        return [Update(change)]


async def _row(source: Inspection, job: JobInfo, known: JobInfo | None) -> _Row:
    runs = await source.store_history(job.id, _ALL)
    parents = await source.store_find(Query(parents_of=job.id, limit=_ALL)) if job.parents and known is None else ()
    return _Row(job, known, tuple(runs), tuple(parent.id for parent in parents))


async def _put(target: Operator, batch: Sequence[_Row], tally: Copied) -> list[_Row]:
    """In one transaction; if one row is refused, one by one. Returns those whose parents are missing."""
    if not batch:
        return []
    try:
        await target.calls.transact(
            [write for row in batch for write in row.inserts] + [w for row in batch for w in row.updates]
        )
    except (NameHeld, Stale, StoreRefused, JobNotFound) as error:
        if len(batch) > 1:
            return [left for row in batch for left in await _put(target, [row], tally)]
        if isinstance(error, JobNotFound):
            return [*batch]
        tally.conflicts.append(str(error))
        return []
    for row in batch:
        tally.copied += row.known is None
        tally.renewed += row.known is not None
        tally.runs += len(row.runs)
    return []


def _version(job: JobInfo) -> tuple[int, int]:
    """A number that grows with every change of a row, except its progress."""
    return job.seq, job.schedule_rev
