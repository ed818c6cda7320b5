"""Which job's value a codec gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

import attrs

if TYPE_CHECKING:
    from aether_bg.model.job import JobInfo

What: TypeAlias = Literal["payload", "result", "checkpoint"]


@attrs.frozen(kw_only=True)
class About:
    """What a value is, and of which job. A job keeps its id and name; an `update` and `if_exists="replace"` may give it
    another handler and other metadata. They encode the payload again, but not the results and the checkpoint that are
    already stored."""

    what: What
    job_id: UUID
    handler_name: str
    job_name: str
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, job: JobInfo, what: What = "payload") -> About:
        return cls(
            what=what, job_id=job.id, handler_name=job.handler_name, job_name=job.job_name, metadata=job.metadata
        )
