"""The gRPC server that a sidecar with `--app-protocol grpc` calls: job triggers and health, nothing else.

It serves both names of the trigger, since older sidecars know only the alpha one, and grpc.health.v1, for probes of
Kubernetes. Imports grpc: to be imported when it is used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf import empty_pb2  # type: ignore[import-untyped]

from aether_bg.errors import SchedulerMisconfigured
from aether_bg.plugins.dapr.door import MAX_BODY, TOKEN_HEADER, Door
from aether_bg.plugins.dapr.names import ours

OnJobEvent = Callable[[Any, Any], Awaitable[Any]]

_STABLE: Final = "dapr.proto.runtime.v1.AppCallback"
_ALPHA: Final = "dapr.proto.runtime.v1.AppCallbackAlpha"
_HEALTH: Final = "dapr.proto.runtime.v1.AppCallbackHealthCheck"
_PROBES: Final = "grpc.health.v1.Health"
_OPEN_TO_ALL: Final = (f"/{_HEALTH}/", f"/{_PROBES}/")
"""Dapr's health checks and the kubelet's probes carry no token."""
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
"""grpc.health.v1.HealthCheckResponse, whose one field is the status; its package is no dependency of ours."""
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else two processes would share the port without a word
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.max_send_message_length", MAX_BODY),
)
_GRACE: Final = 0.5
_LOOK: Final = 1.0


def add_to(server: Any, door: Door, other: OnJobEvent | None = None) -> None:
    """Adds the services for triggers and probes to a gRPC server. `other`: receives the triggers of jobs that are not
    ours."""
    trigger = grpc.unary_unary_rpc_method_handler(
        _on_job(door, other),
        request_deserializer=appcallback_pb2.JobEventRequest.FromString,
        response_serializer=appcallback_pb2.JobEventResponse.SerializeToString,
    )
    health = grpc.unary_unary_rpc_method_handler(
        _on_health,
        request_deserializer=empty_pb2.Empty.FromString,
        response_serializer=appcallback_pb2.HealthCheckResponse.SerializeToString,
    )
    probes = {
        "Check": grpc.unary_unary_rpc_method_handler(_on_check(door)),
        "Watch": grpc.unary_stream_rpc_method_handler(_on_watch(door)),
    }
    services = {
        _STABLE: {"OnJobEvent": trigger},
        _ALPHA: {"OnJobEventAlpha1": trigger},
        _HEALTH: {"HealthCheck": health},
        _PROBES: probes,
    }
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
    )
    for name in (_STABLE, _ALPHA):  # a servicer's own OnJobEvent is registered so, and would win
        server.add_registered_method_handlers(name, services[name])


async def serve(door: Door, host: str, port: int, stack: AsyncExitStack) -> None:
    """Listens until `stack` unwinds. Raises `SchedulerMisconfigured` if the port is not available."""
    server = grpc.aio.server(interceptors=(_TokenGuard(door),), options=_OPTIONS)
    add_to(server, door)

    async def stop() -> None:
        with anyio.CancelScope(shield=True):
            await server.stop(_GRACE)

    stack.push_async_callback(stop)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _try_to_bind(host, port)  # gRPC itself would write lines of its own to stderr, at each try
        server.add_insecure_port(where)
    except (OSError, RuntimeError):
        raise SchedulerMisconfigured(
            f"app port {where}",
            "cannot be listened on: another program has it, or the address is not this machine's",
            "Choose a free one with `dapr run --app-port`, which sets APP_PORT (or `DaprScheduler(app_port=…)`, the "
            'same for both), or use scheduler="timer".',
        ) from None
    with anyio.CancelScope(shield=True):  # quick, and grpc.aio does not survive being cancelled here
        await server.start()


def _try_to_bind(host: str, port: int) -> None:
    """Raises `OSError`."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)


def _on_job(door: Door, other: OnJobEvent | None) -> OnJobEvent:
    async def on_job(request: appcallback_pb2.JobEventRequest, context: Any) -> Any:
        if other is not None and not ours(request.name):
            return await other(request, context)
        if not door.admits(_tokens(context.invocation_metadata())):
            await _refuse(b"", context)
        if not await door.consumes(request.name, request.data.value):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return appcallback_pb2.JobEventResponse()

    return on_job


async def _on_health(request: Any, context: Any) -> appcallback_pb2.HealthCheckResponse:
    return appcallback_pb2.HealthCheckResponse()


def _status(door: Door) -> bytes:
    return _NOT_SERVING if door.kernel is None else _SERVING


def _on_check(door: Door) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def check(request: bytes, context: Any) -> bytes:
        if request not in _known():
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _status(door)

    return check


def _on_watch(door: Door) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        told = b""
        while True:
            status = _status(door) if request in _known() else b"\x08\x03"  # SERVICE_UNKNOWN
            if status != told:
                yield status
                told = status
            await anyio.sleep(_LOOK)

    return watch


def _known() -> tuple[bytes, ...]:
    """Requests about the server as a whole, and about the services it has; the one field is the name."""
    names = [name.encode() for name in (_STABLE, _ALPHA, _HEALTH)]
    return (b"", *(bytes((0x0A, len(name))) + name for name in names))


class _TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the token, before their body is read."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if not details.method.startswith(_OPEN_TO_ALL) and not self._door.admits(_tokens(details.invocation_metadata)):
            return grpc.unary_unary_rpc_method_handler(_refuse)
        return await continuation(details)


def _tokens(metadata: Any) -> list[bytes]:
    sent = [value for name, value in metadata or () if name == TOKEN_HEADER]
    return [value.encode() if isinstance(value, str) else bytes(value) for value in sent]


async def _refuse(request: bytes, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the dapr-api-token header is missing or wrong")
