"""Jobs in this process's memory: for tests, for trials, and for work that may be lost with the process.

The shortest complete store: `aether_bg.rows` has the rules, this keeps the rows, and `_tables` is its engine: dicts.
`aether_bg.plugins.kept.KeptStore` adds a place where they survive the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid4

import attrs

from aether_bg.hookspecs import hookimpl
from aether_bg.model import Alive, Claim, Heartbeat, Hold, JobInfo, JobRun, Owner, Stats
from aether_bg.plugins._tables import Table, Tables
from aether_bg.rows import Rows, RowStore

__all__ = ["MemoryStore"]

T = TypeVar("T")


class MemoryStore(RowStore["MemoryRows"]):
    def __init__(self) -> None:
        super().__init__()
        self._id = uuid4()
        self._rows = MemoryRows()
        self._beats: dict[UUID, tuple[Heartbeat, float]] = {}
        """The last heartbeat of each owner of this process, and until when it lasts."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._rows.by_id)} jobs>"

    def open(self, stack: ExitStack) -> None:
        stack.callback(self._beats.clear)

    async def read(self, work: Callable[[MemoryRows], T]) -> T:
        with self._lock:
            return work(self._rows)

    async def write(self, work: Callable[[MemoryRows], T]) -> T:
        with self._lock, self._rows.transaction():
            return work(self._rows)

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self.read(
            lambda rows: Stats.of(
                self._id, rows.jobs(), datetime.now(UTC), owners=len(rows.owners), runs=len(rows.runs()),
                held=rows.holds,
            )
        )  # fmt: skip

    # -- owners: all of them live in this process --------------------------------------------------

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self.write(lambda rows: self._beat(rows, beat))

    def _beat(self, rows: MemoryRows, beat: Heartbeat) -> Alive:
        now = time.monotonic()
        if beat.join:
            rows.owners[beat.owner] = Owner(0, beat.handlers, declares=beat.declares)
        if rows.knows(beat.owner):
            self._beats[beat.owner] = beat, now + beat.keep_for
        for gone in beat.gone:
            rows.owners.discard(gone)
            self._beats.pop(gone, None)
        self._mark_stopping(rows)
        owners = self._beating(rows, now)
        return Alive.of(beat, self._id, owners, rows.running_or_due(), owners.keys() - self._beats.keys())

    def _mark_stopping(self, rows: MemoryRows) -> None:
        for id_, (beat, _) in self._beats.items():
            if (beat.stopping or beat.stop_asked()) and not rows.owners[id_].stopping:
                rows.owners[id_] = attrs.evolve(rows.owners[id_], stopping=True)

    def _beating(self, rows: MemoryRows, now: float) -> dict[UUID, Owner]:
        """Beats are computed from the time that has passed, so no thread needs to keep them going."""
        beats = {id_: int(min(now, until) / beat.interval) for id_, (beat, until) in self._beats.items()}
        return {id_: attrs.evolve(owner, beat=beats.get(id_, 0)) for id_, owner in rows.owners.items()}


class MemoryRows(Tables, Rows):
    """All rows, in dicts."""

    def __init__(self) -> None:
        self.by_id = Table[UUID, JobInfo]()
        self.active = Table[UUID, JobInfo]()
        """Those that have not ended."""
        self.runs_of = Table[UUID, Mapping[tuple[int, int], JobRun]]()
        """By job: its history, by (token, gap)."""
        self.holds = Table[str, Hold]()
        self.links_of = Table[UUID, tuple[UUID, ...]]()
        """The parents of each job that has some, in the order given."""
        self.waiting = Table[UUID, tuple[UUID, ...]]()
        """By parent: the children that wait for its end."""
        self.owners = Table[UUID, Owner]()
        self.holders = Table[str, UUID]()
        """By name: the job that holds it."""

    # -- jobs --------------------------------------------------------------------------------------

    def job(self, job_id: UUID) -> JobInfo | None:
        return self.by_id.get(job_id)

    def jobs(self) -> Iterable[JobInfo]:
        return self.by_id.values()

    def holder(self, name: str) -> JobInfo | None:
        return self.by_id[self.holders[name]] if name in self.holders else None

    def put_job(self, job: JobInfo, before: JobInfo | None = None) -> None:
        self.by_id[job.id] = job
        if job.status.terminal:
            self.active.discard(job.id)
        else:
            self.active[job.id] = job
        if job.holds_name:
            self.holders[job.job_name] = job.id
        elif self.holders.get(job.job_name) == job.id:
            self.holders.discard(job.job_name)

    def delete_job(self, job: JobInfo) -> None:
        self.by_id.discard(job.id)
        self.active.discard(job.id)
        self.runs_of.discard(job.id)
        self.links_of.discard(job.id)
        self.waiting.discard(job.id)
        if job.holds_name:
            self.holders.discard(job.job_name)

    # -- history -----------------------------------------------------------------------------------

    def runs(self) -> Sequence[JobRun]:
        return [run for runs in self.runs_of.values() for run in runs.values()]

    def history(self, job_id: UUID, limit: int | None = None) -> Sequence[JobRun]:
        runs = self.runs_of.get(job_id, {})
        return [runs[token] for token in sorted(runs, reverse=True)[:limit]]

    def put_run(self, run: JobRun) -> None:
        self.runs_of[run.job_id] = {**self.runs_of.get(run.job_id, {}), (run.token, run.gap): run}

    def delete_run(self, run: JobRun) -> None:
        runs = self.runs_of[run.job_id]
        self.runs_of[run.job_id] = {token: runs[token] for token in runs if token != (run.token, run.gap)}

    # -- paused handlers, links, owners ------------------------------------------------------------

    def held(self) -> Container[str]:
        return self.holds

    def hold(self, hold: Hold) -> None:
        if not hold.held:
            self.holds.discard(hold.handler)
        elif hold.handler not in self.holds:
            self.holds[hold.handler] = hold

    def parents(self, child: UUID) -> Sequence[UUID]:
        return self.links_of.get(child, ())

    def children(self, parent: UUID) -> Iterable[UUID]:
        return [child for child, parents in self.links_of.items() if parent in parents]

    def link(self, child: UUID, parents: Sequence[UUID]) -> None:
        self.links_of[child] = tuple(parents)

    def await_end(self, parent: UUID, child: UUID) -> None:
        if child not in (waiting := self.waiting.get(parent, ())):
            self.waiting[parent] = (*waiting, child)

    def no_longer_awaited(self, parent: UUID) -> Sequence[UUID]:
        waiting = self.waiting.get(parent, ())
        self.waiting.discard(parent)
        return waiting

    def knows(self, owner: UUID) -> bool:
        return owner in self.owners

    # -- the queries that are asked all the time ---------------------------------------------------

    def claimable(self, claim: Claim) -> Iterable[JobInfo]:
        return self.running_or_due()

    def running_or_due(self) -> Iterable[JobInfo]:
        return [job.under(self.holds) for job in self.active.values()]
