"""What observers are told, after the commit, in the order of registration."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import attrs

from aether_bg.model.context import JobContext
from aether_bg.model.job import JobInfo, JobRun, JobStatus


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
    """A verb moved the job: update, delete, pause, resume, trigger, retry or update_status. A job that is CANCELLED
    because one that it runs after was not completed comes with "delete"."""

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
