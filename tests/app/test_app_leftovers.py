"""The library leaves nothing behind in its host, and takes nothing from it."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from aether_bg import Aether, JobStatus, WaitTimeout

pytestmark = pytest.mark.anyio


async def test_waits_on_jobs_run_elsewhere_keep_nothing(make_app: Callable[..., Aether], path: Path) -> None:
    worker, waiter = make_app(), Aether(path, scheduler="timer")
    worker.handler("Work")(lambda: None)
    async with waiter, worker:
        waiters = waiter._running.kernel.journal._waiters
        for _ in range(5):
            job = await worker.enqueue("Work")
            assert (await waiter.wait(job, 20)).status is JobStatus.COMPLETED
        later = await worker.enqueue("Work", schedule=timedelta(days=1))
        with pytest.raises(WaitTimeout):
            await waiter.wait(later, 0.01)
        gc.collect()
        assert len(waiters) == 0
        for _ in range(5):
            other = await worker.enqueue("Work", schedule=timedelta(days=1))
            with anyio.move_on_after(0.02):
                await waiter.wait(other)
        gc.collect()
        assert len(waiters) <= 1, "the traceback of the last cancellation may hold one"


async def test_an_app_starts_and_stops_while_all_threads_of_the_host_are_busy(make_app: Callable[..., Aether]) -> None:
    app = make_app()
    app.handler("Work")(lambda: None)
    leave = threading.Event()
    slots = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
    async with anyio.create_task_group() as group:
        for _ in range(slots):
            group.start_soon(anyio.to_thread.run_sync, leave.wait)
        await anyio.sleep(0.1)
        try:
            with anyio.fail_after(20):
                async with app:
                    assert (await app.wait(await app.enqueue("Work"), 10)).status is JobStatus.COMPLETED
                    assert (await app.store.stats()).completed == 1
        finally:
            leave.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_after_the_stop_has_threads_of_its_own(make_app: Callable[..., Aether]) -> None:
    """The parent's threads wait idle, and the child has none of them."""
    app = make_app()
    app.handler("Work")(lambda: None)

    def use() -> bool:
        with app.blocking() as jobs:
            return jobs.wait(jobs.enqueue("Work"), 10).status is JobStatus.COMPLETED

    assert use()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            watch = threading.Timer(15, os._exit, (2,))
            watch.daemon = True
            watch.start()
            code = 0 if use() else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
