"""The whole: an app, a SQLite file, a real sidecar and scheduler. What any scheduler must do is in tests/app."""

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

from aether_bg import Aether, Backoff, DaprScheduler, JobContext, JobStatus
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
        for seq in range(first.seq):  # old news, redelivered while the retry waits (docs/protocol.md, C1)
            old = attrs.evolve(first, seq=seq)
            body = any_pb2.Any(value=body_of(store_id, old))
            await sidecar.OnJobEvent(appcallback_pb2.JobEventRequest(name=name_of(store_id, job_id, seq), data=body))
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
    assert len(attempts) == 3
    assert attempts[1] - attempts[0] >= timedelta(seconds=0.5)
    assert attempts[2] - attempts[1] >= timedelta(seconds=1)


async def only_held(dapr: DaprRuntime, count: int) -> None:
    with anyio.fail_after(10):
        while len(await held(dapr)) != count:
            await anyio.sleep(0.05)


async def test_what_dapr_holds(dapr: DaprRuntime, tmp_path: Path) -> None:
    """What waits and is not paused, nothing else."""
    log = Log()
    app = log.app(tmp_path / "jobs.db")
    async with app:
        moved = await app.enqueue("Work", "moved", "moved", LATER)
        gone = await app.enqueue("Work", "gone", "gone", LATER)
        daily = await app.enqueue("Work", "daily", "daily", "@daily")
        for job in (moved, gone, daily):
            await armed(app, job)
        await only_held(dapr, 3)
        await app.delete(gone)
        await only_held(dapr, 2)
        await app.update(moved, SOON)
        await app.wait(moved, 10)
        await only_held(dapr, 1)
        await app.pause(daily)
        await only_held(dapr, 0)
        await app.trigger(daily)  # works while paused, which stays (docs/protocol.md, U3)
        await until(lambda: log.seen == ["moved", "daily"])
        await only_held(dapr, 0)
        await app.resume(daily)
        await armed(app, daily)
        await only_held(dapr, 1)


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
