"""A real Dapr on loopback for tests: one scheduler, one sidecar (daprd), replicas on request. No containers.

    with DaprRuntime(app_id="jobs") as dapr:          # or `async with`
        os.environ.update(dapr.env)                   # what `dapr run` would set for the app
        ...
        dapr.scheduler.kill(); dapr.scheduler.start() # faults
        other = dapr.replica()                        # a second daprd with the same app id

Every port is free when it is chosen, every folder private, every process ended by its handle. `dapr_fixture()` makes
a pytest fixture of it.

All of it listens on loopback, except one port: Dapr 1.18.3 ignores `--healthz-listen-address` and opens the
scheduler's health port, which says "ready" and nothing else, on every interface. Where that matters, run the tests in
a network namespace (`unshare --net`).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aether_bg.testing.dapr_processes import (
    AppProtocol,
    DaprMissing,
    DaprStartFailed,
    SchedulerProcess,
    SidecarProcess,
    find_binary,
)
from aether_bg.testing.processes import free_ports

__all__ = [
    "REQUIRE", "AppProtocol", "DaprMissing", "DaprRuntime", "DaprStartFailed", "SchedulerProcess", "SidecarProcess",
    "dapr_fixture", "find_binary", "free_ports", "require_dapr",
]  # fmt: skip

REQUIRE: Final = "AETHER_REQUIRE_DAPR"
"""Set to 1, a missing binary is a failure; otherwise `dapr_fixture` skips."""


class DaprRuntime:
    """A scheduler and a sidecar for as long as the `with` or `async with` block lasts.

    `app_id`: unique by default, so that nothing is shared by accident. `app_port`: a free one by default (the app is
    to listen there); 0: a sidecar without an app. `app_token`, `api_token`: what Dapr calls APP_API_TOKEN and
    DAPR_API_TOKEN. `app_health`: let daprd probe the app each second. `start_sidecar=False`: the sidecar is there but
    not started, for tests of its absence.
    """

    def __init__(
        self,
        app_id: str | None = None,
        *,
        app_protocol: AppProtocol = "grpc",
        app_port: int | None = None,
        app_token: str | None = None,
        api_token: str | None = None,
        app_health: bool = True,
        start_sidecar: bool = True,
    ) -> None:
        self.app_id = app_id or f"app-{os.getpid()}-{time.monotonic_ns()}"
        self._start_sidecar = start_sidecar
        self._options: dict[str, Any] = {
            "app_protocol": app_protocol,
            "app_token": app_token,
            "api_token": api_token,
            "app_health": app_health,
        }
        self._app_port = app_port
        self._stack = ExitStack()
        self.scheduler: SchedulerProcess
        self.sidecar: SidecarProcess
        self._folder: Path

    @property
    def env(self) -> dict[str, str]:
        """What `dapr run` sets for the app."""
        return self.sidecar.env

    def replica(self, *, app_port: int | None = None) -> SidecarProcess:
        """Start one more sidecar of the same app: triggers go to one of them, in turn."""
        return self._add(app_port, start=True)

    def _add(self, app_port: int | None, *, start: bool) -> SidecarProcess:
        made = SidecarProcess(self._folder, self.scheduler.port, app_id=self.app_id, app_port=app_port, **self._options)
        self._stack.callback(made.stop)
        if start:
            made.start()
        return made

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="aether_bg-dapr-", ignore_cleanup_errors=True)
            self._folder = Path(stack.enter_context(folder))
            self.scheduler = SchedulerProcess(self._folder)
            stack.callback(lambda: self.scheduler.stop(2.0))
            self.scheduler.start()
            self._stack = stack.pop_all()
        try:
            self.sidecar = self._add(self._app_port, start=self._start_sidecar)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    async def __aenter__(self) -> Self:
        import anyio.to_thread

        return await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import anyio
        import anyio.to_thread

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._stack.close)


def dapr_fixture(**options: Any) -> Iterator[DaprRuntime]:
    """The body of a pytest fixture: yields a running `DaprRuntime(**options)`.

        @pytest.fixture(scope="module")
        def dapr():
            yield from dapr_fixture()

    Without the binaries the test is skipped, or fails when AETHER_REQUIRE_DAPR=1.
    """
    require_dapr()
    with DaprRuntime(**options) as runtime:
        yield runtime


def require_dapr() -> None:
    """Skip the test (or fail it, when AETHER_REQUIRE_DAPR=1) where Dapr is not installed."""
    try:
        find_binary("daprd"), find_binary("scheduler")
    except DaprMissing as missing:
        if os.environ.get(REQUIRE) == "1":
            raise
        import pytest

        pytest.skip(str(missing))
