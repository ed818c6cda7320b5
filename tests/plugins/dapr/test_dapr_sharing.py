"""A sidecar that the app uses for other things as well: own gRPC callbacks, own HTTP routes, probes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import grpc.aio  # type: ignore[import-untyped]
import httpx
import pytest
from anyio import to_thread
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc, jobs_pb2
from dapr_http import served
from dapr_standin import StandIn, callback, dapr_api, running, until
from fastapi import FastAPI
from google.protobuf import any_pb2, empty_pb2  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from aether_bg.errors import SchedulerMisconfigured
from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.plugins.dapr.names import body_of, name_of
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio, pytest.mark.usefixtures("need_dapr")]


def plugin(dapr: DaprRuntime, **options: Any) -> DaprScheduler:
    given = {"endpoint": f"127.0.0.1:{dapr.sidecar.grpc_port}", "app_port": dapr.sidecar.app_port, "serve": False}
    return DaprScheduler(**given | options)


async def put_own_job(dapr: DaprRuntime, name: str) -> None:
    async with dapr_api(dapr.sidecar.grpc_port) as api:
        job = jobs_pb2.Job(name=name, due_time="0s", data=any_pb2.Any(value=b"mine"))
        await api.ScheduleJob(jobs_pb2.ScheduleJobRequest(job=job))


# -- gRPC ----------------------------------------------------------------------------------------


class Mine(appcallback_pb2_grpc.AppCallbackServicer):  # type: ignore[misc]
    """The app's own callbacks: a Dapr job of its own, and service invocation."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    async def OnJobEvent(self, request: Any, context: Any) -> Any:
        self.jobs.append(request.name)
        return appcallback_pb2.JobEventResponse()

    async def ListTopicSubscriptions(self, request: Any, context: Any) -> Any:
        return appcallback_pb2.ListTopicSubscriptionsResponse()

    async def ListInputBindings(self, request: Any, context: Any) -> Any:
        return appcallback_pb2.ListInputBindingsResponse(bindings=["mine"])


@pytest.mark.parametrize("token", [None, "sesame"])
async def test_handlers_in_a_server_of_the_app_s_own(token: str | None) -> None:
    kernel, mine = StandIn(), Mine()
    async with AsyncExitStack() as stack:
        dapr = await stack.enter_async_context(DaprRuntime(app_token=token))
        scheduler = plugin(dapr, app_token=token)
        server = grpc.aio.server()
        appcallback_pb2_grpc.add_AppCallbackServicer_to_server(mine, server)  # type: ignore[no-untyped-call]
        scheduler.add_to_server(server, mine.OnJobEvent)
        server.add_insecure_port(f"127.0.0.1:{dapr.sidecar.app_port}")
        await server.start()
        stack.push_async_callback(server.stop, 0.5)
        await stack.enter_async_context(running(scheduler, kernel))
        await to_thread.run_sync(dapr.sidecar.wait_healthy)
        row = kernel.add()
        assert await scheduler.schedule_arm(row)
        await put_own_job(dapr, "my-job")
        await until(lambda: kernel.fired and mine.jobs == ["my-job"])
        async with callback(dapr.sidecar.app_port) as app:
            assert list((await app.ListInputBindings(empty_pb2.Empty())).bindings) == ["mine"]
            data = any_pb2.Any(value=body_of(kernel.store_id, row))
            forged = appcallback_pb2.JobEventRequest(name=name_of(kernel.store_id, row.id, 0), data=data)
            if token is not None:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await app.OnJobEvent(forged)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert scheduler.health is None


async def test_a_grpc_sidecar_without_handlers_to_call() -> None:
    async with DaprRuntime() as dapr, AsyncExitStack() as stack:
        with pytest.raises(SchedulerMisconfigured, match="add_to_server"):
            await plugin(dapr).lifecycle_start(StandIn(), stack)


@pytest.mark.parametrize("token", [None, "sesame"])
async def test_probes_by_grpc_health_v1(dapr: DaprRuntime, token: str | None) -> None:
    """As a kubelet asks: without a token, about the server as a whole."""
    kernel = StandIn()
    scheduler = plugin(dapr, serve=True, app_token=token)
    address = f"127.0.0.1:{dapr.sidecar.app_port}"
    async with running(scheduler, kernel), grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        service = b"dapr.proto.runtime.v1.AppCallback"
        assert await check(bytes((0x0A, len(service))) + service) == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await check(b"\x0a\x05other")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watch.read() == b"\x08\x01"
        scheduler._door.close()
        assert await watch.read() == b"\x08\x02"
        assert await check(b"") == b"\x08\x02"
        watch.cancel()
    assert kernel.reports == []


# -- HTTP ----------------------------------------------------------------------------------------


def mount_after(api: FastAPI, scheduler: DaprScheduler) -> None:
    own_routes(api)
    api.mount("/job", scheduler.asgi)
    api.add_route("/healthz", scheduler.asgi.health)


def mount_before(api: FastAPI, scheduler: DaprScheduler) -> None:
    api.mount("/job", scheduler.asgi)
    api.add_route("/healthz", scheduler.asgi.health)
    own_routes(api, jobs=False)


def middleware(api: FastAPI, scheduler: DaprScheduler) -> None:
    api.add_middleware(scheduler.asgi.wrapping)
    own_routes(api)


def routes(api: FastAPI, scheduler: DaprScheduler) -> None:
    own_routes(api)
    api.add_route("/job/{name}", scheduler.asgi, methods=["POST"])
    api.add_route("/healthz", scheduler.asgi.health, methods=["GET"])


def own_routes(api: FastAPI, jobs: bool = True) -> None:
    api.state.own = []

    @api.get("/hello")
    async def hello() -> str:
        return "world"

    if jobs:

        @api.post("/job/my-job")
        async def my_job() -> None:
            api.state.own.append("my-job")


@pytest.mark.parametrize("arrange", [mount_after, mount_before, middleware, routes])
@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")  # newer ones: it is still in use
async def test_own_routes_beside_the_triggers(
    arrange: Callable[[FastAPI, DaprScheduler], None], root_path: str
) -> None:
    """With app health checks on: without a good answer to them nothing at all would be delivered."""
    kernel = StandIn()
    async with AsyncExitStack() as stack:
        dapr = await stack.enter_async_context(DaprRuntime(app_protocol="http"))
        scheduler = plugin(dapr)

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with running(scheduler, kernel):
                yield

        api = FastAPI(lifespan=lifespan, root_path=root_path)
        arrange(api, scheduler)
        await stack.enter_async_context(served(api, dapr.sidecar.app_port))
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired, 20)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{dapr.sidecar.app_port}") as http:
            assert (await http.get("/hello")).json() == "world"
        if arrange is not mount_before:
            await put_own_job(dapr, "my-job")
            await until(lambda: api.state.own == ["my-job"])
        await anyio.sleep(1.3)
        assert len(kernel.fired) == 1


async def test_starlette_under_a_root_path_of_the_server() -> None:
    """`uvicorn --root-path`, and a mount within a mount."""
    kernel = StandIn()
    async with AsyncExitStack() as stack:
        dapr = await stack.enter_async_context(DaprRuntime(app_protocol="http"))
        scheduler = plugin(dapr)

        async def hello(_: object) -> PlainTextResponse:
            return PlainTextResponse("world")

        inner = Starlette(routes=[Route("/hello", hello), Mount("/", scheduler.asgi)])
        api = Starlette(routes=[Route("/healthz", scheduler.asgi.health), Mount("/", inner)])
        await stack.enter_async_context(served(api, dapr.sidecar.app_port, root_path="/behind/a/proxy"))
        await stack.enter_async_context(running(scheduler, kernel))
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired, 20)
