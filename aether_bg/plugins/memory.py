"""Jobs in this process's memory: for tests, for trials, and for work that may be lost with the process.

The shortest complete store: `aether_bg.rows` has the rules, and this keeps the rows, in dicts.
`aether_bg.plugins.kept.KeptStore` adds a place where they survive the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID, uuid4

import attrs

from aether_bg.hookspecs import hookimpl
from aether_bg.model import Alive, Claim, Heartbeat, Hold, JobInfo, JobRun, Owner, RunOutcome, Stats
from aether_bg.rows import Rows, RowStore

__all__ = ["MemoryStore"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
RunKey: TypeAlias = tuple[UUID, int, int]


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
                self._id, rows.jobs(), datetime.now(UTC), owners=len(rows.owners), runs=len(rows.by_token),
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
        for gone in (*beat.recovered, *([beat.owner] if beat.leave else [])):
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


class Table(dict[K, V], Generic[K, V]):
    """A dict that can take back what was done to it by `table[key] = value` and `discard`."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[K, V | None] = {}
        """What has been changed, as it was; None: it was not there."""

    def __setitem__(self, key: K, value: V) -> None:
        self.before.setdefault(key, self.get(key))
        super().__setitem__(key, value)

    def discard(self, key: K) -> None:
        if key in self:
            self.before.setdefault(key, self[key])
            del self[key]

    def undo(self) -> None:
        for key, value in self.before.items():
            self.pop(key, None)
            if value is not None:
                super().__setitem__(key, value)


class MemoryRows(Rows):
    """All rows, in dicts."""

    def __init__(self) -> None:
        self.by_id = Table[UUID, JobInfo]()
        self.active = Table[UUID, JobInfo]()
        """Those that have not ended."""
        self.by_token = Table[RunKey, JobRun]()
        self.tokens_of = Table[UUID, tuple[tuple[int, int], ...]]()
        """By job: (token, gap) of its history."""
        self.holds = Table[str, Hold]()
        self.links_of = Table[UUID, tuple[UUID, ...]]()
        """The parents of each job that has some, in the order given."""
        self.waiting = Table[UUID, tuple[UUID, ...]]()
        """By parent: the children that wait for its end."""
        self.owners = Table[UUID, Owner]()
        self.holders = Table[str, UUID]()
        """By name: the job that holds it."""
        self.tokens = Table[tuple[UUID, datetime | None], int]()
        """By job and occurrence: the token under which it was completed."""
        self._tables: Sequence[Table[Any, Any]] = [*vars(self).values()]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for table in self._tables:
                table.undo()
            raise
        finally:
            for table in self._tables:
                table.before.clear()

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
        self.links_of.discard(job.id)
        self.waiting.discard(job.id)
        if job.holds_name:
            self.holders.discard(job.job_name)
        for run in self.history(job.id):
            self.delete_run(run)

    # -- history -----------------------------------------------------------------------------------

    def runs(self) -> Iterable[JobRun]:
        return self.by_token.values()

    def history(self, job_id: UUID, limit: int | None = None) -> Sequence[JobRun]:
        newest = sorted(self.tokens_of.get(job_id, ()), reverse=True)
        return [self.by_token[job_id, *token] for token in newest[:limit]]

    def completed(self, job_id: UUID, occurrence: datetime | None) -> int | None:
        return self.tokens.get((job_id, occurrence))

    def put_run(self, run: JobRun) -> None:
        if (run.job_id, run.token, run.gap) not in self.by_token:
            self.tokens_of[run.job_id] = (*self.tokens_of.get(run.job_id, ()), (run.token, run.gap))
        self.by_token[run.job_id, run.token, run.gap] = run
        if run.outcome is RunOutcome.COMPLETED:
            self.tokens[run.job_id, run.occurrence] = run.token

    def delete_run(self, run: JobRun) -> None:
        self.by_token.discard((run.job_id, run.token, run.gap))
        if left := tuple(token for token in self.tokens_of[run.job_id] if token != (run.token, run.gap)):
            self.tokens_of[run.job_id] = left
        else:
            self.tokens_of.discard(run.job_id)
        if run.outcome is RunOutcome.COMPLETED:
            self.tokens.discard((run.job_id, run.occurrence))

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
