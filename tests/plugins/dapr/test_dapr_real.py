"""The plugin against a real sidecar and scheduler, with a stand-in for the kernel."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import anyio
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, jobs_pb2
from dapr_standin import StandIn, callback, dapr_api, running, until
from google.protobuf import any_pb2  # type: ignore[import-untyped]

from aether_bg.errors import StoreBusy
from aether_bg.model import Fired, JobStatus
from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.plugins.dapr.names import body_of, name_of
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio]


async def names(dapr: DaprRuntime) -> set[str]:
    async with dapr_api(dapr.sidecar.grpc_port) as api:
        return {job.name for job in (await api.ListJobs(jobs_pb2.ListJobsRequest())).jobs}


async def put(dapr: DaprRuntime, name: str, body: bytes = b"", due: str = "1h") -> None:
    async with dapr_api(dapr.sidecar.grpc_port) as api:
        job = jobs_pb2.Job(name=name, due_time=due, data=any_pb2.Any(value=body))
        await api.ScheduleJob(jobs_pb2.ScheduleJobRequest(job=job))


async def test_a_due_job_is_fired_once_and_forgotten(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler()
    async with running(scheduler, kernel):
        job = kernel.add(due_in=1)
        assert await scheduler.schedule_arm(job)
        assert await names(dapr) == {name_of(kernel.store_id, job.id, 0)}
        await until(lambda: bool(kernel.fired))
        trigger, when = kernel.fired[0]
        assert (trigger.store_id, trigger.job_id, trigger.seq) == (kernel.store_id, job.id, 0)
        assert trigger.occurrence == job.occurrence
        assert job.due_at is not None
        assert 0 <= (when - job.due_at).total_seconds() < 1
        await anyio.sleep(1.3)  # longer than the time after which Dapr delivers again
        assert len(kernel.fired) == 1
        assert await names(dapr) == set()
        assert scheduler.health is None
        assert kernel.reports == []


async def test_what_cannot_be_taken_comes_again_until_it_is(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler()
    busy = StoreBusy("database", "is held by another program")
    kernel.answers = [Fired.RETRY, busy, Fired.CLAIMED]
    async with running(scheduler, kernel):
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: len(kernel.fired) == 3)
        assert len({trigger for trigger, _ in kernel.fired}) == 1
        assert kernel.reports == [str(busy)]
        await until_names(dapr, set())


async def until_names(dapr: DaprRuntime, wanted: set[str]) -> None:
    with anyio.fail_after(5):
        while await names(dapr) != wanted:
            await anyio.sleep(0.05)


async def test_stale_news_is_consumed(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler()
    kernel.answers = [Fired.CONSUMED]
    async with running(scheduler, kernel):
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired)
        await until_names(dapr, set())


async def test_a_new_seq_replaces_the_armed_one_and_a_paused_row_is_forgotten(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler()
    async with running(scheduler, kernel):
        job = kernel.add(due_in=3600)
        assert await scheduler.schedule_arm(job)
        job = kernel.change(job, seq=1, armed_seq=0)
        assert await scheduler.schedule_arm(job)
        assert await names(dapr) == {name_of(kernel.store_id, job.id, 1)}
        paused = kernel.change(job, seq=2, armed_seq=1, paused=True)
        assert await scheduler.schedule_arm(paused)
        assert await names(dapr) == set()
        manual = kernel.change(job, seq=3, armed_seq=-1, manual=True)
        assert await scheduler.schedule_arm(manual)
        assert await names(dapr) == {name_of(kernel.store_id, job.id, 3)}
        gone = kernel.change(job, seq=4, armed_seq=3, status=JobStatus.CANCELLED, due_at=None)
        assert await scheduler.schedule_arm(gone)
        assert await names(dapr) == set()


async def test_reconcile_deletes_what_is_stale_arms_what_is_missing_and_leaves_the_rest(dapr: DaprRuntime) -> None:
    kernel, other = StandIn(), uuid4()
    moved = kernel.add(due_in=3600, seq=5, armed_seq=5)
    lost = [kernel.add(due_in=3600 - n, seq=2, armed_seq=2) for n in range(3)]
    unarmed = kernel.add(due_in=3600)
    paused = kernel.add(due_in=3600, seq=1, armed_seq=1, paused=True)
    done = kernel.add(seq=3, armed_seq=2, status=JobStatus.COMPLETED, due_at=None)
    store = kernel.store_id
    keep = {name_of(store, moved.id, 5), name_of(other, uuid4(), 1), "aether.mine", "somebody's job"}
    stale = {name_of(store, moved.id, 4), name_of(store, uuid4(), 1), name_of(store, done.id, 2)}
    stale.add(name_of(store, paused.id, 1))
    for name in keep | stale:
        await put(dapr, name)
    async with running(DaprScheduler(), kernel):
        await until_names(dapr, keep | {name_of(store, row.id, 2) for row in lost})
        assert name_of(store, unarmed.id, 0) not in await names(dapr)  # the outbox's business


async def test_reconcile_comes_periodically(dapr: DaprRuntime) -> None:
    kernel = StandIn()
    async with running(DaprScheduler(reconcile=0.2), kernel):
        await put(dapr, name_of(kernel.store_id, uuid4(), 1))
        await until_names(dapr, set())


async def test_trouble_of_the_store_does_not_stop_the_triggers(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler(reconcile=0.2)
    kernel.broken = [StoreBusy("database", "is held by another program")]
    async with running(scheduler, kernel):
        await put(dapr, name_of(kernel.store_id, uuid4(), 1))
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired)
        await until_names(dapr, set())  # compared again
        assert len(kernel.reports) == 1


async def test_triggers_that_are_not_ours(dapr: DaprRuntime) -> None:
    kernel = StandIn()
    row = kernel.add(seq=7)
    name = name_of(kernel.store_id, row.id, 7)
    async with running(DaprScheduler(reconcile=3600), kernel):
        await anyio.sleep(0.2)  # past the first comparison
        await put(dapr, "somebody's job", due="0s")
        await put(dapr, name, b'{"forged": "\x00"}', due="0s")
        await until(lambda: len(kernel.reports) > 0)
        await until_names(dapr, {"somebody's job"})  # the broken one is consumed; the other's keeps coming
        assert kernel.fired == []
        assert len(kernel.reports) == 1


async def test_both_names_of_the_callback_and_one_that_is_too_long(dapr: DaprRuntime) -> None:
    kernel = StandIn()
    row = kernel.add()
    name, body = name_of(kernel.store_id, row.id, 0), body_of(kernel.store_id, row)
    request = appcallback_pb2.JobEventRequest(name=name, data=any_pb2.Any(value=body), method=f"job/{name}")
    async with running(DaprScheduler(), kernel):
        async with callback(dapr.sidecar.app_port) as app:
            await app.OnJobEvent(request)
            kernel.answers = [Fired.RETRY]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await app.OnJobEvent(request)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            huge = appcallback_pb2.JobEventRequest(name=name, data=any_pb2.Any(value=b" " * 100_000))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await app.OnJobEvent(huge)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with callback(dapr.sidecar.app_port, alpha=True) as app:
            await app.OnJobEventAlpha1(request)
    assert [trigger.seq for trigger, _ in kernel.fired] == [0, 0, 0]


async def test_a_cancelled_callback_is_redelivered(dapr: DaprRuntime) -> None:
    """Dapr cancels callbacks when its streams reconnect; a sidecar's end is the rudest case."""
    kernel, scheduler = StandIn(), DaprScheduler()

    async def first_hangs(_: object) -> None:
        if len(kernel.fired) == 1:
            await anyio.sleep_forever()

    kernel.on_fire = first_hangs
    async with running(scheduler, kernel):
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired)
        dapr.sidecar.kill()
        await anyio.to_thread.run_sync(dapr.sidecar.start)
        await until(lambda: len(kernel.fired) >= 2, timeout=20)


async def test_two_replicas_share_the_triggers(dapr: DaprRuntime) -> None:
    one, two = StandIn(), StandIn()
    two.store_id, two.rows = one.store_id, one.rows
    replica = await anyio.to_thread.run_sync(dapr.replica)
    first = DaprScheduler()
    second = DaprScheduler(endpoint=f"127.0.0.1:{replica.grpc_port}", app_port=replica.app_port)
    async with running(first, one), running(second, two):
        await anyio.to_thread.run_sync(replica.wait_healthy)
        for _ in range(20):
            assert await first.schedule_arm(one.add())
        # one that is answered late is delivered again
        await until(lambda: len({trigger.job_id for trigger, _ in one.fired + two.fired}) == 20)
        assert one.fired
        assert two.fired


async def test_a_job_far_away_and_one_long_past(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler()
    async with running(scheduler, kernel):
        far = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
        assert await scheduler.schedule_arm(kernel.add(due_at=far, occurrence=far))
        past = datetime(1970, 1, 1, tzinfo=UTC)
        assert await scheduler.schedule_arm(kernel.add(due_at=past, occurrence=past))
        await until(lambda: kernel.fired)
        assert kernel.fired[0][0].occurrence == past
