"""The sidecar's API as this plugin uses it: each call has a deadline, each failure a name. Imports grpc when used.

It uses the generated stub, not the SDK's client, whose constructor blocks for up to a minute on the sidecar's health
and which has no ListJobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from dapr.conf.helpers import GrpcEndpoint
from dapr.proto.common.v1 import common_pb2
from dapr.proto.runtime.v1 import dapr_pb2_grpc, jobs_pb2, metadata_pb2
from google.protobuf import any_pb2, duration_pb2  # type: ignore[import-untyped]

from aether_bg.errors import InvalidOption, SchedulerError, shown
from aether_bg.plugins.dapr.door import TOKEN_HEADER
from aether_bg.plugins.dapr.names import PROBE
from aether_bg.plugins.dapr.settings import DaprSettings
from aether_bg.plugins.dapr.trouble import translated

_FAR: Final = "9999-12-31T00:00:00Z"
_PAST: Final = "1970-01-01T00:00:00Z"
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default of two minutes would be felt as an outage
    ("grpc.max_receive_message_length", -1),  # ListJobs of a large store
)


class Sidecar:
    """A channel to daprd. Belongs to the event loop on which it was made; `close` it."""

    def __init__(self, settings: DaprSettings) -> None:
        self.address, tls = _address(settings.endpoint)
        options = [*_OPTIONS, ("grpc.enable_http_proxy", int(tls))]  # http_proxy is not meant for the neighbour
        if tls:
            self._channel = grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.aio.insecure_channel(self.address, options)
        self._stub: Any = dapr_pb2_grpc.DaprStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = ((TOKEN_HEADER, settings.api_token),) if settings.api_token else None
        self._deadline = settings.deadline
        self._source = settings.source
        seconds, rest = divmod(settings.redeliver, 1)
        self._policy = common_pb2.JobFailurePolicy(  # without max_retries: until it is taken
            constant=common_pb2.JobFailurePolicyConstant(
                interval=duration_pb2.Duration(seconds=int(seconds), nanos=int(rest * 1e9))
            )
        )

    async def close(self) -> None:
        await self._channel.close()

    async def metadata(self) -> metadata_pb2.GetMetadataResponse:
        """The sidecar's description of itself. It answers before the app listens, and without a scheduler."""
        found: metadata_pb2.GetMetadataResponse = await self._call(
            self._stub.GetMetadata, metadata_pb2.GetMetadataRequest()
        )
        return found

    async def schedule(self, name: str, due_time: str, body: bytes) -> None:
        """Has `body` delivered once at `due_time`; replaces what was held under the name."""
        job = jobs_pb2.Job(name=name, due_time=due_time, data=any_pb2.Any(value=body), failure_policy=self._policy)
        await self._call(self._stub.ScheduleJob, jobs_pb2.ScheduleJobRequest(job=job, overwrite=True))

    async def delete(self, name: str) -> None:
        """Forgets exactly this name; does nothing if it is not there."""
        await self._call(self._stub.DeleteJob, jobs_pb2.DeleteJobRequest(name=name))

    async def names(self) -> list[str]:
        """The names of all jobs that Dapr holds for this app id, also those of others."""
        found = await self._call(self._stub.ListJobs, jobs_pb2.ListJobsRequest())
        return [job.name for job in found.jobs]

    async def holds(self, name: str) -> bool:
        """Whether Dapr holds a job of this name. Asks the scheduler behind the sidecar."""
        request = jobs_pb2.GetJobRequest(name=name)
        try:
            await self._stub.GetJob(request, timeout=self._deadline, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if "not found" not in (error.details() or ""):
                raise self._translated(error) from None
            return False
        return True

    async def try_write(self) -> None:
        """Makes Dapr hold and forget a job: a scheduler that can be read may still refuse every write."""
        await self.schedule(PROBE, _FAR, b"")
        await self.delete(PROBE)

    async def ask_for_trigger(self) -> None:
        """Makes Dapr deliver the probe at once."""
        await self.schedule(PROBE, _PAST, b"")

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        try:
            return await method(request, timeout=self._deadline, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None

    def _translated(self, error: Any) -> SchedulerError:
        return translated(error.code().name, error.details() or "", self.address, self._source)


def _address(endpoint: str) -> tuple[str, bool]:
    """The gRPC target, and whether it wants TLS."""
    for scheme, tls in (("https://", True), ("http://", False)):
        if endpoint.startswith(scheme):  # the SDK warns of these two, then reads them like this
            host = endpoint.removeprefix(scheme).rstrip("/")
            endpoint = f"{host}?tls={str(tls).lower()}"
    try:
        found = GrpcEndpoint(endpoint)
    except ValueError as error:
        what = f"DaprScheduler(endpoint={shown(endpoint)}) or DAPR_GRPC_ENDPOINT"
        raise InvalidOption(what, str(error), "For example: 127.0.0.1:50001.") from None
    return found.endpoint, found.tls
