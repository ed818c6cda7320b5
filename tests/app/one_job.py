"""A job by its name."""

from __future__ import annotations

from aether_bg import Aether, JobInfo


async def job_of(app: Aether, name: str = "job") -> JobInfo:
    found = await app.store.get_by_job_name(name)
    assert found is not None
    return found
