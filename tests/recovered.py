"""What a process that was killed has left is run to its end."""

from __future__ import annotations

from uuid import UUID

import anyio

from aether_bg import Aether, JobInfo


async def run_to_the_end(app: Aether) -> dict[UUID, JobInfo]:
    """All jobs of a running app, once none waits or runs."""
    with anyio.fail_after(60):
        await app.drain()
        while await app.store.get_active():  # first the dead owner's jobs are taken back
            await anyio.sleep(0.05)
    return {job.id: job for job in await app.store.find(limit=100_000)}
