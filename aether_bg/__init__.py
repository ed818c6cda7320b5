"""Scheduled and background jobs in your own process: crash-safe, small, every layer a plugin.

from aether_bg import Aether

app = Aether("jobs.db")

@app.handler("Backup", schedule="0 3 * * *", retries=3)
def backup() -> None: ...

app.run()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio  # noqa: F401 - these three come at once, as every use needs them
import attrs  # noqa: F401
import pluggy  # noqa: F401

from aether_bg import errors
from aether_bg.errors import *  # noqa: F403 - every error is part of the surface; errors.__all__ lists them

if TYPE_CHECKING:
    from aether_bg import schedule as schedule
    from aether_bg._app.aether import Aether
    from aether_bg._app.new_job import NewJob
    from aether_bg._handlers.work import UnitOfWork
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
    from aether_bg.plugins.dapr import DaprScheduler
    from aether_bg.plugins.postgres import PostgresStore as PostgresStore  # not in __all__: it needs an extra
    from aether_bg.plugins.sqlite import SQLiteStore

__version__ = "0.1.0"

_PLUGINS = {
    "SQLiteStore": "aether_bg.plugins.sqlite", "PostgresStore": "aether_bg.plugins.postgres",
    "DaprScheduler": "aether_bg.plugins.dapr",
}  # fmt: skip
_OTHERS = {
    "Aether": "aether_bg._app.aether", "NewJob": "aether_bg._app.new_job", "UnitOfWork": "aether_bg._handlers.work",
    "hookimpl": "aether_bg.hookspecs",
} | dict.fromkeys((
    "Backoff", "CancelReason", "GiveUp", "JobContext", "JobInfo", "JobRun", "JobStatus", "JobType", "Parent",
    "Progress", "RunOutcome", "Snooze",
), "aether_bg.model")  # fmt: skip
_MODULES = ("bridge", "explain", "hookspecs", "model", "protocols", "schedule")

__all__ = [
    "Aether", "Backoff", "CancelReason", "DaprScheduler", "GiveUp", "JobContext", "JobInfo", "JobRun", "JobStatus",
    "JobType", "NewJob", "Parent", "Progress", "RunOutcome", "SQLiteStore", "Snooze", "UnitOfWork",
    "hookimpl", "schedule", *errors.__all__,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A plugin is imported when it is first named, the rest when any of it is."""
    if name in _PLUGINS:
        return getattr(import_module(_PLUGINS[name]), name)
    if name in _MODULES:
        return import_module(f"aether_bg.{name}")
    if name in _OTHERS:
        globals().update({other: getattr(import_module(module), other) for other, module in _OTHERS.items()})
        return globals()[name]
    raise AttributeError(f"module 'aether_bg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
