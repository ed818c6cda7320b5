"""The only way to change jobs: commit, then announce once, to waiting callers, the scheduler and the observers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel

from aether_bg._handlers.work import UnitOfWork
from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.batcher import Batcher, Committed, Finished, W
from aether_bg._kernel.commits import Commits
from aether_bg._kernel.observers import Observers
from aether_bg.errors import NameHeld, NotStarted, Stale, StoreRefused, StoreUnsure
from aether_bg.model import Altered, Change, Claim, Enqueued, Hold, Insert, JobInfo, JobStatus, Update

T = TypeVar("T")
UNKNOWN: Final = object()
"""Stands for the result of a write whose answer was lost."""


class Written(NamedTuple):
    """One of several writes, and the row after an Update as observers see it."""

    write: Insert | Update
    row: JobInfo | None = None


class Journal:
    """`arm`: gets each row that has changed, for a scheduler that holds due times itself."""

    def __init__(
        self, *, commits: Commits, batcher: Batcher, alarm: Alarm, observers: Observers, arm: Callable[[UUID], object]
    ) -> None:
        self._commits, self._batcher, self._alarm, self._observers, self.arm = commits, batcher, alarm, observers, arm
        self._waiters: WeakValueDictionary[UUID, anyio.Event] = WeakValueDictionary()
        """By job; callers who wait for an entry keep it alive."""

    def ended(self, job_id: UUID) -> anyio.Event:
        """Set when this process learns that the job has ended."""
        waiter: anyio.Event = self._waiters.setdefault(job_id, anyio.Event())
        return waiter

    # -- commit ----------------------------------------------------------------------------------

    @property
    def alone(self) -> bool:
        """A write made now has a transaction of its own, and its result is returned."""
        return self._batcher.alone

    def insert(self, job: JobInfo, after: tuple[UUID, ...] = (), claim: Claim | None = None) -> Awaitable[object]:
        """The result is the row if it was claimed as well, UNKNOWN if that is not known. `claim` only while `alone`.
        Raises `NameHeld`, `JobNotFound` for a job of `after`, or a `StoreError`."""
        if self._batcher.idle and not after and claim is None:  # a claim made now can share its transaction
            self._alarm.expect(job.id, job.seq, job.due_at)
        return self._write(Insert(job, after, claim), self._inserted)

    async def update(self, change: Change, job: JobInfo | None = None, verb: str = "") -> None:
        """`job` and `verb`: the row before, and who changes it, for observers. Raises `Stale`, or a `StoreError`."""

        def announce(write: Update, result: object) -> None:
            self._updated(change, None if job is None else change.applied_to(job), verb)

        await self._write(Update(change), announce)

    async def try_update(self, change: Change) -> bool:
        """False: the row has changed in the meantime."""
        try:
            await self.update(change)
        except Stale:
            return False
        return True

    def put(self, change: Change, finished: Finished[T], about: T) -> None:
        """An outcome, committed together with others; `finished` announces it."""
        self._batcher.put(Update(change), finished, about)

    def release(self, change: Change) -> None:
        """The outcome of an attempt that does not end, committed with others."""
        self.put(change, self._released, change)

    def _released(self, change: Change, error: BaseException | None) -> None:
        if error is None:
            self.announce(change)

    async def record(self, change: Change, unit: UnitOfWork, finished: Finished[T], about: T) -> None:
        """An outcome and the handler's unit of work in one transaction."""
        try:
            _, *results = await self._commits.transact([Update(change), *unit.close()])
        except Exception as error:
            finished(about, error)
            return
        unit.fill(results)
        finished(about, None)
        self.announce_jobs(unit.jobs)

    async def commit(self, unit: UnitOfWork) -> None:
        """A caller's own unit of work. Raises `NameHeld`, what its functions raise, or a `StoreError`."""
        if steps := unit.close():
            results = await self._commit(
                self._commits.transact(steps), lambda: [Written(Insert(job)) for job in unit.jobs]
            )
            unit.fill(results)

    async def write_all(self, written: Sequence[Written]) -> None:
        """Commits all of them in one transaction. Raises `Stale`, `NameHeld`, or a `StoreError`."""
        if written:
            await self._commit(self._all([each.write for each in written]), lambda: written)

    async def _all(self, writes: Sequence[Insert | Update]) -> None:
        try:
            await self._commits.transact(writes)
        except StoreUnsure as unsure:
            await self._again(unsure, partial(self._commits.transact, writes), writes[0])

    async def _commit(self, commit: Awaitable[T], written: Callable[[], Sequence[Written]]) -> T:
        """Commits, then announces what was `written`."""

        async def announce() -> None:
            for number, (write, row) in enumerate(written(), 1):
                if isinstance(write, Insert):
                    self._inserted(write)
                else:
                    self._updated(write.change, row, "update")
                if number % 500 == 0:  # the observers' queue is bounded
                    await anyio.lowlevel.cancel_shielded_checkpoint()

        try:
            result = await commit
        except Exception:
            raise
        except BaseException:
            if some := written():
                self._commits.follow(some[0].write, announce)
            raise
        await announce()
        return result

    async def hold(self, write: Hold) -> None:
        """Pauses a handler or lets it go on (docs/protocol.md, L3). Raises a `StoreError`."""
        try:
            await self._commits.transact([write])
        except StoreUnsure:  # the second time changes nothing
            await self._commits.transact([write])
        self._alarm.wake()

    async def _write(self, write: W, announce: Committed[W]) -> object:
        alone = self._batcher.alone
        try:
            return await self._batcher.write(write, announce)
        except StoreUnsure as unsure:
            await self._again(unsure, partial(self._batcher.write, write), write)
            announce(write, None)
            return UNKNOWN
        except Exception:
            raise
        except BaseException:
            if alone:  # otherwise the batcher announces it
                self._commits.follow(write, partial(announce, write, None))
            raise

    async def _again(
        self, unsure: StoreUnsure, commit: Callable[[], Awaitable[object]], write: Insert | Update
    ) -> None:
        """Writing the same again shows whether the first write happened. `write`: what is committed, or a part of
        it."""
        try:
            await commit()
        except (NameHeld, Stale, StoreRefused):
            if not await self._commits.stored(write):
                raise
        except NotStarted as stopped:
            raise unsure from stopped

    # -- announce --------------------------------------------------------------------------------

    def announce(self, change: Change) -> None:
        """The outcome of an attempt is committed. The scheduler's trigger has been used, so nothing is disarmed."""
        self._changed(change)
        if change.status is JobStatus.SCHEDULED:
            self.arm(change.job_id)

    def announce_jobs(self, jobs: Iterable[JobInfo]) -> None:
        for job in jobs:
            self._inserted(Insert(job))

    def _inserted(self, write: Insert, result: object = None) -> None:
        """`result`: the row, if it was claimed as well."""
        job = write.job
        if self._observers.present:
            self._observers.emit(Enqueued(job))
        self.arm(job.id)
        if not job.waits_for and not isinstance(result, JobInfo):
            self._alarm.expect(job.id, job.seq, job.due_at)

    def _updated(self, change: Change, row: JobInfo | None, verb: str) -> None:
        self._changed(change)
        self.arm(change.job_id)
        if row is not None and self._observers.present:
            self._observers.emit(Altered(row, verb))

    def _changed(self, change: Change) -> None:
        if change.status <= JobStatus.RUNNING:
            self._alarm.expect(change.job_id, change.next_seq, change.due_at)
        elif self._waiters and (waiter := self._waiters.pop(change.job_id, None)) is not None:
            waiter.set()
