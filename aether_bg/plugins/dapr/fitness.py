"""Checks whether the sidecar fits: its version, app port and app protocol; each mistake is an error with its remedy."""

from __future__ import annotations

import re
from typing import Any, Final

from aether_bg.errors import SchedulerMisconfigured
from aether_bg.plugins.dapr.settings import DaprSettings

OLDEST: Final = (1, 18, 3)
_HTTP: Final = ("http", "https", "h2c")


def misfit(metadata: Any, settings: DaprSettings, shared: bool = False) -> SchedulerMisconfigured | None:
    """What is wrong with the sidecar that gave this metadata; None if it fits. `shared`: the user's own gRPC server
    receives the triggers."""
    version = str(metadata.runtime_version)
    number = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if number and tuple(map(int, number.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return SchedulerMisconfigured(
            f"Dapr {version}", f"is older than {oldest}, the first that this plugin can rely on", "Upgrade Dapr."
        )
    app = metadata.app_connection_properties
    wanted = "grpc" if settings.serve else "http"
    port = settings.app_port or app.port or 6000
    remedy = f"Start it with `--app-port {port} --app-protocol {wanted}`."
    if not app.port:
        return SchedulerMisconfigured("the Dapr sidecar", "knows no app port, so no job can reach this app", remedy)
    if settings.serve and app.protocol != "grpc":
        mount = "or use `DaprScheduler(serve=False)` and mount its `asgi`."
        return SchedulerMisconfigured(
            f"the Dapr sidecar's app protocol {app.protocol!r}",
            "does not fit an app that listens on gRPC",
            f"{remedy.removesuffix('.')}, {mount}",
        )
    if not settings.serve and app.protocol not in (*_HTTP, *(("grpc",) if shared else ())):
        return SchedulerMisconfigured(
            f"the Dapr sidecar's app protocol {app.protocol!r}",
            "does not fit `serve=False`, which is for HTTP",
            f"{remedy} For a gRPC server of your own, call `add_to_server` before the start.",
        )
    if settings.serve and settings.app_port not in (None, app.port):
        return SchedulerMisconfigured(
            f"app port {settings.app_port}", f"is not the one that the Dapr sidecar calls, {app.port}", remedy
        )
    return None
