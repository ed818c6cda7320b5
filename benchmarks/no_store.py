"""A store that costs nothing: what a drain on it takes is the kernel's own time, above any store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import attrs

from aether_bg import JobInfo, JobRun, JobStatus, hookimpl
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Purge,
    Query,
    Ran,
    Runs,
    Stats,
    Write,
)


class NoStore:
    """Hands out `jobs`, made beforehand and already RUNNING, and says yes to every write."""

    def __init__(self, jobs: list[JobInfo]) -> None:
        self._jobs = jobs
        self._id = uuid4()

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        return [None] * len(writes)

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        taken = self._jobs[: claim.limit]
        del self._jobs[: claim.limit]
        return Claimed(jobs=tuple(taken), next_due=claim.now if self._jobs else None)

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return Alive(store_id=self._id, beats={beat.owner: 0})

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return []

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return []

    @hookimpl
    async def store_stats(self) -> Stats:
        return Stats(store_id=self._id)

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return []

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return []

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return 0


def claimed(count: int, handler: str = "Noop", payload: Any = None) -> list[JobInfo]:
    """Rows as a claim gives them: due now, RUNNING, at their first attempt."""
    now = datetime.now(UTC)
    one = JobInfo(
        id=uuid4(), handler_name=handler, job_name="", expression_value="@once", payload=payload,
        status=JobStatus.RUNNING, seq=1, attempt=1, created_at=now, modified_at=now, anchor=now, due_at=now,
        occurrence=now, started_at=now,
    )  # fmt: skip
    made = ((uuid4(), n) for n in range(count))
    return [attrs.evolve(one, id=id_, job_name=f"{handler}-{n}") for id_, n in made]
