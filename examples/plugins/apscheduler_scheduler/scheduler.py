"""A push scheduler: every armed job is a one-shot in a job store of APScheduler; its trigger goes to `kernel.fire`.

APScheduler gets instants and four values, never payloads or the user's schedules: the kernel handles occurrences,
retries, zones and misfires.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import Any, TypeAlias
from uuid import UUID

import anyio
import attrs
from apscheduler.executors.base import BaseExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Engine, create_engine

from aether_bg import JobInfo, JobStatus, hookimpl
from aether_bg.bridge import Bridge
from aether_bg.model import Fired, Query
from aether_bg.protocols import Kernel

Trigger: TypeAlias = tuple[UUID, UUID, int, datetime]
"""Store id, job id, seq, occurrence: the arguments of `fire`."""

SEQ = 2
AGAIN = 1.0  # seconds until a trigger is delivered again that the kernel could not take


def trigger(store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> None:
    """APScheduler stores its name. It is never called: the executor passes its arguments on."""


class APScheduler:
    """Scheduling by APScheduler 3, with the triggers in any database that SQLAlchemy supports.

    `url`: that database; `table`: its table, created if it does not exist. One running app per table: a job store of
    APScheduler serves one scheduler.
    """

    def __init__(self, url: str, *, table: str = "aether_bg_triggers") -> None:
        self._url, self._table = url, table
        self._engine: _Engine | None = None

    def __repr__(self) -> str:
        return f"APScheduler({self._url!r})"

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        to_loop, stopping = Bridge(), False

        def ring(arrived: Trigger) -> None:
            if not stopping:  # else the next start finds its row
                kernel.spawn(partial(_ring, kernel, arrived), "apscheduler")

        def deliver(arrived: Trigger) -> None:
            """On APScheduler's thread."""
            to_loop.post(partial(ring, arrived))

        engine = _Engine(create_engine(self._url), self._table, deliver, kernel.store_id)
        try:
            await engine.start()
            self._engine = engine
            kernel.wake()  # what could not be armed until now
            await _arm_what_was_lost(kernel, engine)
            await anyio.sleep_forever()
        finally:
            self._engine, stopping = None, True
            with anyio.CancelScope(shield=True):
                await engine.stop()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        if (engine := self._engine) is None:
            return False  # not running yet: called again
        await engine.hold(job)
        return True


async def _ring(kernel: Kernel, arrived: Trigger) -> None:
    """Repeats until the kernel has acknowledged it; APScheduler has forgotten it by now."""
    while await kernel.fire(*arrived) is Fired.RETRY:
        await anyio.sleep(AGAIN)


async def _arm_what_was_lost(kernel: Kernel, engine: _Engine) -> None:
    """Rows that are marked as armed but not held: delivered to a process that died before its claim, or deleted.

    What is held and no longer needed needs no action: `fire` answers CONSUMED to it, once.
    """
    held, last = await engine.held(), None
    while waiting := await kernel.store.find(Query(status=(JobStatus.SCHEDULED,), after=last)):
        for job in waiting:
            if job.armed_seq == job.seq and held.get(job.id) != job.seq:
                await engine.hold(job)
        last = waiting[-1].id


class _Executor(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types; it wants a subclass
    """Where APScheduler would run jobs, by its own rules for misfires and overlaps: passes them on."""

    def __init__(self, deliver: Callable[[Trigger], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self._deliver(job.args)

    _do_submit_job = submit_job


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]
    """Its thread removes what it has delivered. That may be gone, or looked for in vain while the scheduler stops: then
    the thread would end with an error."""

    def remove_job(self, job_id: str, jobstore: str | None = None) -> None:
        with suppress(JobLookupError):
            super().remove_job(job_id, jobstore)


@attrs.define(eq=False)
class _Engine:
    """APScheduler, holding one-shots. Its calls wait for a database, so they run in threads."""

    _database: Engine
    _table: str
    _deliver: Callable[[Trigger], None]
    _store_id: UUID
    _lock: Lock = attrs.field(factory=Lock)
    _threads: anyio.CapacityLimiter = attrs.field(factory=partial(anyio.CapacityLimiter, 4))
    """Not the default limiter: handlers may fill that one, and then wait for you."""
    _scheduler: _Scheduler = attrs.field(factory=partial(_Scheduler, timezone=UTC))

    async def start(self) -> None:
        self._scheduler.add_jobstore(SQLAlchemyJobStore(engine=self._database, tablename=self._table))
        self._scheduler.add_executor(_Executor(self._deliver))
        await self._in_thread(self._scheduler.start)

    async def stop(self) -> None:
        if self._scheduler.running:
            await self._in_thread(self._scheduler.shutdown)
        self._database.dispose()  # its thread looks once more after APScheduler has done so

    async def hold(self, job: JobInfo) -> None:
        """Hold what this row says, and nothing else about it; durable when it returns."""
        await self._in_thread(self._hold, job)

    async def held(self) -> dict[UUID, int]:
        """The seq under which each job of this store is held."""
        triggers = [each.args for each in await self._in_thread(self._scheduler.get_jobs)]
        return {job_id: seq for store_id, job_id, seq, _ in triggers if store_id == self._store_id}

    def _hold(self, job: JobInfo) -> None:
        name = f"{self._store_id}/{job.id}"
        with self._lock:
            held = self._scheduler.get_job(name)
            if held is not None and held.args[SEQ] > job.seq:
                return  # an older reading of the row
            if job.waiting:
                arguments = (self._store_id, job.id, job.seq, job.occurrence)
                self._scheduler.add_job(
                    trigger,
                    "date",
                    arguments,
                    id=name,
                    name=job.job_name,
                    run_date=job.due_at,
                    replace_existing=True,
                )
            elif held is not None:
                self._scheduler.remove_job(name)

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(call, *arguments, limiter=self._threads)
