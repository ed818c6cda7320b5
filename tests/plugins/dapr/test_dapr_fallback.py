"""Dapr away, or there and silent: what runs, what `health` and `explain` say, and the way back."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from dapr_http import served
from dapr_standin import until
from fastapi import FastAPI

from aether_bg import Aether, DaprScheduler
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio, pytest.mark.usefixtures("need_dapr")]


class Service:
    """An app beside a pair. `runs`: how often each job has run."""

    def __init__(self, path: Path, dapr: DaprRuntime, **options: Any) -> None:
        given = {"endpoint": f"127.0.0.1:{dapr.sidecar.grpc_port}", "app_port": dapr.sidecar.app_port, "wait": 0.5}
        self.scheduler = DaprScheduler(**given | options)
        self.app = Aether(path / "jobs.db", scheduler=self.scheduler)
        self.runs: Counter[str] = Counter()

        @self.app.handler("Work")
        async def work(word: str) -> None:
            self.runs[word] += 1

    async def put(self, *words: str) -> None:
        for word in words:
            await self.app.enqueue("Work", word, word)

    async def ok(self, within: float = 20) -> None:
        with anyio.fail_after(within):
            while not (await self.app.health())["ok"]:
                await anyio.sleep(0.1)

    async def problem(self, part: str, words: str = "", within: float = 30) -> str:
        """What health says of `part`, once it says so with these words."""
        with anyio.fail_after(within):
            while True:
                health = await self.app.health()
                if words in (said := str(health["problems"].get(part, ""))) and said:
                    assert not health["ok"]
                    return said
                await anyio.sleep(0.1)


async def test_the_fallback_runs_while_the_sidecar_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aether_bg")
    async with DaprRuntime() as dapr:
        service = Service(tmp_path, dapr, fallback=1.0, reconcile=1)
        async with service.app:
            await service.put("before")
            await until(lambda: service.runs["before"] == 1)
            dapr.sidecar.kill()
            await service.put("a", "b", "c")
            await until(lambda: len(service.runs) == 4, 20)
            assert "claims due jobs itself" in await service.problem("scheduler")
            await service.put("d")  # and from now on at once, as the timer does
            await until(lambda: service.runs["d"] == 1, 2)
            await to_thread.run_sync(dapr.sidecar.start)
            await service.ok()
            await until(lambda: "Dapr brings jobs again" in caplog.text)
            came = service.scheduler._door.came
            await service.put("after")
            await until(lambda: service.runs["after"] == 1, 20)
            assert service.scheduler._door.came > came
            await anyio.sleep(1.5)  # long enough for a redelivery
    assert set(service.runs.values()) == {1}
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2, warnings  # away, and the fallback


async def test_no_sidecar_at_all_is_stood_in_for(tmp_path: Path) -> None:
    async with DaprRuntime(start_sidecar=False) as dapr:
        service = Service(tmp_path, dapr, fallback=1.0, app_port=None)
        async with service.app:
            await service.put("a", "b")
            await until(lambda: len(service.runs) == 2, 20)


async def test_a_taken_app_port_is_reported_once_and_the_fallback_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with DaprRuntime() as dapr:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=dapr.sidecar.app_port)
        async with listener:
            service = Service(tmp_path, dapr, fallback=1.0)
            async with service.app:
                await service.put("a")
                await until(lambda: service.runs["a"] == 1, 20)
                said = await service.problem("scheduler")
                assert "APP_PORT" in said
                assert 'scheduler="timer"' in said
                await anyio.sleep(3)  # several tries
                assert len([record for record in caplog.records if "cannot be listened on" in record.message]) == 1
                await listener.aclose()
                await service.ok()


def without_a_mount(service: Service) -> FastAPI:
    return FastAPI()


def mounted_elsewhere(service: Service) -> FastAPI:
    api = FastAPI()
    api.mount("/", service.scheduler.asgi)

    @api.middleware("http")
    async def renames(request: Any, call_next: Any) -> Any:
        request.scope["path"] = "/elsewhere"
        return await call_next(request)

    return api


@pytest.mark.parametrize(
    ("make", "cause"), [(without_a_mount, "no trigger since the start"), (mounted_elsewhere, "with 404")]
)
async def test_an_http_app_that_takes_no_triggers(tmp_path: Path, make: Any, cause: str) -> None:
    async with AsyncExitStack() as stack:
        dapr = await stack.enter_async_context(DaprRuntime(app_protocol="http", app_health=False))
        service = Service(tmp_path, dapr, serve=False, fallback=2.0)
        await stack.enter_async_context(served(make(service), dapr.sidecar.app_port))
        await stack.enter_async_context(service.app)
        await service.put("a")
        await until(lambda: service.runs["a"] == 1, 20)
        assert cause in await service.problem("scheduler")
        await anyio.sleep(1)
        assert not (await service.app.health())["ok"]  # nothing has come yet: it does not heal by itself


async def test_triggers_that_are_refused_for_their_token(tmp_path: Path) -> None:
    """Without a fallback nothing runs: not ok from ten seconds on, for as long as it lasts, with its cause."""
    async with DaprRuntime() as dapr:
        service = Service(tmp_path, dapr, fallback=None, app_token="wanted")
        async with service.app as app:
            await service.put("a", "b")
            said = await service.problem("overdue", "2 jobs are overdue")
            assert "refused" in said
            assert "APP_API_TOKEN" in said
            assert "refused" in await app.explain("a")
            service.scheduler._door._token = None  # as if the sidecar had got the token
            await until(lambda: len(service.runs) == 2, 20)
            await service.ok()


async def test_away_without_a_fallback(tmp_path: Path) -> None:
    async with DaprRuntime() as dapr:
        service = Service(tmp_path, dapr, fallback=None)
        async with service.app as app:
            dapr.sidecar.kill()
            await service.put("a")
            said = await service.problem("overdue")
            assert "cannot be reached" in said
            assert "Away since" in said
            assert "cannot be reached" in await app.explain("a")
            assert not service.runs
            await to_thread.run_sync(dapr.sidecar.start)
            await until(lambda: service.runs["a"] == 1, 40)
            await service.ok()
