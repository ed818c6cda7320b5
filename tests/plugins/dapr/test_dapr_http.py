"""daprd with `--app-protocol http`, a FastAPI app under uvicorn, the trigger route mounted in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import httpx
import pytest
from dapr_http import served
from dapr_standin import StandIn, running, until
from fastapi import FastAPI

from aether_bg.model import Fired
from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio, pytest.mark.usefixtures("need_dapr")]


@pytest.mark.parametrize("mount", ["/", "/job"])
async def test_triggers_over_http(mount: str) -> None:
    kernel = StandIn()
    kernel.answers = [Fired.RETRY, Fired.CLAIMED]
    async with AsyncExitStack() as stack:
        dapr = await stack.enter_async_context(DaprRuntime(app_protocol="http", app_token="sesame", app_health=False))
        scheduler = DaprScheduler(
            serve=False,
            endpoint=f"127.0.0.1:{dapr.sidecar.grpc_port}",
            app_port=dapr.sidecar.app_port,
            app_token="sesame",
        )

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with running(scheduler, kernel):
                yield

        api = FastAPI(lifespan=lifespan)

        @api.get("/hello")
        async def hello() -> str:
            return "world"

        api.mount(mount, scheduler.asgi)
        await stack.enter_async_context(served(api, dapr.sidecar.app_port))
        job = kernel.add()
        assert await scheduler.schedule_arm(job)
        await until(lambda: len(kernel.fired) >= 2)  # 503: once more, 200: done
        await anyio.sleep(1.3)
        done = len(kernel.fired)  # arming and reconcile may both have delivered
        assert done in (2, 3)
        assert {trigger.job_id for trigger, _ in kernel.fired} == {job.id}
        await anyio.sleep(1.3)
        assert len(kernel.fired) == done
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{dapr.sidecar.app_port}") as http:
            assert (await http.get("/hello")).json() == "world"
            assert (await http.post("/job/x")).status_code == 401
