"""What remains once the handler's own transaction has ended its job: its result, its children, what it reported."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from aether_bg import Aether, JobContext, JobStatus

pytestmark = pytest.mark.anyio
WORKER = Path(__file__).with_name("completing.py")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def commit(url: str, ctx: JobContext) -> None:
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await ctx.complete(conn)
        await conn.commit()


def app_with(url: str, handle: Any, settings: Any = None, **options: Any) -> Aether:
    """`Complete` is `handle`; `Child` returns the result of its first parent."""
    app = Aether(url, scheduler="timer", **(settings or {}))
    app.handler("Complete", **options)(handle)

    @app.handler("Child", keep_result=True)
    async def child(ctx: JobContext) -> Any:
        (parent,) = await ctx.parents()
        return parent.result or "none"

    return app


async def with_child(app: Aether) -> tuple[Any, Any]:
    async with app.client() as jobs:
        parent = await jobs.enqueue("Complete", "parent")
        return parent, await jobs.enqueue("Child", "child", after=[parent])


async def test_children_find_the_result_after_another_owner_joins(url: str) -> None:
    async def handle(ctx: JobContext) -> int:
        await commit(url, ctx)
        async with Aether(url, scheduler="timer"):  # another process starts
            await anyio.sleep(1.5)
        return 42

    app = app_with(url, handle, keep_result=True)
    parent, child = await with_child(app)
    async with app:
        assert (await app.wait(parent, 20)).status is JobStatus.COMPLETED
        assert await app.result(child, timeout=20) == 42
        (run,) = await app.store.history(parent)
    assert (run.outcome, run.result) == ("completed", 42)


@pytest.mark.parametrize("end", ["raises", "takes too long", "is too large"])
async def test_without_a_result_the_children_are_released_all_the_same(url: str, end: str) -> None:
    async def handle(ctx: JobContext) -> str:
        await commit(url, ctx)
        if end == "raises":
            raise RuntimeError("after the commit")
        if end == "takes too long":
            await anyio.sleep(60)
        return "x" * 2000

    app = app_with(url, handle, {"max_payload": 1000}, keep_result=True, timeout=2)
    parent, child = await with_child(app)
    async with app:
        assert await app.result(child, timeout=20) == "none"
        assert (await app.wait(parent, 20)).status is JobStatus.COMPLETED


async def test_what_follows_a_commit_is_not_cancelled(url: str) -> None:
    seen: list[str] = []

    async def handle(ctx: JobContext) -> None:
        await commit(url, ctx)
        await anyio.sleep(1.5)  # several looks at the rows that this process runs
        seen.append("ran on")

    app = app_with(url, handle)
    _, child = await with_child(app)
    async with app:
        assert (await app.wait(child, 20)).status is JobStatus.COMPLETED
        await app.drain()
    assert seen == ["ran on"]


async def test_a_process_that_dies_before_it_returns_leaves_no_child_waiting(url: str) -> None:
    def handle() -> None: ...

    app = app_with(url, handle)
    parent, child = await with_child(app)
    with ExitStack() as stack:
        process = subprocess.Popen([sys.executable, str(WORKER), url], stdout=subprocess.PIPE, text=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        assert process.stdout.readline() == "committed\n"
        async with app:  # it joins while the other one lives, and waits for its result
            row = await app.store.get(child)
            assert row is not None
            assert row.status is JobStatus.SCHEDULED
            process.send_signal(signal.SIGKILL)
            assert await app.result(child, timeout=20) == "none"
            row = await app.store.get(parent)
            assert row is not None
            assert row.status is JobStatus.COMPLETED


async def test_progress_is_kept_and_a_checkpoint_dropped(url: str) -> None:
    """As with any other outcome (docs/protocol.md, G1 and G2)."""
    found: list[Any] = []

    async def handle(ctx: JobContext) -> None:
        found.append(ctx.checkpointed)
        await ctx.checkpoint({"page": 3})
        ctx.progress(1, 7)
        while (row := await app.store.get(ctx.job.id)) is not None and row.progress is None:
            await anyio.sleep(0.01)
        ctx.progress(7, 7, "all")  # to be written a second after the first
        await commit(url, ctx)

    app = app_with(url, handle)
    async with app.client() as jobs:
        once = await jobs.enqueue("Complete", "once")
        again = await jobs.enqueue("Complete", "again", schedule="@every 1s", repeats=2)
    async with app:
        job = await app.wait(once, 20)
        assert (await app.wait(again, 20)).status is JobStatus.COMPLETED
    assert job.progress is not None
    assert (job.progress.done, job.progress.note, job.checkpoint) == (7, "all", None)
    assert found == [None, None, None]


async def test_a_name_is_given_up_with_the_commit(url: str) -> None:
    async def handle(ctx: JobContext) -> None:
        await commit(url, ctx)
        ids.append(await app.enqueue("Child", "parent", after=[ctx.job.id]))

    ids: list[Any] = []
    app = app_with(url, handle)
    async with app.client() as jobs:
        first = await jobs.enqueue("Complete", "parent", unique_for=timedelta(0))
    async with app:
        assert (await app.wait(first, 20)).status is JobStatus.COMPLETED
        assert (await app.wait(ids[0], 20)).status is JobStatus.COMPLETED
    assert ids != [first]


async def test_the_next_occurrence_waits_for_the_return_of_the_one_before(url: str) -> None:
    """Its row is free with the commit; the code is never run twice at once (docs/protocol.md, P7)."""
    told: list[str] = []

    async def handle(ctx: JobContext) -> int:
        told.append("begins")
        await commit(url, ctx)
        await anyio.sleep(2.5)  # the next one is due, and claimed
        told.append("returns")
        return len(told)

    app = app_with(url, handle, keep_result=True)
    async with app.client() as jobs:
        again = await jobs.enqueue("Complete", "again", schedule="@every 1s", repeats=2)
    async with app:
        assert (await app.wait(again, 30)).status is JobStatus.COMPLETED
        await app.drain()
        assert [run.outcome for run in await app.store.history(again)] == ["completed", "completed"]
    assert told == ["begins", "returns"] * 2


async def test_a_limit_counts_the_row_until_the_commit(url: str) -> None:
    async def handle(ctx: JobContext) -> None:
        await anyio.sleep(0.5)
        await commit(url, ctx)

    app = app_with(url, handle, concurrency=1)
    async with app.client() as jobs:
        ids = [await jobs.enqueue("Complete", name) for name in ("one", "two")]
    async with app:
        await app.drain()
        runs = sorted([(await app.store.history(id_))[0] for id_ in ids], key=lambda run: run.started_at)
    assert runs[0].finished_at <= runs[1].started_at
