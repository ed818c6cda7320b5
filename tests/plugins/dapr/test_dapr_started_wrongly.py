"""What can be wrong around a start: each is one line, which names the variable and the way without Dapr."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from dapr_standin import StandIn, WallClock, running, until

from aether_bg import Aether, DaprScheduler, InvalidOption, SchedulerMisconfigured
from aether_bg.testing.sidecar import DaprRuntime, free_ports

pytestmark = [pytest.mark.anyio]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def one_line(text: str, *words: str) -> None:
    assert "\n" not in text
    for word in words:
        assert word in text, text


class TestAClient:
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.mark.parametrize("options", [{}, {"required": True}, {"wait": 30.0}, {"app_port": 1}])
    async def test_a_client_needs_no_sidecar(
        self, tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """It takes no triggers and arms nothing: it neither waits for one nor looks at it."""
        scheduler = DaprScheduler(endpoint=f"127.0.0.1:{free_ports(1)[0]}", **options)
        app = Aether(tmp_path / "jobs.db", scheduler=scheduler)
        app.handler("Work")(lambda: None)
        with anyio.fail_after(3):
            async with app.client() as jobs:
                job = await jobs.store.get(await jobs.enqueue("Work"))
        assert job is not None
        assert not warned(caplog)


@pytest.mark.parametrize("variable", ["DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT"])
async def test_a_stale_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    port = str(free_ports(1)[0])
    monkeypatch.setenv(variable, port if variable.endswith("PORT") else f"127.0.0.1:{port}")
    app = Aether(tmp_path / "jobs.db", scheduler=DaprScheduler(wait=0.3, app_port=free_ports(1)[0]))
    async with app:
        health = await app.health()
        await anyio.sleep(3)
    (line,) = warned(caplog)
    one_line(line, variable, 'scheduler="timer"', "cannot be reached")
    assert variable in health["problems"]["scheduler"]
    required = Aether(tmp_path / "other.db", scheduler=DaprScheduler(wait=0.3, required=True))
    with pytest.raises(Exception, match=variable):
        async with required:
            pass


@pytest.mark.dapr
@pytest.mark.parametrize("variable", ["DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT"])
async def test_the_http_port_of_the_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_dapr: None, variable: str
) -> None:
    async with DaprRuntime() as dapr:
        port = str(dapr.sidecar.http_port)
        monkeypatch.setenv(variable, port if variable.endswith("PORT") else f"127.0.0.1:{port}")
        app = Aether(tmp_path / "jobs.db")
        with pytest.raises(SchedulerMisconfigured) as refused:
            async with app:
                pass
        one_line(str(refused.value), variable, "DAPR_HTTP_PORT", 'scheduler="timer"')


async def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_bg.plugins.dapr.find_spec", lambda _: None)
    monkeypatch.setenv("DAPR_GRPC_PORT", "50001")
    with pytest.raises(SchedulerMisconfigured) as refused:
        Aether(tmp_path / "jobs.db")
    one_line(str(refused.value), "DAPR_GRPC_PORT", "pip install 'aether-bg[dapr]'", 'scheduler="timer"')


@pytest.mark.dapr
async def test_an_outage_is_one_line(tmp_path: Path, dapr: DaprRuntime, caplog: pytest.LogCaptureFixture) -> None:
    """However many jobs are enqueued meanwhile, and however often it is tried."""
    app = Aether(tmp_path / "jobs.db", scheduler=DaprScheduler(fallback=None))
    runs: list[int] = []
    app.handler("Work")(lambda: runs.append(1))
    async with app:
        await to_thread.run_sync(dapr.sidecar.kill)
        for _ in range(10):
            await app.enqueue("Work")
            await anyio.sleep(0.6)
        assert len(warned(caplog)) == 1
        await to_thread.run_sync(dapr.sidecar.start)
        await until(lambda: len(runs) == 10, 40)
    assert len(warned(caplog)) == 1


class Ahead(WallClock):
    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=20)


@pytest.mark.dapr
async def test_a_clock_that_is_ahead_does_not_delay_what_is_due(dapr: DaprRuntime) -> None:
    kernel, scheduler = StandIn(clock=Ahead()), DaprScheduler()
    async with running(scheduler, kernel):
        assert await scheduler.schedule_arm(kernel.add())
        await until(lambda: kernel.fired, 5)


# -- who can reach the door ----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "my-pod", "10.1.2.3"])
async def test_no_public_endpoint_without_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SchedulerMisconfigured) as refused:
        DaprScheduler(host=host)
    one_line(str(refused.value), host, "APP_API_TOKEN", "insecure=True")
    monkeypatch.setenv("APP_API_TOKEN", "")  # to Dapr too, an empty token is none
    with pytest.raises(SchedulerMisconfigured):
        DaprScheduler(host=host)
    monkeypatch.setenv("APP_API_TOKEN", "sesame")
    DaprScheduler(host=host)
    monkeypatch.delenv("APP_API_TOKEN")
    DaprScheduler(host=host, app_token="sesame")
    DaprScheduler(host=host, insecure=True)
    DaprScheduler(host=host, serve=False)  # listens nowhere
    with pytest.raises(InvalidOption, match="insecure"):
        DaprScheduler(host=host, insecure="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_door_on_this_machine(host: str) -> None:
    DaprScheduler(host=host)


async def test_an_open_endpoint_is_reported_in_log_and_health(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port, nowhere = free_ports(2)
    scheduler = DaprScheduler(
        host="0.0.0.0", insecure=True, app_port=port, endpoint=f"127.0.0.1:{nowhere}", wait=0.1, fallback=None
    )
    assert "0.0.0.0" in (scheduler.notice or "")
    app = Aether(tmp_path / "jobs.db", scheduler=scheduler)
    async with AsyncExitStack() as stack:  # the port is taken, so that the test opens nothing to the network
        await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port))
        await stack.enter_async_context(app)
        health = await app.health()
        await anyio.sleep(0.5)
    one_line(health["problems"]["notice"], "without a token", "APP_API_TOKEN")
    assert [line for line in warned(caplog) if "without a token" in line]
