"""What goes wrong around the plugin: the sidecar away, the scheduler killed or emptied, tokens, ports, protocols."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import grpc.aio  # type: ignore[import-untyped]
import pytest
from anyio import to_thread
from dapr.proto.runtime.v1 import appcallback_pb2, metadata_pb2
from dapr_standin import StandIn, callback, running, until

from aether_bg.errors import SchedulerMisconfigured
from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.testing.sidecar import DaprRuntime, free_ports

pytestmark = [pytest.mark.dapr, pytest.mark.anyio, pytest.mark.usefixtures("need_dapr")]


def plugin(dapr: DaprRuntime, **options: object) -> DaprScheduler:
    given = {"endpoint": f"127.0.0.1:{dapr.sidecar.grpc_port}", "app_port": dapr.sidecar.app_port} | options
    return DaprScheduler(**given)  # type: ignore[arg-type]


async def start(scheduler: DaprScheduler) -> None:
    async with AsyncExitStack() as stack:
        await scheduler.lifecycle_start(StandIn(), stack)


async def test_absent_at_the_start_and_there_later() -> None:
    kernel = StandIn()
    async with DaprRuntime(start_sidecar=False) as dapr:
        scheduler = plugin(dapr, wait=0.2)
        async with running(scheduler, kernel):
            assert "cannot be reached" in (scheduler.health or "")
            job = kernel.add()
            assert await scheduler.schedule_arm(job) is False
            await anyio.sleep(1.2)
            assert len(kernel.reports) == 1  # said once, however often it is met
            woken = kernel.woken
            await to_thread.run_sync(dapr.sidecar.start)
            await until(lambda: kernel.woken > woken)  # the outbox is called
            assert await scheduler.schedule_arm(job)
            await until(lambda: kernel.fired)
            assert all(
                trigger == kernel.fired[0][0] for trigger, _ in kernel.fired
            )  # the outbox and the reconcile may both have armed it
            assert scheduler.health is None


async def test_without_an_app_port_in_the_environment_the_sidecar_is_asked() -> None:
    kernel = StandIn()
    async with DaprRuntime() as dapr:
        scheduler = DaprScheduler(endpoint=f"127.0.0.1:{dapr.sidecar.grpc_port}")
        async with running(scheduler, kernel):
            assert await scheduler.schedule_arm(kernel.add())
            await until(lambda: kernel.fired)


async def test_the_scheduler_is_stopped_and_restarted(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler(deadline=1.5)
    async with running(scheduler, kernel):
        first = kernel.add(due_in=3)
        assert await scheduler.schedule_arm(first)
        await to_thread.run_sync(dapr.scheduler.stop)  # after a SIGKILL it would wait out a lease of 20 s
        second = kernel.add(due_in=1)
        assert await scheduler.schedule_arm(second) is False
        assert scheduler.health
        assert await scheduler.schedule_arm(second) is False  # at once: it is known to be away
        woken = kernel.woken
        await to_thread.run_sync(dapr.scheduler.start)
        await until(lambda: kernel.woken > woken, timeout=40)
        assert await scheduler.schedule_arm(second)
        # an arming that was reported as failed may have come through; then the second is delivered twice
        await until(lambda: len({trigger.job_id for trigger, _ in kernel.fired}) == 2, timeout=40)
        assert {trigger.job_id for trigger, _ in kernel.fired} == {first.id, second.id}
        assert len(kernel.reports) == 1
        assert scheduler.health is None


async def test_the_sidecar_is_killed_and_comes_back(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(), DaprScheduler()
    async with running(scheduler, kernel):
        job = kernel.add(due_in=1)
        assert await scheduler.schedule_arm(job)
        dapr.sidecar.kill()
        assert await scheduler.schedule_arm(kernel.add()) is False
        await to_thread.run_sync(dapr.sidecar.start)
        await until(lambda: kernel.fired, timeout=20)
        await until(lambda: scheduler.health is None)


async def test_tokens_both_ways() -> None:
    kernel = StandIn()
    async with DaprRuntime(app_token="from-dapr", api_token="to-dapr") as dapr:
        scheduler = plugin(dapr, app_token="from-dapr", api_token="to-dapr")
        async with running(scheduler, kernel):
            assert await scheduler.schedule_arm(kernel.add())
            await until(lambda: kernel.fired)
            await to_thread.run_sync(dapr.sidecar.wait_healthy)  # health probes carry no token
            async with callback(dapr.sidecar.app_port) as app:
                request = appcallback_pb2.JobEventRequest(name="x")
                for metadata in ((), (("dapr-api-token", "from-dapr "),), (("dapr-api-token", "wrong"),)):
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await app.OnJobEvent(request, metadata=metadata)
                    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
                both = (("dapr-api-token", "from-dapr"), ("dapr-api-token", "wrong"))
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await app.OnJobEvent(request, metadata=both)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert len(kernel.reports) == 1
            assert "APP_API_TOKEN" in kernel.reports[0]
        with pytest.raises(SchedulerMisconfigured, match="DAPR_API_TOKEN"):
            await start(plugin(dapr, app_token="from-dapr"))


async def test_a_sidecar_that_sends_no_token() -> None:
    kernel = StandIn()
    async with DaprRuntime() as dapr:
        scheduler = plugin(dapr, app_token="wanted")
        async with running(scheduler, kernel):
            assert await scheduler.schedule_arm(kernel.add())
            await until(lambda: len(kernel.reports) == 1)
            assert kernel.fired == []


@pytest.mark.parametrize(
    ("runtime", "options", "words"),
    [
        ({"app_port": 0}, {"app_port": None}, "--app-port 6000 --app-protocol grpc"),
        ({"app_protocol": "http"}, {}, "serve=False"),
        ({}, {"serve": False}, "--app-protocol http"),
        ({}, {"app_port": 6}, "--app-port 6 "),
    ],
)
async def test_a_sidecar_that_does_not_fit(runtime: dict[str, object], options: dict[str, object], words: str) -> None:
    async with DaprRuntime(**runtime) as dapr:  # type: ignore[arg-type]
        with pytest.raises(SchedulerMisconfigured, match=words):
            await start(plugin(dapr, **options))


async def test_a_sidecar_without_a_scheduler() -> None:
    kernel = StandIn()
    async with DaprRuntime() as dapr:
        lonely = dapr.sidecar
        lonely.stop()
        lonely._command = [word for word in lonely._command if "scheduler" not in word]
        await to_thread.run_sync(lonely.start)
        scheduler = plugin(dapr)
        async with running(scheduler, kernel):
            assert await scheduler.schedule_arm(kernel.add()) is False
            assert "has no scheduler" in (scheduler.health or "")
            assert len(kernel.reports) == 1


async def test_an_old_sidecar() -> None:
    """The only fake sidecar: an old version cannot be installed here."""

    async def metadata(request: bytes, context: object) -> metadata_pb2.GetMetadataResponse:
        return metadata_pb2.GetMetadataResponse(runtime_version="1.17.4")

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        metadata, response_serializer=metadata_pb2.GetMetadataResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("dapr.proto.runtime.v1.Dapr", {"GetMetadata": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(SchedulerMisconfigured, match=r"1\.17\.4.*older than 1\.18\.3"):
            await start(DaprScheduler(endpoint=f"127.0.0.1:{port}"))
    finally:
        await server.stop(None)


async def test_the_app_port_is_taken(dapr: DaprRuntime) -> None:
    kernel = StandIn()
    async with running(DaprScheduler(), kernel), AsyncExitStack() as stack:
        second = DaprScheduler()
        await second.lifecycle_start(kernel, stack)
        with pytest.raises(SchedulerMisconfigured, match="cannot be listened on"):
            await second.schedule_run(kernel)
        assert "cannot be listened on" in (second.health or "")


def test_free_ports_differ() -> None:
    assert len(set(free_ports(50))) == 50
