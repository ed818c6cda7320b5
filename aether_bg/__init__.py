"""Scheduled and background jobs in your own process: crash-safe, small, every layer a plugin.

from aether_bg import Aether

app = Aether("jobs.db")

@app.handler("Backup", schedule="0 3 * * *", retries=3)
def backup() -> None: ...

app.run()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aether_bg import errors, schedule
from aether_bg._app.aether import Aether
from aether_bg._app.new_job import NewJob
from aether_bg._handlers.work import UnitOfWork
from aether_bg.errors import *  # noqa: F403 - every error is part of the surface; errors.__all__ lists them
from aether_bg.hookspecs import hookimpl
from aether_bg.model import (
    Backoff,
    CancelReason,
    GiveUp,
    JobContext,
    JobInfo,
    JobRun,
    JobStatus,
    JobType,
    Parent,
    Progress,
    RunOutcome,
    Snooze,
)

if TYPE_CHECKING:
    from aether_bg.plugins.dapr import DaprScheduler
    from aether_bg.plugins.postgres import PostgresStore as PostgresStore  # not in __all__: it needs an extra
    from aether_bg.plugins.sqlite import SQLiteStore

__version__ = "0.1.0"

_LAZY = {
    "SQLiteStore": "aether_bg.plugins.sqlite", "PostgresStore": "aether_bg.plugins.postgres",
    "DaprScheduler": "aether_bg.plugins.dapr",
}  # fmt: skip

__all__ = [
    "Aether", "Backoff", "CancelReason", "DaprScheduler", "GiveUp", "JobContext", "JobInfo", "JobRun", "JobStatus",
    "JobType", "NewJob", "Parent", "Progress", "RunOutcome", "SQLiteStore", "Snooze", "UnitOfWork",
    "hookimpl", "schedule", *errors.__all__,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Plugins are imported when they are first named."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'aether_bg' has no attribute {name!r}")
