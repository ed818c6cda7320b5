"""For tests of apps and plugins. `sidecar` starts a real Dapr for them, `postgres` a real PostgreSQL; import these two
by name.

`foundations` the app in a sandbox · `jobs` what a test does there, `plain` without async · `wanted` what it expects
`still` a scheduler that never calls · `clock` time that tests move · `pytest_plugin` all of it as fixtures
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aether_bg.testing.clock import FakeClock
    from aether_bg.testing.contracts import policy_contract, runner_contract, scheduler_contract, store_contract
    from aether_bg.testing.foundations import Sandbox, sandbox
    from aether_bg.testing.jobs import JobFailed, Jobs
    from aether_bg.testing.plain import PlainJobs
    from aether_bg.testing.still import Ran

__all__ = [
    "FakeClock", "JobFailed", "Jobs", "PlainJobs", "Ran", "Sandbox", "policy_contract", "runner_contract", "sandbox",
    "scheduler_contract", "store_contract",
]  # fmt: skip

_ROOMS = {
    "FakeClock": "clock", "JobFailed": "jobs", "Jobs": "jobs", "PlainJobs": "plain", "Ran": "still",
    "Sandbox": "foundations", "sandbox": "foundations",
    **dict.fromkeys(("policy_contract", "runner_contract", "scheduler_contract", "store_contract"), "contracts"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imported when first named: pytest imports this package at its start, whether a test uses it or not."""
    if name in _ROOMS:
        return getattr(import_module(f"aether_bg.testing.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'aether_bg.testing' has no attribute {name!r}")
