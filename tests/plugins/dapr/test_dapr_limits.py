"""Errors that are no outage: more jobs than one message can list, and a scheduler that can be read but not written."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from anyio import to_thread
from dapr.proto.runtime.v1 import jobs_pb2
from dapr_standin import StandIn, dapr_api, running, until
from google.protobuf import any_pb2  # type: ignore[import-untyped]

from aether_bg.model import JobInfo, JobStatus
from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.plugins.dapr.names import name_of
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio, pytest.mark.usefixtures("need_dapr")]


@pytest.fixture
def dapr() -> Iterator[DaprRuntime]:
    """A pair whose longest message is 16 KiB: some 60 of our jobs."""
    with DaprRuntime(start_sidecar=False) as pair:
        pair.sidecar._command.append("--max-body-size=16Ki")
        pair.sidecar.start()
        yield pair


def scheduler_of(dapr: DaprRuntime, **options: object) -> DaprScheduler:
    given = {"endpoint": f"127.0.0.1:{dapr.sidecar.grpc_port}", "app_port": dapr.sidecar.app_port} | options
    return DaprScheduler(**given)  # type: ignore[arg-type]


async def put(dapr: DaprRuntime, name: str, body: bytes = b"") -> bool:
    """Whether Dapr has taken it."""
    async with dapr_api(dapr.sidecar.grpc_port) as api:
        job = jobs_pb2.Job(name=name, due_time="1h", data=any_pb2.Any(value=body))
        try:
            await api.ScheduleJob(jobs_pb2.ScheduleJobRequest(job=job, overwrite=True))
        except Exception as error:
            if "space exceeded" not in str(error):
                raise
            return False
        return True


async def holds(dapr: DaprRuntime, kernel: StandIn, row: JobInfo, seq: int) -> bool:
    async with dapr_api(dapr.sidecar.grpc_port) as api:
        try:
            await api.GetJob(jobs_pb2.GetJobRequest(name=name_of(kernel.store_id, row.id, seq)))
        except Exception as error:
            if "not found" not in str(error):
                raise
            return False
        return True


async def test_more_jobs_than_dapr_can_list(dapr: DaprRuntime, caplog: pytest.LogCaptureFixture) -> None:
    """Said once with its remedy, no outage, and the comparison does its work all the same."""
    caplog.set_level("INFO", "aether_bg.dapr")
    kernel, scheduler = StandIn(), scheduler_of(dapr, reconcile=0.3)
    held = [kernel.add(due_in=3600, armed_seq=0) for _ in range(150)]
    lost = [kernel.add(due_in=3600, seq=2, armed_seq=2) for _ in range(3)]
    moved = kernel.add(seq=4, armed_seq=2, status=JobStatus.CANCELLED, due_at=None)
    paused = kernel.add(due_in=3600, seq=1, armed_seq=1, paused=True)
    for row, seq in [*((row, 0) for row in held), (moved, 2), (paused, 1)]:
        assert await put(dapr, name_of(kernel.store_id, row.id, seq), b"x" * 150)
    async with running(scheduler, kernel):
        with anyio.fail_after(20):
            for row in lost:
                while not await holds(dapr, kernel, row, 2):
                    await anyio.sleep(0.05)
            while await holds(dapr, kernel, moved, 2) or await holds(dapr, kernel, paused, 1):
                await anyio.sleep(0.05)
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired)
        await anyio.sleep(2)  # several comparisons more
        assert scheduler.health is None
        assert len(kernel.reports) == 1
        assert "dapr.io/max-body-size" in kernel.reports[0]
        assert "--max-body-size" in kernel.reports[0]
        assert "max-body-size" in (scheduler.notice or "")
        for row in held[:5]:
            assert await holds(dapr, kernel, row, 0)
    assert "are back" not in caplog.text


async def test_a_scheduler_whose_database_is_full(caplog: pytest.LogCaptureFixture) -> None:
    """It answers every read. It is back when it has taken a job."""
    caplog.set_level("INFO", "aether_bg.dapr")
    with DaprRuntime(start_sidecar=False) as dapr:
        dapr.scheduler.wipe()
        dapr.scheduler._command.append("--etcd-space-quota=4Mi")
        await to_thread.run_sync(dapr.scheduler.start)
        await to_thread.run_sync(dapr.sidecar.start)
        kernel, scheduler = StandIn(), scheduler_of(dapr)
        async with running(scheduler, kernel):
            number = 0
            while await put(dapr, f"filling-{number}", b"x" * 20_000):
                number += 1
            job = kernel.add()
            assert await scheduler.schedule_arm(job) is False
            for _ in range(10):  # however often it is asked, and whatever can be read
                await anyio.sleep(0.3)
                assert await scheduler.schedule_arm(job) is False
                assert "full" in (scheduler.health or "")
            assert len(kernel.reports) == 1
            assert "are back" not in caplog.text
            await to_thread.run_sync(dapr.scheduler.wipe)
            await to_thread.run_sync(dapr.scheduler.start)
            with anyio.fail_after(60):
                while not await scheduler.schedule_arm(job):
                    await anyio.sleep(0.2)
            await until(lambda: len(kernel.fired) >= 1)
            assert scheduler.health is None
            assert caplog.text.count("are back") == 1


async def test_wiped_data_are_noticed_at_the_next_ping() -> None:
    """The scheduler is back at once, and nothing but a missing job tells of it."""
    async with DaprRuntime() as dapr:
        kernel, scheduler = StandIn(), scheduler_of(dapr, reconcile=3600)
        async with running(scheduler, kernel):
            rows = [kernel.add(due_in=3600) for _ in range(3)]
            for row in rows:
                assert await scheduler.schedule_arm(row)
                kernel.change(row, armed_seq=0)
            await anyio.sleep(0.5)
            await to_thread.run_sync(dapr.scheduler.wipe)
            await to_thread.run_sync(dapr.scheduler.start)
            with anyio.fail_after(20):
                for row in rows:
                    while not await holds(dapr, kernel, row, 0):
                        await anyio.sleep(0.1)
