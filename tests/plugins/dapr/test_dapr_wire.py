"""What needs no sidecar: names, settings, fitness, the HTTP route, and what is said when something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AsyncExitStack
from importlib import util
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
from dapr.proto.runtime.v1 import metadata_pb2
from dapr_standin import StandIn
from fastapi import FastAPI

from aether_bg.errors import InvalidOption, SchedulerMisconfigured, SchedulerUnavailable
from aether_bg.model import Fired
from aether_bg.plugins.dapr import DaprScheduler, DaprSettings
from aether_bg.plugins.dapr.door import MAX_BODY
from aether_bg.plugins.dapr.fitness import misfit
from aether_bg.plugins.dapr.names import NotOurs, body_of, name_of, read_name, read_trigger
from aether_bg.plugins.dapr.sidecar import Sidecar
from aether_bg.testing.sidecar import DaprMissing, DaprRuntime, DaprStartFailed, find_binary

STORE = UUID("8d2e61c4-0f0f-4a7e-9b63-5a0b3c9d7e21")


def test_a_trigger_survives_the_wire() -> None:
    row = StandIn().add(seq=12)
    trigger = read_trigger(name_of(STORE, row.id, 12), body_of(STORE, row))
    assert (trigger.store_id, trigger.job_id, trigger.seq, trigger.occurrence) == (STORE, row.id, 12, row.occurrence)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "aether.",
        "job",
        f"aether.{STORE.hex}.{STORE.hex}.01",
        f"aether.{STORE.hex}.{STORE.hex}.-1",
        f"aether.{STORE.hex}.{STORE.hex}.1\n",
        f"aether.{STORE.hex.upper()}X.{STORE.hex}.1",
        f"aether.{STORE}.{STORE}.1",
        f"aether.{STORE.hex}.{STORE.hex}.{'9' * 30}",
        f"aether.{STORE.hex}.{STORE.hex}.١",
    ],
)
def test_other_names_are_not_read(name: str) -> None:
    assert read_name(name) is None
    with pytest.raises(NotOurs) as caught:
        read_trigger(name, b"{}")
    assert not caught.value.readable


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 13},
        {"seq": "12"},
        {"seq": True},
        {"seq": 12.0},
        {"store": str(uuid4())},
        {"job": str(uuid4())},
        {"job": None},
        {"job": 5},
        {"occurrence": "yesterday"},
        {"occurrence": "2030-01-01T00:00:00"},
        {"occurrence": "2030-01-01T00:00:00+01:00"},
        {"occurrence": 5},
        {"occurrence": None},
    ],
)
def test_a_body_that_does_not_belong_to_its_name(change: dict[str, Any]) -> None:
    row = StandIn().add(seq=12)
    body = json.dumps(json.loads(body_of(STORE, row)) | change).encode()
    with pytest.raises(NotOurs) as caught:
        read_trigger(name_of(STORE, row.id, 12), body)
    assert caught.value.readable


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b"{}", b'"x"', b"1"])
def test_a_foreign_body_is_refused(body: bytes) -> None:
    with pytest.raises(NotOurs):
        read_trigger(name_of(STORE, STORE, 1), body)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DaprScheduler().settings.endpoint == "127.0.0.1:50001"
    monkeypatch.setenv("DAPR_GRPC_PORT", "50123")
    monkeypatch.setenv("APP_PORT", "6001")
    monkeypatch.setenv("APP_API_TOKEN", "open-sesame")
    monkeypatch.setenv("DAPR_API_TOKEN", "")
    settings = DaprScheduler().settings
    assert (settings.endpoint, settings.app_port) == ("127.0.0.1:50123", 6001)
    assert (settings.app_token, settings.api_token) == ("open-sesame", None)
    assert "sesame" not in repr(settings) + repr(DaprScheduler())
    monkeypatch.setenv("DAPR_GRPC_ENDPOINT", "https://dapr.example:443")
    assert DaprScheduler().settings.endpoint == "https://dapr.example:443"
    assert DaprScheduler(endpoint="127.0.0.1:1", app_port=2).settings.app_port == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"app_port": 0},
        {"app_port": 65536},
        {"app_port": True},
        {"app_port": "6000"},
        {"wait": -1},
        {"wait": float("nan")},
        {"wait": True},
        {"deadline": 0},
        {"redeliver": 0.5},
        {"reconcile": float("inf")},
        {"required": 1},
        {"serve": "no"},
        {"host": ""},
        {"host": "a b"},
        {"endpoint": "x\ny"},
        {"app_token": "line\nbreak"},
        {"api_token": "ключ"},
    ],
)
def test_wrong_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as caught:
        DaprScheduler(**wrong)
    assert next(iter(wrong)) in str(caught.value)
    assert "break" not in str(caught.value)


def test_a_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_GRPC_PORT", "5000x")
    with pytest.raises(InvalidOption, match="DAPR_GRPC_PORT"):
        DaprScheduler()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("127.0.0.1:50001", "dns:127.0.0.1:50001"),
        ("https://dapr.example:443", "dns:dapr.example:443"),
        ("http://127.0.0.1:1234/", "dns:127.0.0.1:1234"),
        ("unix:///run/dapr.sock", "unix:///run/dapr.sock"),
    ],
)
async def test_endpoints(endpoint: str, address: str) -> None:
    sidecar = Sidecar(DaprSettings(endpoint=endpoint))
    assert sidecar.address == address
    await sidecar.close()


@pytest.mark.anyio
async def test_an_invalid_endpoint_is_refused() -> None:
    with pytest.raises(InvalidOption, match="endpoint"):
        Sidecar(DaprSettings(endpoint="ftp://127.0.0.1:21"))


def said(version: str = "1.18.3", port: int = 6000, protocol: str = "grpc") -> metadata_pb2.GetMetadataResponse:
    app = metadata_pb2.AppConnectionProperties(port=port, protocol=protocol)
    return metadata_pb2.GetMetadataResponse(runtime_version=version, app_connection_properties=app)


@pytest.mark.parametrize(
    ("metadata", "settings", "words"),
    [
        (said(), {}, None),
        (said("1.20.0"), {}, None),
        (said("v1.19.0-rc.1"), {}, None),
        (said("edge"), {}, None),
        (said(), {"app_port": 6000}, None),
        (said(protocol="http"), {"serve": False}, None),
        (said("1.18.2"), {}, "older than 1.18.3"),
        (said("1.9.10"), {}, "Upgrade"),
        (said(port=0, protocol=""), {}, "--app-port 6000 --app-protocol grpc"),
        (said(port=0, protocol=""), {"serve": False, "app_port": 8000}, "--app-port 8000 --app-protocol http"),
        (said(protocol="http"), {}, "serve=False"),
        (said(), {"serve": False}, "--app-protocol http"),
        (said(), {"app_port": 7000}, "--app-port 7000"),
    ],
)
def test_whether_a_sidecar_fits(
    metadata: metadata_pb2.GetMetadataResponse, settings: dict[str, Any], words: str | None
) -> None:
    found = misfit(metadata, DaprSettings(**settings))
    assert (found is None) if words is None else (words in str(found))


def test_nothing_of_dapr_is_imported_before_it_is_used() -> None:
    code = (
        "import sys; import aether_bg, aether_bg.hookspecs; from aether_bg.plugins.dapr import DaprScheduler;"
        "DaprScheduler(); print([name for name in ('dapr', 'grpc', 'google.protobuf') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_bg.plugins.dapr.find_spec", lambda _: None)
    with pytest.raises(SchedulerMisconfigured, match=r"pip install 'aether-bg\[dapr\]'"):
        DaprScheduler()
    assert util.find_spec("dapr")


def test_under_trio() -> None:
    import trio

    async def start() -> None:
        async with AsyncExitStack() as stack:
            await DaprScheduler().lifecycle_start(StandIn(), stack)

    with pytest.raises(SchedulerMisconfigured, match="asyncio only"):
        trio.run(start)


@pytest.mark.anyio
async def test_a_required_sidecar_that_is_not_there() -> None:
    kernel = StandIn()
    async with AsyncExitStack() as stack:
        with pytest.raises(SchedulerUnavailable, match="cannot be reached"):
            await DaprScheduler(endpoint="127.0.0.1:1", wait=0.2, required=True).lifecycle_start(kernel, stack)
    assert await DaprScheduler().schedule_arm(kernel.add()) is False


class Client(httpx.AsyncClient):
    def __init__(self, app: Any) -> None:
        super().__init__(transport=httpx.ASGITransport(app=app), base_url="http://app")


@pytest.mark.anyio
@pytest.mark.parametrize("mount", ["", "/", "/job"])
async def test_the_http_route(mount: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = StandIn()
    scheduler = DaprScheduler(serve=False, app_token="sesame")
    row = kernel.add(seq=3)
    path, body = f"/job/{name_of(kernel.store_id, row.id, 3)}", body_of(kernel.store_id, row)
    token = {"dapr-api-token": "sesame"}
    app: Any = scheduler.asgi
    if mount:
        app = FastAPI()
        app.mount(mount, scheduler.asgi)
    async with Client(app) as http:
        closed = await http.post(path, content=body, headers=token)
        assert closed.status_code == 503  # not started: again later
        scheduler._door.kernel = kernel
        assert (await http.post(path, content=body, headers=token)).status_code == 200
        kernel.answers = [Fired.RETRY, Fired.CONSUMED, ValueError("of the store")]
        statuses = [(await http.post(path, content=body, headers=token)).status_code for _ in range(3)]
        assert statuses == [503, 200, 503]
        assert len(kernel.fired) == 4
        for headers in ({}, {"dapr-api-token": "sesam"}, {"dapr-api-token": ""}):
            assert (await http.post(path, content=body, headers=headers)).status_code == 401
        twice = [("dapr-api-token", "sesame"), ("dapr-api-token", "other")]
        assert (await http.post(path, content=body, headers=twice)).status_code == 401
        assert (await http.post(path, content=b" " * (MAX_BODY + 1), headers=token)).status_code == 413
        assert (await http.post("/job/somebody's", content=b"x", headers=token)).status_code == 503  # never 404
        assert (await http.get(path, headers=token)).status_code == 405
        for never in ("/job/a/b", "/job/a%2Fb", "/job/", f"/job/{'x' * 700}", "/v1/job/x"):
            if not (mount and never.startswith("/v1")):
                assert (await http.post(never, headers=token)).status_code == 503
        if mount != "/job":
            assert (await http.get("/healthz")).status_code == 200
        assert len(kernel.fired) == 4
    assert not any("sesame" in report for report in kernel.reports)


async def asked(app: Any, method: str, path: str, root_path: str, body: bytes = b"") -> int:
    """The status that an ASGI app answers, whatever a server and frameworks made of the path."""
    sent: list[Any] = []
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("before", "root_path"),
    [
        ("/job/", ""), ("/job/", "/job"), ("/", "/job"), ("/job/", "/api"), ("/api/job/", "/api"), ("/", "/api/job"),
        ("/api/job/", "/api/job"), ("/a/b/c/job/", "/x"), ("/job/job/", "/job"), ("/dapr/", ""), ("job/", ""), ("", ""),
        ("/job/", "/"), ("/jobs/", "/jo"),
    ],
)  # fmt: skip
async def test_whatever_stands_before_the_name(before: str, root_path: str) -> None:
    """Root paths, proxies and mounts each write the path in a way of their own. Dapr takes a 404 for done."""
    kernel, scheduler = StandIn(), DaprScheduler(serve=False)
    scheduler._door.kernel = kernel
    row = kernel.add(seq=3)
    name, body = name_of(kernel.store_id, row.id, 3), body_of(kernel.store_id, row)
    assert await asked(scheduler.asgi, "POST", before + name, root_path, body) == 200
    kernel.answers = [Fired.RETRY]
    assert await asked(scheduler.asgi, "POST", f"{before}{name}/", root_path, body) == 503
    assert len(kernel.fired) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("prefix", ["", "/api", "/a/b"])
@pytest.mark.parametrize(
    "path", ["/job", "/job/", "/job/x", "/job/x/y", "/job/../x", "/job/healthz", "/job/\n", "/job/x\ny", "/job//"]
)
async def test_no_post_under_job_is_answered_with_404(prefix: str, path: str) -> None:
    scheduler = DaprScheduler(serve=False)
    scheduler._door.kernel = StandIn()
    assert await asked(scheduler.asgi, "POST", prefix + path, "") == 503
    assert await asked(scheduler.asgi, "POST", prefix + path, "/root") == 503


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "root_path"), [("/healthz", ""), ("/healthz", "/api"), ("/", "/healthz")])
async def test_the_health_route(path: str, root_path: str) -> None:
    asgi = DaprScheduler(serve=False).asgi
    assert await asked(asgi.health, "GET", path, root_path) == 200
    assert await asked(asgi, "GET", path, root_path) == 200


@pytest.mark.anyio
async def test_middleware_leaves_other_answers_alone() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        status = {"/healthz": 404, "/mine/healthz": 500, "/job/mine": 202}.get(scope["path"], 404)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    scheduler = DaprScheduler(serve=False)
    scheduler._door.kernel = kernel = StandIn()
    wrapped = scheduler.asgi.wrapping(app)
    row = kernel.add()
    name = name_of(kernel.store_id, row.id, 0)
    assert await asked(wrapped, "POST", f"/job/{name}", "", body_of(kernel.store_id, row)) == 200
    assert [await asked(wrapped, "POST", path, "") for path in ("/job/mine", "/other")] == [202, 404]
    assert [await asked(wrapped, "GET", path, "") for path in ("/healthz", "/mine/healthz", "/x")] == [200, 500, 404]
    assert seen == ["/job/mine", "/other", "/healthz", "/mine/healthz", "/x"]


@pytest.mark.anyio
async def test_reports_do_not_flood() -> None:
    kernel, scheduler = StandIn(), DaprScheduler(app_token="sesame")
    scheduler._door.kernel = kernel
    for _ in range(100):
        assert not scheduler._door.admits([b"wrong"])
        assert not await scheduler._door.consumes("somebody's\n\x1b[31m", b"")
    assert len(kernel.reports) == 2
    assert all(report.isprintable() for report in kernel.reports)


def test_missing_binaries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    with pytest.raises(DaprMissing, match="dapr init --slim"):
        find_binary("daprd")
    with pytest.raises(DaprMissing, match="scheduler"), DaprRuntime():
        pass


@pytest.mark.dapr
def test_a_process_that_fails_shows_its_log(need_dapr: None) -> None:
    with DaprRuntime(start_sidecar=False) as dapr:
        dapr.sidecar._command.append("--mode=nonsense")
        with pytest.raises(DaprStartFailed, match="nonsense"):
            dapr.sidecar.start()


@pytest.mark.dapr
@pytest.mark.anyio
async def test_the_runtime_leaves_nothing_running(need_dapr: None) -> None:
    async with DaprRuntime() as dapr:
        processes = [dapr.scheduler, dapr.sidecar, await anyio.to_thread.run_sync(dapr.replica)]
        assert all(process.running for process in processes)
        folder = dapr._folder
        assert folder.stat().st_mode & 0o077 == 0
    assert not any(process.running for process in processes)
    assert not folder.exists()
