"""The programs of a Dapr on loopback: where they are, one started scheduler, one started sidecar (daprd).

Every port is free when it is chosen, every process is ended by its handle and can be killed and started again, with
the same ports and the same data. `sidecar` makes a pair of them.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, Literal

from aether_bg.errors import AetherError

AppProtocol = Literal["grpc", "http"]
_HOST: Final = "127.0.0.1"
_TAIL: Final = 2000


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


def free_ports(count: int) -> list[int]:
    """Different TCP ports that are free on loopback at this moment."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind((_HOST, 0))
        return [one.getsockname()[1] for one in held]


class _Process:
    """One Dapr process: its command line stays the same over restarts, so that it finds its data again."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, ready: Callable[[], bool]
    ) -> None:
        self.name = name
        self.log = log
        self._command, self._env, self._ready = list(command), dict(env), ready
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {'running' if self.running else 'stopped'}>"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 30.0) -> None:
        """Start it and wait until it answers. Raises `DaprStartFailed`."""
        if self.running:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + timeout
        while not self._ready():
            if not self.running:
                raise self._failed(f"ended with code {self._process.returncode}")
            if time.monotonic() > deadline:
                self.kill()
                raise self._failed(f"was not ready within {timeout:g} s")
            time.sleep(0.02)

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL when that takes longer than `timeout` seconds."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self._end(signal.SIGKILL, 10.0)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _failed(self, what: str) -> DaprStartFailed:
        tail = self.log.read_text(errors="replace")[-_TAIL:]
        return DaprStartFailed(self.name, what, f"The end of its log:\n{tail}")


class SchedulerProcess(_Process):
    """Dapr's scheduler: it holds the jobs (in an etcd of its own) and streams triggers to the sidecars."""

    def __init__(self, folder: Path) -> None:
        self.port, health, etcd, peer = free_ports(4)
        self._data = folder / "etcd"
        self._data.mkdir(mode=0o700)
        command = [
            find_binary("scheduler"),
            "--id=s0",
            f"--listen-address={_HOST}",
            f"--port={self.port}",
            f"--healthz-listen-address={_HOST}",  # ignored by 1.18.3
            f"--healthz-port={health}",
            "--enable-metrics=false",
            f"--etcd-data-dir={self._data}",
            f"--etcd-client-listen-address={_HOST}",
            f"--etcd-client-port={etcd}",
            f"--etcd-initial-cluster=s0=http://{_HOST}:{peer}",
            f"--identity-directory-write={folder / 'identity'}",
        ]
        ready = partial(_answers, health, "/healthz", 200)
        super().__init__("Dapr scheduler", command, _environment(), folder / "scheduler.log", ready)

    def wipe(self) -> None:
        """Forget every job: kill it and delete its data. `start` brings up an empty one."""
        self.kill()
        shutil.rmtree(self._data)
        self._data.mkdir(mode=0o700)


class SidecarProcess(_Process):
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
            f"--dapr-listen-addresses={_HOST}",
            f"--dapr-http-port={self.http_port}",
            f"--dapr-grpc-port={self.grpc_port}",
            f"--dapr-internal-grpc-listen-address={_HOST}",
            f"--dapr-internal-grpc-port={internal}",
            "--dapr-graceful-shutdown-seconds=1",
            "--enable-metrics=false",
        ]
        if scheduler_port is not None:
            command.append(f"--scheduler-host-address={_HOST}:{scheduler_port}")
        if self.app_port:
            command.append(f"--app-port={self.app_port}")
            if app_health:
                command += ["--enable-app-health-check", "--app-health-probe-interval=1", "--app-health-threshold=2"]
        log = folder / f"daprd-{self.grpc_port}.log"
        env = _environment(APP_API_TOKEN=app_token, DAPR_API_TOKEN=api_token)
        super().__init__("Dapr sidecar", command, env, log, partial(_listens, self.grpc_port))

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
        """Ready in full: the app listens, the scheduler is connected."""
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
    """This process's environment without what a Dapr outside may have put there."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DAPR_", "APP_", "NAMESPACE"))}
    ours.update({name: value for name, value in extra.items() if value is not None})
    return ours | {"DAPR_HOST_IP": _HOST, "NAMESPACE": "default"}


def _listens(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(port: int, path: str, status: int, headers: Mapping[str, str] | None = None) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=1)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status == status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
