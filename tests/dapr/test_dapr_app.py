"""The whole: an app, a SQLite file, a real sidecar and scheduler. The scenario every scheduler has to master."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import attrs
import httpx
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, jobs_pb2
from dapr_http import served
from dapr_standin import callback, dapr_api, until
from fastapi import FastAPI
from google.protobuf import any_pb2  # type: ignore[import-untyped]

from aether_bg import Aether, Backoff, DaprScheduler, JobContext, JobStatus, RunOutcome
from aether_bg.plugins.dapr.names import body_of, name_of
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio]

SOON = timedelta(seconds=0.5)
LATER = timedelta(hours=1)


class Log:
    """What the handler was called with, and when."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.at: list[datetime] = []

    def app(self, path: Path, **options: Any) -> Aether:
        app = Aether(path, **options)

        @app.handler("Work")
        async def work(word: str) -> None:
            self.seen.append(word)
            self.at.append(datetime.now(UTC))

        return app


async def held(dapr: DaprRuntime) -> set[str]:
    async with dapr_api(dapr.sidecar.grpc_port) as api:
        return {job.name for job in (await api.ListJobs(jobs_pb2.ListJobsRequest())).jobs}


async def armed(app: Aether, job_id: UUID) -> None:
    """Wait until Dapr holds what the row says."""
    with anyio.fail_after(10):
        while True:
            job = await app.store.get(job_id)
            if job is not None and job.armed_seq == job.seq:
                return
            await anyio.sleep(0.01)


async def test_dapr_is_chosen_under_a_sidecar(
    dapr: DaprRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = Log()
    app = log.app(tmp_path / "jobs.db")
    async with app:
        assert (await app.wait(await app.enqueue("Work", payload="now"), 10)).status is JobStatus.COMPLETED
        health = await app.health()
        assert health["ok"], health
    assert log.seen == ["now"]
    assert "DAPR_GRPC_PORT" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_one_shots_delays_and_a_unit_of_work(dapr: DaprRuntime, tmp_path: Path) -> None:
    log = Log()
    app = log.app(tmp_path / "jobs.db")
    async with app:
        begun = datetime.now(UTC)
        delayed = await app.enqueue("Work", payload="delayed", schedule=timedelta(seconds=1))
        async with app.unit_of_work():
            ids = [await app.enqueue("Work", payload=str(n)) for n in range(5)]
        for job_id in ids:
            await app.wait(job_id, 10)
        assert sorted(log.seen) == ["0", "1", "2", "3", "4"]
        await app.wait(delayed, 10)
        assert log.seen[-1] == "delayed"
        assert timedelta(seconds=1) <= log.at[-1] - begun < timedelta(seconds=3)
        with anyio.fail_after(5):
            while await held(dapr):
                await anyio.sleep(0.05)


async def test_recurring_jobs(dapr: DaprRuntime, tmp_path: Path) -> None:
    app = Log().app(tmp_path / "jobs.db")
    async with app:
        job_id = await app.enqueue("Work", "tick", "x", "@every 1s", repeats=3)
        job = await app.wait(job_id, 15)
        assert job.status is JobStatus.COMPLETED
        runs = await app.store.history(job_id)
        assert [run.outcome for run in runs] == [RunOutcome.COMPLETED] * 3
        occurrences = sorted(run.occurrence for run in runs if run.occurrence)
        assert occurrences[2] - occurrences[0] == timedelta(seconds=2)
        assert all(run.started_at and run.occurrence and run.started_at >= run.occurrence for run in runs)


async def test_retries_wait_out_their_backoff_whatever_dapr_redelivers(dapr: DaprRuntime, tmp_path: Path) -> None:
    app = Aether(tmp_path / "jobs.db")
    attempts: list[datetime] = []

    @app.handler("Flaky", retries=3, backoff=Backoff(first=0.5, factor=2, jitter=0))
    async def flaky(ctx: JobContext) -> None:
        attempts.append(datetime.now(UTC))
        if ctx.attempt < 3:
            raise RuntimeError("not yet")

    async with app, callback(dapr.sidecar.app_port) as sidecar:
        job_id = await app.enqueue("Flaky")
        await until(lambda: len(attempts) == 1)
        first = await app.store.get(job_id)
        assert first is not None
        store_id = (await app.store.stats()).store_id
        for seq in range(first.seq):  # old news, redelivered while the retry waits (PROTOCOL C1)
            old = attrs.evolve(first, seq=seq)
            body = any_pb2.Any(value=body_of(store_id, old))
            await sidecar.OnJobEvent(appcallback_pb2.JobEventRequest(name=name_of(store_id, job_id, seq), data=body))
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
    assert len(attempts) == 3
    assert attempts[1] - attempts[0] >= timedelta(seconds=0.5)
    assert attempts[2] - attempts[1] >= timedelta(seconds=1)


async def test_update_delete_and_what_dapr_holds_then(dapr: DaprRuntime, tmp_path: Path) -> None:
    log = Log()
    app = log.app(tmp_path / "jobs.db")
    async with app:
        moved = await app.enqueue("Work", "moved", "moved", LATER)
        gone = await app.enqueue("Work", "gone", "gone", timedelta(seconds=1.5))
        await armed(app, moved)
        await armed(app, gone)
        assert len(await held(dapr)) == 2
        assert await app.delete(gone)
        await app.update(moved, SOON)
        await app.wait(moved, 10)
        await anyio.sleep(1.5)
        assert log.seen == ["moved"]
        assert await held(dapr) == set()


async def test_pause_resume_and_trigger(dapr: DaprRuntime, tmp_path: Path) -> None:
    log = Log()
    app = log.app(tmp_path / "jobs.db", scheduler=DaprScheduler(reconcile=0.5))
    async with app:
        job_id = await app.enqueue("Work", "daily", "daily", "@daily")
        await armed(app, job_id)
        await app.trigger(job_id)
        await until(lambda: log.seen == ["daily"])
        await app.pause(job_id)
        with anyio.fail_after(5):
            while await held(dapr):
                await anyio.sleep(0.05)
        await app.trigger(job_id)  # works while paused, which stays (PROTOCOL U3)
        await until(lambda: log.seen == ["daily"] * 2)
        once = await app.enqueue("Work", "once", "once", SOON)
        await app.pause(once)
        await anyio.sleep(1)
        assert "once" not in log.seen
        await app.resume(once)
        await app.resume(job_id)
        await app.wait(once, 10)
        await armed(app, job_id)
        with anyio.fail_after(5):
            while len(await held(dapr)) != 1:
                await anyio.sleep(0.05)


async def test_a_restart_with_a_backlog(dapr: DaprRuntime, tmp_path: Path) -> None:
    log = Log()
    path = tmp_path / "jobs.db"
    async with log.app(path) as app:
        for n in range(30):
            await app.enqueue("Work", f"job-{n}", f"{n}", SOON)
    async with log.app(path).client() as client:  # nobody runs jobs now
        await client.enqueue("Work", "from a client", "30")
    await anyio.sleep(1)
    assert len(log.seen) < 31
    async with log.app(path) as app:
        await until(lambda: len(log.seen) >= 31, timeout=20)
        await anyio.sleep(1.2)
        assert (await app.store.stats()).completed == 31
    assert sorted(map(int, log.seen)) == list(range(31))


async def test_a_handler_that_takes_longer_than_its_period(dapr: DaprRuntime, tmp_path: Path) -> None:
    app = Aether(tmp_path / "jobs.db")
    busy = most = done = 0

    @app.handler("Slow", schedule="@every 1s")
    async def slow() -> None:
        nonlocal busy, most, done
        busy += 1
        most = max(most, busy)
        await anyio.sleep(1.3)
        busy -= 1
        done += 1

    async with app:
        await until(lambda: done >= 3, timeout=20)  # the chain does not break (PROTOCOL C3)
    assert most == 1


async def test_two_replicas_on_one_file(dapr: DaprRuntime, tmp_path: Path) -> None:
    one, two = Log(), Log()
    path = tmp_path / "jobs.db"
    replica = await anyio.to_thread.run_sync(dapr.replica)
    second = DaprScheduler(endpoint=f"127.0.0.1:{replica.grpc_port}", app_port=replica.app_port)
    async with one.app(path) as app, two.app(path, scheduler=second):
        await anyio.to_thread.run_sync(dapr.sidecar.wait_healthy)
        await anyio.to_thread.run_sync(replica.wait_healthy)
        for n in range(40):
            await app.enqueue("Work", payload=f"{n}")
        await until(lambda: len(one.seen) + len(two.seen) >= 40)
        await anyio.sleep(1.2)
    assert sorted(map(int, one.seen + two.seen)) == list(range(40))
    assert one.seen
    assert two.seen


async def test_a_fastapi_service(tmp_path: Path, need_dapr: None) -> None:
    log = Log()
    async with AsyncExitStack() as stack:
        dapr = await stack.enter_async_context(DaprRuntime(app_protocol="http", app_token="sesame"))
        scheduler = DaprScheduler(
            serve=False,
            endpoint=f"127.0.0.1:{dapr.sidecar.grpc_port}",
            app_token="sesame",
            app_port=dapr.sidecar.app_port,
        )
        jobs = log.app(tmp_path / "jobs.db", scheduler=scheduler)

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with jobs:
                yield

        api = FastAPI(lifespan=lifespan)

        @api.post("/orders/{order}")
        async def order(order: str) -> str:
            return str(await jobs.enqueue("Work", f"order-{order}", order))

        api.mount("/", scheduler.asgi)
        await stack.enter_async_context(served(api, dapr.sidecar.app_port))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{dapr.sidecar.app_port}") as http:
            job_id = UUID((await http.post("/orders/7")).json())
        assert (await jobs.wait(job_id, 10)).status is JobStatus.COMPLETED
        await anyio.to_thread.run_sync(dapr.sidecar.wait_healthy)
    assert log.seen == ["7"]
