"""The programs of a Dapr on loopback: where they are, one started scheduler, one started sidecar (daprd).

Every port is free when it is chosen, every process is ended by its handle and can be killed and started again, with
the same ports and the same data. `sidecar` makes a pair of them.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from aether_bg.errors import AetherError
from aether_bg.testing.processes import HOST, ServerProcess, free_ports, listens

AppProtocol = Literal["grpc", "http"]


class DaprMissing(AetherError):
    """`daprd` or `scheduler` is neither on PATH nor in ~/.dapr/bin."""

    def __init__(self, binary: str) -> None:
        super().__init__(
            f"Dapr's {binary!r}",
            "was found neither on PATH nor in ~/.dapr/bin",
            "Install the Dapr CLI (https://docs.dapr.io/getting-started) and run `dapr init --slim`; no Docker needed.",
        )


class DaprStartFailed(AetherError):
    """A Dapr process ended, or did not become ready in time. The message ends with the tail of its log."""


def find_binary(name: str) -> str:
    """The path of a Dapr binary: PATH first, then where `dapr init --slim` puts it. Raises `DaprMissing`."""
    found = shutil.which(name) or shutil.which(name, path=str(Path.home() / ".dapr" / "bin"))
    if found is None:
        raise DaprMissing(name)
    return found


class _DaprProcess(ServerProcess):
    failure = DaprStartFailed


class SchedulerProcess(_DaprProcess):
    """Dapr's scheduler: it holds the jobs (in an etcd of its own) and streams triggers to the sidecars."""

    def __init__(self, folder: Path) -> None:
        self.port, health, etcd, peer = free_ports(4)
        self._data = folder / "etcd"
        self._data.mkdir(mode=0o700)
        command = [
            find_binary("scheduler"),
            "--id=s0",
            f"--listen-address={HOST}",
            f"--port={self.port}",
            f"--healthz-listen-address={HOST}",  # ignored by 1.18.3
            f"--healthz-port={health}",
            "--enable-metrics=false",
            f"--etcd-data-dir={self._data}",
            f"--etcd-client-listen-address={HOST}",
            f"--etcd-client-port={etcd}",
            f"--etcd-initial-cluster=s0=http://{HOST}:{peer}",
            f"--identity-directory-write={folder / 'identity'}",
        ]
        ready = partial(_answers, health, "/healthz", 200)
        super().__init__("Dapr scheduler", command, _environment(), folder / "scheduler.log", ready)

    def wipe(self) -> None:
        """Forget every job: kill it and delete its data. `start` brings up an empty one."""
        self.kill()
        shutil.rmtree(self._data)
        self._data.mkdir(mode=0o700)


class SidecarProcess(_DaprProcess):
    """A daprd beside one app. `start` returns when its API answers, which is before the app listens."""

    def __init__(
        self,
        folder: Path,
        scheduler_port: int | None,
        *,
        app_id: str,
        app_protocol: AppProtocol = "grpc",
        app_port: int | None = None,
        app_token: str | None = None,
        api_token: str | None = None,
        app_health: bool = True,
    ) -> None:
        free_app_port, self.http_port, self.grpc_port, internal = free_ports(4)
        self.app_id, self.app_protocol = app_id, app_protocol
        self.app_port = free_app_port if app_port is None else app_port
        self._app_token, self._api_token = app_token, api_token
        command = [
            find_binary("daprd"),
            f"--app-id={app_id}",
            f"--app-protocol={app_protocol}",
            "--mode=standalone",
            "--enable-mtls=false",
            f"--dapr-listen-addresses={HOST}",
            f"--dapr-http-port={self.http_port}",
            f"--dapr-grpc-port={self.grpc_port}",
            f"--dapr-internal-grpc-listen-address={HOST}",
            f"--dapr-internal-grpc-port={internal}",
            "--dapr-graceful-shutdown-seconds=1",
            "--enable-metrics=false",
        ]
        if scheduler_port is not None:
            command.append(f"--scheduler-host-address={HOST}:{scheduler_port}")
        if self.app_port:
            command.append(f"--app-port={self.app_port}")
            if app_health:
                command += ["--enable-app-health-check", "--app-health-probe-interval=1", "--app-health-threshold=2"]
        log = folder / f"daprd-{self.grpc_port}.log"
        env = _environment(APP_API_TOKEN=app_token, DAPR_API_TOKEN=api_token)
        super().__init__("Dapr sidecar", command, env, log, partial(listens, self.grpc_port))

    @property
    def env(self) -> dict[str, str]:
        """What `dapr run` sets for the app."""
        found: dict[str, str | None] = {
            "APP_ID": self.app_id,
            "APP_PROTOCOL": self.app_protocol,
            "APP_PORT": str(self.app_port) if self.app_port else None,
            "DAPR_GRPC_PORT": str(self.grpc_port),
            "DAPR_HTTP_PORT": str(self.http_port),
            "APP_API_TOKEN": self._app_token,
            "DAPR_API_TOKEN": self._api_token,
        }
        return {name: value for name, value in found.items() if value is not None}

    def healthy(self) -> bool:
        """Fully ready: the app listens, the scheduler is connected."""
        headers = {"dapr-api-token": self._api_token} if self._api_token else {}
        return _answers(self.http_port, "/v1.0/healthz", 204, headers)

    def wait_healthy(self, timeout: float = 30.0) -> None:
        """Wait for `healthy`. Raises `DaprStartFailed`."""
        deadline = time.monotonic() + timeout
        while not self.healthy():
            if not self.running or time.monotonic() > deadline:
                raise self._failed(f"was not healthy within {timeout:g} s")
            time.sleep(0.02)


def _environment(**extra: str | None) -> dict[str, str]:
    """This process's environment without the variables of another Dapr."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DAPR_", "APP_", "NAMESPACE"))}
    ours.update({name: value for name, value in extra.items() if value is not None})
    return ours | {"DAPRHOST_IP": HOST, "NAMESPACE": "default"}


def _answers(port: int, path: str, status: int, headers: Mapping[str, str] | None = None) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status == status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
