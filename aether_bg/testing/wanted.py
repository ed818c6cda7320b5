"""What a test expects to be enqueued: matches it against rows, and says what exists instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from aether_bg.model import JobInfo

ANY: Final[Any] = type("Any", (), {"__repr__": lambda self: "ANY"})()
"""Matches anything. (None is a payload.)"""
_MOST: Final = 20


@attrs.frozen(kw_only=True)
class Wanted:
    """`payload`: a mapping matches by its keys, anything else as a whole. `due`: to the microsecond of the store."""

    handler_name: str
    job_name: str | None
    payload: Any
    due: datetime | None
    metadata: Mapping[str, Any] | None
    schedule: str | None

    def matches(self, job: JobInfo) -> bool:
        return (
            job.handler_name == self.handler_name
            and (self.job_name is None or job.job_name == self.job_name)
            and (self.payload is ANY or _within(self.payload, job.payload))
            and (self.due is None or due_of(job) == self.due)
            and (self.metadata is None or _within(self.metadata, job.metadata))
            and (self.schedule is None or job.schedule == self.schedule)
        )

    def __str__(self) -> str:
        more = {
            "job_name": self.job_name, "payload": None if self.payload is ANY else repr(self.payload),
            "due": self.due and _instant(self.due), "metadata": self.metadata, "schedule": self.schedule,
        }  # fmt: skip
        bounds = ", ".join(f"{name}={value}" for name, value in more.items() if value is not None)
        return f"{self.handler_name} with {bounds}" if bounds else self.handler_name


def due_of(job: JobInfo) -> datetime | None:
    """When it runs next; for a job that has ended, its last occurrence."""
    return job.due_at or job.occurrence or job.last_occurrence


def due_from(due: Any, now: datetime) -> datetime | None:
    """An aware datetime, or a timedelta from now."""
    if isinstance(due, timedelta):
        return now + due
    return due.astimezone(UTC) if isinstance(due, datetime) else None


def listed(jobs: Sequence[JobInfo]) -> str:
    """The existing jobs, a line each."""
    if not jobs:
        return "There is no job at all."
    lines = [f"  {_line(job)}" for job in jobs[:_MOST]]
    more = [f"  and {len(jobs) - _MOST} more"] if len(jobs) > _MOST else []
    return "\n".join(["There is:", *lines, *more])


def _line(job: JobInfo) -> str:
    due = due_of(job)
    when = f"due {_instant(due)}" if due is not None else "not due"
    return f"{job.handler_name} {job.job_name!r} {job.status.name} {when} {job.schedule!r} payload={job.payload!r}"


def _instant(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}{f'.{when.microsecond:06}' if when.microsecond else ''}Z"


def _within(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return all(key in value and value[key] == each for key, each in wanted.items())
    return bool(wanted == value)
