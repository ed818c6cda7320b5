"""Every verb and every query of an app, once or more, so that each statement the kernel can issue is seen."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio

from aether_bg import Aether, GiveUp, JobConflict, JobInfo, JobStatus, Snooze, UnitOfWork, hookimpl
from aether_bg.model import Failures, Runs
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

HOUR = timedelta(hours=1)


class Still:
    """A scheduler that does nothing by itself: `drain` runs what is due."""

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await anyio.sleep_forever()


class Pushing:
    """A scheduler that remembers what is armed; `deliver` fires it, as an engine elsewhere would."""

    def __init__(self) -> None:
        self.kernel: Kernel
        self._armed: dict[UUID, tuple[int, datetime]] = {}

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.kernel = kernel
        await anyio.sleep_forever()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        if job.status is JobStatus.SCHEDULED and job.due_at is not None:
            self._armed[job.id] = (job.seq, job.occurrence or job.due_at)
        return True

    async def deliver(self) -> None:
        for job_id, (seq, occurrence) in list(self._armed.items()):
            await self.kernel.fire(self.kernel.store_id, job_id, seq, occurrence)


def app_on(path: Path, clock: FakeClock, scheduler: Any, **options: Any) -> Aether:
    app = Aether(path, clock=clock, scheduler=scheduler, grace=1, **options)

    @app.handler("Quick")
    async def quick() -> None: ...

    @app.handler("Fails", retries=1)
    async def fails() -> None:
        raise ValueError("as asked")

    @app.handler("Gives up", concurrency=1, priority=-5)
    async def gives_up() -> None:
        raise GiveUp

    snoozed: list[bool] = []

    @app.handler("Snoozes")
    async def snoozes() -> None:
        if not snoozed:
            snoozed.append(True)
            raise Snooze(HOUR)

    @app.handler("Writes")
    async def writes(uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO mine VALUES (?)", [1])
        await app.enqueue("Quick")

    @app.handler("Tick", schedule="@every 1m")
    async def tick() -> None: ...

    return app


async def names(app: Aether) -> None:
    """Enqueue in all its ways."""
    for _ in range(2):
        await app.enqueue("Quick", "same", schedule=HOUR)
    with contextlib.suppress(JobConflict):
        await app.enqueue("Quick", "same", schedule=2 * HOUR)
    await app.enqueue("Quick", "same", schedule=3 * HOUR, if_exists="keep")
    await app.enqueue("Quick", "same", schedule=4 * HOUR, if_exists="replace")
    async with app.unit_of_work() as uow:
        uow.execute("CREATE TABLE IF NOT EXISTS mine (n INTEGER)")
        await app.enqueue("Writes")
        await app.enqueue("Quick", "in a unit", schedule=HOUR)
        uow.run(lambda tx: tx.enqueue("Quick", "inside"))
    for kind in ("Quick", "Fails", "Gives up", "Snoozes"):
        await app.enqueue(kind, f"one {kind}", metadata={"OrderId": 1})


async def verbs(app: Aether) -> None:
    job = await app.enqueue("Quick", "moved", schedule=HOUR)
    await app.update(job, "@daily")
    await app.pause(job)
    await app.resume(job)
    await app.trigger("moved")
    await app.pause(handler="Quick")
    await app.drain()
    await app.resume(handler="Quick")
    await app.drain()
    await app.explain("moved")
    await app.delete("moved")
    failed = await app.store.get_by_job_name("one Gives up")
    assert failed is not None
    await app.retry(failed.id)
    await app.drain()
    ended = await app.enqueue("Quick", "by hand", schedule=HOUR)
    await app.store.update_status(ended, JobStatus.FAILED, error="by hand")
    await app.enqueue("Quick", "by hand", schedule=HOUR, if_exists="replace")
    await app.wait(ended, 5)
    await app.health()


async def queries(app: Aether, clock: FakeClock) -> None:
    store, now = app.store, clock.now()
    job = await store.get_by_job_name("same")
    assert job is not None
    await store.get(job.id)
    await store.get_by_handler_name("Quick", limit=20)
    await store.get_active(limit=20)
    await store.history(job.id)
    await store.stats()
    for status in JobStatus:
        await store.find(status=[status], limit=20)
    for order in ("created", "newest", "due", "ended"):
        page = await store.find(order=order, limit=5)
        await store.find(order=order, limit=5, after=page[-1].id)
    for status in JobStatus:
        await store.find(order="newest", status=[status], limit=20)
        await store.find(order="newest", status=[status], handler_name="Quick", limit=20)
    await store.find(order="newest", handler_name="Quick", limit=20)
    await store.find(order="ended", status=[JobStatus.FAILED], limit=20)
    await store.find(order="newest", name_prefix="one", limit=20)
    await store.find(order="newest", paused=True, limit=20)
    await store.find(order="newest", recurring=True, limit=20)
    await store.runs(Runs(after=now - HOUR, limit=20))
    await store.failures(Failures(among=20, limit=20))
    await store.find(due_before=now, order="due", limit=20)
    await store.find(handler_name="Quick", due_before=now, order="due", limit=20)
    await store.find(created_after=now - HOUR, created_before=now, limit=20)
    await store.find(metadata={"OrderId": 1}, limit=20)
    await store.find(owner=uuid4(), limit=20)
    await store.find(changed_after=now, limit=20)
    await store.find(zoned=True, limit=20)
    await store.find(unarmed=True, order="due", limit=20)


async def purges(app: Aether) -> None:
    await app.store.purge(JobStatus.CANCELLED, older_than=timedelta(days=9))
    await app.store.purge(JobStatus.FAILED, keep=1)
    await app.store.purge(older_than=timedelta(days=9), keep=3)


async def play(path: Path, clock: FakeClock) -> None:
    """All of it on `path`: a pull scheduler first, then a push scheduler beside a second owner and a client."""
    async with app_on(path, clock, Still()) as app:
        await names(app)
        await app.drain()
        for _ in range(3):
            clock.advance(minutes=40)
            await app.drain()
        await verbs(app)
        await queries(app, clock)
        await purges(app)
        clock.advance(hours=2)  # the minutely job has missed many
        await app.drain()
    async with app_on(path, clock, Still(), retention={JobStatus.FAILED: 10}) as app:
        for _ in range(101):  # every hundred occurrences the history of a recurring job is trimmed
            clock.advance(minutes=1)
            await app.drain()
    pushing = Pushing()
    other = app_on(path, clock, Still())
    async with app_on(path, clock, pushing, lease=1) as app, other, app.client() as jobs:
        for _ in range(3):
            await jobs.enqueue("Quick")
            await anyio.sleep(0.4)  # a heartbeat, the outbox
            await pushing.deliver()
        await app.drain()
