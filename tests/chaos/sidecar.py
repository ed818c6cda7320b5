"""The other side of the wire: what a sidecar says to an app, and what a program may ask of a sidecar."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest

from aether_bg import Aether, JobInfo
from aether_bg.model import Query
from aether_bg.plugins.dapr.names import body_of, name_of
from aether_bg.testing.sidecar import SidecarProcess

aio = pytest.importorskip("grpc.aio", reason="rows under Dapr need the extra: pip install 'aether-bg[dapr,test]'")

from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc, dapr_pb2_grpc, jobs_pb2  # noqa: E402
from google.protobuf import any_pb2  # type: ignore[import-untyped]  # noqa: E402

REDELIVER = 1.0
"""Seconds after which Dapr delivers again what was not taken."""


def beside(sidecar: SidecarProcess, fallback: float | None = None) -> dict[str, Any]:
    """The options of a `DaprScheduler` whose app stands beside this sidecar."""
    return {"endpoint": f"127.0.0.1:{sidecar.grpc_port}", "app_port": sidecar.app_port, "fallback": fallback}


def trigger(store_id: UUID, job: JobInfo, seq: int, occurrence: datetime | None = None) -> Any:
    """As Dapr sends it."""
    told = attrs.evolve(job, seq=seq, occurrence=occurrence or job.occurrence or job.due_at)
    data = any_pb2.Any(value=body_of(store_id, told))
    return appcallback_pb2.JobEventRequest(name=name_of(store_id, job.id, seq), data=data)


class Trigger:
    """Delivers triggers to an app, as its sidecar does."""

    def __init__(self, channel: Any) -> None:
        self._stub: Any = appcallback_pb2_grpc.AppCallbackStub(channel)  # type: ignore[no-untyped-call]

    async def __call__(self, request: Any) -> None:
        """Raises unless the trigger is consumed."""
        await self._stub.OnJobEvent(request)


class Engine:
    """A sidecar, as any program may use it."""

    def __init__(self, channel: Any) -> None:
        self._stub: Any = dapr_pb2_grpc.DaprStub(channel)  # type: ignore[no-untyped-call]

    async def hold(self, request: Any) -> None:
        """Have Dapr itself deliver this trigger, now."""
        job = jobs_pb2.Job(name=request.name, due_time="0s", data=request.data)
        await self._stub.ScheduleJob(jobs_pb2.ScheduleJobRequest(job=job, overwrite=True))

    async def names(self) -> set[str]:
        return {job.name for job in (await self._stub.ListJobs(jobs_pb2.ListJobsRequest())).jobs}


@asynccontextmanager
async def door_of(sidecar: SidecarProcess) -> AsyncIterator[Trigger]:
    async with aio.insecure_channel(f"127.0.0.1:{sidecar.app_port}") as channel:
        yield Trigger(channel)


@asynccontextmanager
async def engine_of(sidecar: SidecarProcess) -> AsyncIterator[Engine]:
    async with aio.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
        yield Engine(channel)


async def until(condition: Callable[[], Any], timeout: float = 30.0) -> None:
    with anyio.fail_after(timeout):
        while not condition():
            await anyio.sleep(0.01)


async def all_armed(app: Aether) -> None:
    with anyio.fail_after(30):
        while await app.store.find(Query(unarmed=True)):
            await anyio.sleep(0.02)
