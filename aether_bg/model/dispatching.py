"""What crosses the dispatch and lifecycle hooks: handlers, attempts, failures, decisions, events."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import attrs

from aether_bg.model.failing import Backoff
from aether_bg.model.job import JobInfo, JobRun, JobStatus, log_fields

if TYPE_CHECKING:
    from logging import LoggerAdapter

    _Adapter = LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

Invocation: TypeAlias = partial[Any]
"""A handler with its arguments bound. `.func, .args, .keywords` can be shipped to another process."""


@attrs.frozen(kw_only=True, eq=False)
class HandlerInfo:
    """A registered handler: its name, its code, and how its attempts are bounded (seconds)."""

    name: str
    target: Callable[..., Any]
    is_async: bool
    payload_type: Any
    retries: int = 0
    backoff: Backoff = attrs.field(factory=Backoff)
    timeout: float | None = None


class _JobLog(_Adapter):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


@attrs.define(eq=False, repr=False)
class JobContext:
    """One attempt, as its handler and the wraps around it see it."""

    job: JobInfo
    """The row at the claim."""
    deadline: datetime | None = None
    """When the attempt will be cancelled, by the app's clock; None without a timeout."""

    @property
    def attempt(self) -> int:
        """1 for the first try at this occurrence."""
        return self.job.attempt

    @property
    def occurrence(self) -> datetime:
        """The due instant this attempt is for."""
        assert self.job.occurrence is not None  # a claimed row always has one
        return self.job.occurrence

    @property
    def token(self) -> int:
        """The fencing token: only its holder can record an outcome (PROTOCOL C1)."""
        return self.job.seq

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this occurrence: a unique key for effects elsewhere (PROTOCOL W9)."""
        return f"{self.job.id}/{self.occurrence:%Y-%m-%dT%H:%M:%S.%fZ}"

    @property
    def log(self) -> LoggerAdapter[logging.Logger]:
        """The logger `aether_bg.job.<handler>`; its records carry `job_id`, `job_name`, `handler` and `attempt`, beside
        the `extra` of a call."""
        return _JobLog(logging.getLogger(f"aether_bg.job.{self.job.handler_name}"), log_fields(self.job))

    def __repr__(self) -> str:
        return f"<JobContext {self.job.job_name!r} attempt {self.attempt} token {self.token}>"


@attrs.frozen
class Raised:
    """The handler (or something around it) raised."""

    error: BaseException


@attrs.frozen
class TimedOut:
    """The attempt was cancelled after `seconds`."""

    seconds: float


@attrs.frozen
class Crashed:
    """The process `owner` died, or its lease expired, while it ran the attempt."""

    owner: UUID | None


Failure: TypeAlias = Raised | TimedOut | Crashed


@attrs.frozen
class RetryAt:
    """Try this occurrence again at `when` (aware); counts as a retry."""

    when: datetime


@attrs.frozen
class GiveUpNow:
    """No further attempt at this occurrence."""

    reason: str


Decision: TypeAlias = RetryAt | GiveUpNow


class Fired(StrEnum):
    """What the door answers a trigger (PROTOCOL C2)."""

    CLAIMED = "claimed"
    CONSUMED = "consumed"
    """Old news: acknowledge it and do nothing."""
    RETRY = "retry"
    """Not now: deliver it again later."""


# -- events: after the commit, in the order of registration ---------------------------------------


@attrs.frozen
class AppStarted:
    owner: UUID
    store_id: UUID


@attrs.frozen
class AppStopped:
    owner: UUID


@attrs.frozen
class Enqueued:
    job: JobInfo


@attrs.frozen
class Altered:
    """A verb moved the job: update, delete, pause, resume, trigger, retry or update_status."""

    job: JobInfo
    verb: str


@attrs.frozen
class Started:
    """An attempt begins."""

    context: JobContext


@attrs.frozen
class Ended:
    """An attempt's outcome has been committed. `status`: what the job is now; `due_at`: when it comes next."""

    context: JobContext
    run: JobRun
    status: JobStatus
    due_at: datetime | None


@attrs.frozen
class Missed:
    """Occurrences were closed without a run: skipped, coalesced, overlapped or, by new rules of a zone, superseded."""

    job: JobInfo
    run: JobRun


@attrs.frozen
class Recovered:
    """A job was taken back from an owner that is gone."""

    job: JobInfo
    run: JobRun


@attrs.frozen
class Problem:
    """Something could not be raised to a caller. `part`: where; `error`: what."""

    part: str
    error: BaseException | str


Event: TypeAlias = AppStarted | AppStopped | Enqueued | Altered | Started | Ended | Missed | Recovered | Problem
