"""What observers receive, after the commit, in the order of registration."""

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
    """A verb changed the job: update, delete, pause, resume, trigger, retry or update_status. The verb is "delete" for
    a job that is CANCELLED because one of its parents was not completed."""

    job: JobInfo
    verb: str


@attrs.frozen
class Started:
    """An attempt begins."""

    context: JobContext


@attrs.frozen
class Ended:
    """An attempt's outcome has been committed. `status`: the job's status now; `due_at`: when it is due next."""

    context: JobContext
    run: JobRun
    status: JobStatus
    due_at: datetime | None


@attrs.frozen
class Missed:
    """Occurrences were closed without a run: skipped, coalesced, overlapped or, after a change of a zone's rules,
    superseded."""

    job: JobInfo
    run: JobRun


@attrs.frozen
class Recovered:
    """A job was taken back from an owner that is gone."""

    job: JobInfo
    run: JobRun


@attrs.frozen
class Problem:
    """An error that has no caller to raise it to. `part`: where; `error`: what."""

    part: str
    error: BaseException | str


Event: TypeAlias = AppStarted | AppStopped | Enqueued | Altered | Started | Ended | Missed | Recovered | Problem
