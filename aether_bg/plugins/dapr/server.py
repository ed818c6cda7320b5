"""The gRPC server that a sidecar with `--app-protocol grpc` calls: job triggers and health, nothing else.

Both names of the trigger are served, since older sidecars know the alpha one only. Imports grpc: to be imported when
it is used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf import empty_pb2  # type: ignore[import-untyped]

from aether_bg.errors import SchedulerMisconfigured
from aether_bg.plugins.dapr.door import MAX_BODY, TOKEN_HEADER, Door

_STABLE: Final = "dapr.proto.runtime.v1.AppCallback"
_ALPHA: Final = "dapr.proto.runtime.v1.AppCallbackAlpha"
_HEALTH: Final = "dapr.proto.runtime.v1.AppCallbackHealthCheck"
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else two processes would share the port without a word
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.max_send_message_length", MAX_BODY),
)
_GRACE: Final = 0.5


async def serve(door: Door, host: str, port: int, stack: AsyncExitStack) -> None:
    """Listen until `stack` unwinds. Raises `SchedulerMisconfigured` when the port cannot be had."""
    server = grpc.aio.server(interceptors=(_TokenGuard(door),), options=_OPTIONS)
    trigger = grpc.unary_unary_rpc_method_handler(
        _on_job(door),
        request_deserializer=appcallback_pb2.JobEventRequest.FromString,
        response_serializer=appcallback_pb2.JobEventResponse.SerializeToString,
    )
    health = grpc.unary_unary_rpc_method_handler(
        _on_health,
        request_deserializer=empty_pb2.Empty.FromString,
        response_serializer=appcallback_pb2.HealthCheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(_STABLE, {"OnJobEvent": trigger}),
            grpc.method_handlers_generic_handler(_ALPHA, {"OnJobEventAlpha1": trigger}),
            grpc.method_handlers_generic_handler(_HEALTH, {"HealthCheck": health}),
        )
    )

    async def stop() -> None:
        with anyio.CancelScope(shield=True):
            await server.stop(_GRACE)

    stack.push_async_callback(stop)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        server.add_insecure_port(where)
    except RuntimeError:
        raise SchedulerMisconfigured(
            f"app port {where}",
            "cannot be listened on: another program has it, or the address is not this machine's",
            "Choose a free one with `dapr run --app-port` (or `DaprScheduler(app_port=…)`, the same for both).",
        ) from None
    with anyio.CancelScope(shield=True):  # quick, and grpc.aio does not survive being cancelled here
        await server.start()


def _on_job(door: Door) -> Callable[[Any, Any], Awaitable[Any]]:
    async def on_job(request: appcallback_pb2.JobEventRequest, context: Any) -> appcallback_pb2.JobEventResponse:
        if not await door.consumes(request.name, request.data.value):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return appcallback_pb2.JobEventResponse()

    return on_job


async def _on_health(request: Any, context: Any) -> appcallback_pb2.HealthCheckResponse:
    return appcallback_pb2.HealthCheckResponse()


class _TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the token, before their body is read. Dapr sends none with its health probes."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if details.method != f"/{_HEALTH}/HealthCheck":
            sent = [value for name, value in details.invocation_metadata if name == TOKEN_HEADER]
            tokens = [value.encode() if isinstance(value, str) else bytes(value) for value in sent]
            if not self._door.admits(tokens):
                return grpc.unary_unary_rpc_method_handler(_refuse)
        return await continuation(details)


async def _refuse(request: bytes, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the dapr-api-token header is missing or wrong")
