"""What both test files of the process pool need: an app with a pool, and a look at processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import process_pool_work as work
from process_pool import ProcessPool
from process_pool_work import Note

from aether_bg import Aether, Backoff, JobInfo, RunOutcome

Make = Callable[..., Aether]


def pool_app_of(make_app: Make) -> Make:
    """`pool_app(**handler options)`: an app whose handler Work runs in one worker."""

    def make(*, workers: int = 1, grace: float = 2, **options: Any) -> Aether:
        app = make_app(plugins=[ProcessPool("Work", workers=workers)], grace=grace)
        app.handler("Work", backoff=Backoff(first=0.01), **options)(work.work)
        return app

    return make


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


async def until(true: Callable[[], Any], within: float = 20) -> None:
    with anyio.fail_after(within):
        while not true():
            await anyio.sleep(0.01)


async def run_one(app: Aether, folder: Path, what: str = "", handler: str = "Work") -> JobInfo:
    job = await app.enqueue(handler, payload=Note(str(folder), what))
    return await app.wait(job, timeout=30)


async def outcomes(app: Aether, job: JobInfo | UUID) -> list[RunOutcome | None]:
    history = await app.store.history(job.id if isinstance(job, JobInfo) else job)
    return [run.outcome for run in reversed(history)]
