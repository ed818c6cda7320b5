"""What is sent to Dapr and comes back: a name and a small JSON body, made of ids alone (docs/protocol.md, C1, D1, D3).

No text of a user is ever sent: Dapr's own parsers are not hardened against it.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import attrs

from aether_bg.model import JobInfo

PROBE: Final = "aether.probe"
"""A Dapr job that stands for none of our jobs: it shows whether Dapr takes jobs, and delivers triggers."""
_PREFIX: Final = "aether."
_NAME: Final = re.compile(r"aether\.([0-9a-f]{32})\.([0-9a-f]{32})\.(0|[1-9][0-9]{0,17})", re.ASCII)


class NotOurs(ValueError):
    """A trigger whose name or body this plugin did not write. `readable`: at least the name has our form."""

    def __init__(self, why: str, *, readable: bool) -> None:
        self.readable = readable
        super().__init__(why)


@attrs.frozen
class Trigger:
    """One due instant of one job, as Dapr delivers it."""

    store_id: UUID
    job_id: UUID
    seq: int
    occurrence: datetime


def name_of(store_id: UUID, job_id: UUID, seq: int) -> str:
    """The name of the Dapr job that stands for this seq of this job."""
    return f"{_PREFIX}{store_id.hex}.{job_id.hex}.{seq}"


def read_name(name: str) -> tuple[UUID, UUID, int] | None:
    """(store, job, seq) of a name that `name_of` made; None for any other."""
    found = _NAME.fullmatch(name)
    return (UUID(hex=found[1]), UUID(hex=found[2]), int(found[3])) if found else None


def ours(name: str) -> bool:
    """Whether this plugin gave the name: to a job, or to its probe."""
    return name == PROBE or read_name(name) is not None


def body_of(store_id: UUID, job: JobInfo) -> bytes:
    """The JSON body of a trigger."""
    due = job.occurrence or job.due_at
    assert due is not None  # asked for waiting rows only
    body = {"store": str(store_id), "job": str(job.id), "seq": job.seq, "occurrence": time_of(due)}
    return json.dumps(body, separators=(",", ":")).encode()


def read_trigger(name: str, body: bytes) -> Trigger:
    """A trigger as it came from the wire, name and body agreeing. Raises `NotOurs`."""
    ids = read_name(name)
    if ids is None:
        raise NotOurs("its name is not one of ours", readable=False)
    try:
        found = json.loads(body)
        trigger = Trigger(UUID(found["store"]), UUID(found["job"]), found["seq"], _read_time(found["occurrence"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NotOurs("its body is not one of ours", readable=True) from None
    if type(trigger.seq) is not int or ids != (trigger.store_id, trigger.job_id, trigger.seq):
        raise NotOurs("its name and its body speak of different jobs", readable=True)
    return trigger


def time_of(when: datetime) -> str:
    """RFC 3339 in UTC."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _read_time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.utcoffset() != timedelta(0):
        raise ValueError("not in UTC")
    return when.astimezone(UTC)


def waits(job: JobInfo) -> bool:
    """Whether the scheduler should hold the row: it waits for an instant and is not paused."""
    return job.waiting and job.due_at is not None


def stays(job: JobInfo) -> bool:
    """Whether it may go on holding the row: as `waits`, and while only the handler is paused (docs/protocol.md, L3)."""
    return waits(job.under(()))
