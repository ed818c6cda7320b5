"""Due rows that somebody holds at the moment of a claim are passed over, and looked for again soon."""

from __future__ import annotations

import time
from datetime import timedelta

import anyio
import psycopg
import pytest

from aether_bg import Aether, JobContext, JobStatus

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


def app_on(url: str) -> Aether:
    app = Aether(url, scheduler="timer")

    @app.handler("Work")
    async def work() -> None: ...

    @app.handler("After")
    async def after(ctx: JobContext) -> None: ...

    return app


async def test_a_row_held_by_a_stranger_starts_once_it_is_let_go(url: str) -> None:
    app = app_on(url)
    async with app:
        stranger = psycopg.connect(url)
        job = await app.enqueue("Work", schedule=timedelta(seconds=0.3))
        stranger.execute("SELECT FROM aether_bg.jobs WHERE id = %s FOR SHARE", [job])
        await anyio.sleep(0.7)
        found = await app.store.get(job)
        assert found is not None
        assert found.status is JobStatus.SCHEDULED
        stranger.close()
        with anyio.fail_after(3):  # the scheduler's longest sleep is five seconds
            await app.wait(job)


async def test_a_parent_is_not_forgotten_while_its_child_is_stored(url: str) -> None:
    """Storing the child holds the parent's row."""
    app, longest = app_on(url), 0.0
    async with app:
        for _ in range(30):
            began = time.monotonic()
            parent = await app.enqueue("Work")
            await app.wait(await app.enqueue("After", after=[parent]))
            longest = max(longest, time.monotonic() - began)
    assert longest < 4
