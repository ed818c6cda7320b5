"""What a failed call to the sidecar means: an outage, a mistake in the set-up, or a refusal of this one call.

`SchedulerUnavailable`: the sidecar or its scheduler does not answer. `SchedulerMisconfigured`: it answers, and calls
cannot succeed until the set-up changes. A plain `SchedulerError`: it answers, and refuses the call.
"""

from __future__ import annotations

from typing import Final

from aether_bg.errors import SchedulerError, SchedulerMisconfigured, SchedulerUnavailable, shown

_TIMER: Final = 'or use scheduler="timer"'


class JobRefused(SchedulerError):
    """Dapr refuses this one job; others are not affected. Not known to happen, since every text sent is ours."""


def translated(code: str, details: str, sidecar: str, source: str) -> SchedulerError:
    """The error for a gRPC status. `code`: its name; `sidecar`: the address; `source`: where that was taken from."""
    what = f"Dapr sidecar {sidecar} (from {source})"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return SchedulerMisconfigured(what, "refuses the API token", "Set DAPR_API_TOKEN to the sidecar's.")
    if "http2 header" in details or "http1" in details:
        return SchedulerMisconfigured(
            what,
            "answers, but does not speak gRPC",
            f"Set {source} to the sidecar's gRPC port, not to its HTTP port (DAPR_HTTP_PORT), {_TIMER}.",
        )
    if code == "UNIMPLEMENTED":
        return SchedulerMisconfigured(
            what,
            "does not know the Jobs API",
            f"Upgrade Dapr to 1.18.3 or later, and check that {source} is the gRPC port of a sidecar, {_TIMER}.",
        )
    if "clients are disabled" in details:
        return SchedulerMisconfigured(
            what,
            "has no scheduler behind it",
            f"Run `dapr init` once (or start daprd with --scheduler-host-address), {_TIMER}.",
        )
    if "larger than max" in details:
        return SchedulerError(
            what,
            f"cannot send a list of all its jobs: {shown(details)}",
            "Raise its largest message: dapr.io/max-body-size on Kubernetes, --max-body-size for daprd and `dapr run`. "
            "Until then each job is compared by itself.",
        )
    if "failed validation" in details:
        return JobRefused(what, f"refused a job: {shown(details)}")
    if code == "UNAVAILABLE":
        return SchedulerUnavailable(
            what, "cannot be reached", f"Start it with `dapr run`, correct {source}, {_TIMER}. Jobs stay in the store."
        )
    if code == "DEADLINE_EXCEEDED" or "DeadlineExceeded" in details or "Unavailable" in details:
        return SchedulerUnavailable(
            what, "its scheduler does not answer", f"Start Dapr's scheduler, {_TIMER}. Jobs stay in the store."
        )
    if "space exceeded" in details:
        return SchedulerError(
            what,
            "its scheduler takes no more jobs, because its database is full",
            "Give it more space (--etcd-space-quota, a larger volume). Jobs stay in the store.",
        )
    return SchedulerError(what, f"answered {code}: {shown(details)}", "Jobs stay in the store.")
