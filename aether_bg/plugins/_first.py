"""New one-shot jobs and their first attempts, which most rows are: few columns tell one from another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.model import JobInfo, JobStatus
from aether_bg.model.filled import filled

_COLUMNS: Final = tuple(name for name in attrs.fields_dict(JobInfo) if name != "handler_paused")
OWN: Final = tuple(name for name in _COLUMNS if name in (
    "id", "handler_name", "job_name", "expression_value", "payload", "extra_properties", "created_at", "created_by",
    "modified_by", "due_at", "occurrence", "priority", "anchor", "seq",
))  # fmt: skip
"""The columns of such a row that have to be read."""
_BY_CLAIM: Final = ("status", "attempt", "owner", "started_at", "modified_at")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NEW: Final = JobInfo(
    id=UUID(int=0), handler_name="", job_name="", expression_value="", created_at=_EPOCH, modified_at=_EPOCH,
    anchor=_EPOCH, status=JobStatus.RUNNING, attempt=1,
)  # fmt: skip
_ITS_OWN: Final = ("payload", "extra_properties")
"""Never shared between rows: a handler may alter what it is given."""
COMMON: Final = tuple(name for name in _COLUMNS if name not in (*OWN, *_BY_CLAIM))
"""The columns that are as in NEW."""

_rest = itemgetter(*COMMON, *(name for name in _BY_CLAIM if name != "modified_at"))
AS_NEW: Final = attrs.evolve(NEW, status=JobStatus.SCHEDULED, attempt=0)
_OF_NEW: Final = _rest(vars(AS_NEW))


def is_new(job: JobInfo) -> bool:
    """Whether it waits for its first attempt, and differs from others of the kind in OWN and `modified_at` alone."""
    return bool(_rest(vars(job)) == _OF_NEW)


def made(columns: Iterable[Sequence[Any]], owner: UUID, now: datetime) -> list[JobInfo]:
    """The rows that this owner has claimed at `now`. `columns`: the values of OWN, each of all rows."""
    same, jobs = vars(NEW) | {"owner": owner, "started_at": now, "modified_at": now}, []
    differing: dict[str, Sequence[Any]] = {}
    for name, values in zip(OWN, columns, strict=True):
        first = values[0]
        if (first is None or name not in _ITS_OWN) and values.count(first) == len(values):
            same[name] = first
        else:
            differing[name] = values
    for row in zip(*differing.values(), strict=True):
        fields = same.copy()
        for name, value in zip(differing, row, strict=True):  # half of what `update` costs
            fields[name] = value
        jobs.append(filled(JobInfo, fields))
    return jobs
