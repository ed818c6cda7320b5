"""Progress: what running attempts report, and who sees it. docs/protocol.md, G1."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import anyio
import pytest

from aether_bg import Aether, InvalidOption, JobContext, JobStatus, NewJob, Progress
from aether_bg._kernel.timings import Timings
from aether_bg.model import Note
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing import sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


async def test_the_last_progress_is_there_after_the_end(app: Aether) -> None:
    @app.handler("Count")
    async def count(ctx: JobContext) -> None:
        for n in range(1, 101):
            ctx.progress(n, 100, "customers")

    @app.handler("Plain")
    def plain(ctx: JobContext) -> None:
        ctx.progress(7)

    @app.handler("Fails")
    async def fails(ctx: JobContext) -> None:
        ctx.progress(1, 2)
        raise ZeroDivisionError

    async with app:
        ids = await app.enqueue_many([NewJob("Count"), NewJob("Plain"), NewJob("Fails")])
        counted, plainly, failed = [(await app.wait(id_, 10)).progress for id_ in ids]
    assert counted is not None
    assert (counted.done, counted.total, counted.note) == (100, 100, "customers")
    assert counted.at.tzinfo is UTC
    assert abs((datetime.now(UTC) - counted.at).total_seconds()) < 60
    assert plainly is not None
    assert (plainly.done, plainly.total, plainly.note, plainly.fraction) == (7, None, None, None)
    assert failed is not None
    assert (failed.done, failed.fraction) == (1, 0.5)


async def test_it_is_seen_from_another_app_while_the_job_runs(make_app: Callable[..., Aether]) -> None:
    app, go = make_app(), anyio.Event()

    @app.handler("Slow")
    async def slow(ctx: JobContext) -> None:
        ctx.progress(1, 3, "first")
        await go.wait()
        ctx.progress(3, 3)

    async with app, make_app().client() as elsewhere:
        job = await app.enqueue("Slow")
        with anyio.fail_after(10):
            while (row := await elsewhere.store.get(job)) is None or row.progress is None:
                await anyio.sleep(0.05)
        assert str(row.progress) == "1 of 3 (33 %), first"
        before = row
        go.set()
        row = await elsewhere.wait(job, 10)
    assert row.progress is not None
    assert row.progress.done == 3
    assert before.to_dict()["progress"]["note"] == "first"


async def test_all_attempts_share_one_write_a_second(make_app: Callable[..., Aether]) -> None:
    writes: list[list[Note]] = []

    store = MemoryStore()
    app = make_app(store, timings=Timings(progress=0.4))
    transact = app.calls.transact

    async def counted(given: Any) -> Any:
        if notes := [write for write in given if isinstance(write, Note)]:
            writes.append(notes)
        return await transact(given)

    app.calls.transact = counted  # type: ignore[method-assign]

    @app.handler("Busy")
    async def busy(ctx: JobContext) -> None:
        for n in range(200):
            ctx.progress(n)
            await anyio.sleep(0.005)

    async with app:
        began = anyio.current_time()
        ids = await app.enqueue_many([NewJob("Busy")] * 20)
        rows = [await app.wait(id_, 30) for id_ in ids]
        took = anyio.current_time() - began
    assert [row.progress and row.progress.done for row in rows] == [199] * 20
    assert 1 <= len(writes) <= took / 0.4 + 2
    assert max(map(len, writes)) == 20
    assert {row.seq for row in rows} == {2}
    assert {row.schedule_rev for row in rows} == {0}


async def test_each_attempt_begins_without_one(app: Aether) -> None:
    seen: list[Any] = []

    @app.handler("Twice", retries=1)
    async def twice(ctx: JobContext) -> None:
        seen.append(ctx.job.progress)
        ctx.progress(ctx.attempt)
        if ctx.attempt == 1:
            raise ZeroDivisionError

    async with app:
        job = await app.enqueue("Twice")
        while len(seen) < 2:
            await anyio.sleep(0.01)
        row = await app.wait(job, 10)
    assert seen == [None, None]
    assert row.progress is not None
    assert row.progress.done == 2


@pytest.mark.parametrize(
    "given",
    [(-1,), (float("nan"),), (float("inf"),), ("3",), (None,), (True,), (1, -1), (1, "x"), (10**30,), (1, 2, 3),
     (1, 2, "x" * 201), (1, 2, "\ud800"), (1j,), ([],)],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_progress_is_refused(app: Aether, given: tuple[Any, ...]) -> None:
    caught: list[BaseException] = []

    @app.handler("Wrong")
    async def wrong(ctx: JobContext) -> None:
        with pytest.raises(InvalidOption, match="must be") as info:
            ctx.progress(*given)
        caught.append(info.value)

    async with app:
        row = await app.wait(await app.enqueue("Wrong"), 10)
    assert row.status is JobStatus.COMPLETED
    assert row.progress is None
    assert len(caught) == 1


async def test_numbers_of_all_kinds(app: Aether) -> None:
    @app.handler("Numbers")
    async def numbers(ctx: JobContext) -> None:
        ctx.progress(Fraction(1, 2), 0)  # type: ignore[arg-type]
        ctx.progress(12, 10, note="more than thought")

    async with app:
        row = await app.wait(await app.enqueue("Numbers"), 10)
    assert row.progress is not None
    assert (row.progress.fraction, str(row.progress)) == (1.0, "12 of 10 (100 %), more than thought")


# -- wait(on_progress=…) -------------------------------------------------------------------------


async def test_waiting_with_progress(app: Aether) -> None:
    @app.handler("Slow")
    async def slow(ctx: JobContext) -> None:
        for n in range(4):
            ctx.progress(n, 3)
            while min(len(seen), len(seen_async)) <= n:
                await anyio.sleep(0.01)

    seen: list[Progress] = []
    seen_async: list[Progress] = []

    async def tell(progress: Progress) -> None:
        await anyio.sleep(0)
        seen_async.append(progress)

    async with app:
        job = await app.enqueue("Slow")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: app.wait(job, 10, on_progress=tell))
            row = await app.wait(job, 10, on_progress=seen.append)
        again: list[Progress] = []
        await app.wait(job, 10, on_progress=again.append)
    assert row.status is JobStatus.COMPLETED
    assert [progress.done for progress in seen] == [0, 1, 2, 3]
    assert [progress.done for progress in seen_async] == [0, 1, 2, 3]
    assert again == seen[-1:]


async def test_waiting_elsewhere_with_progress(make_app: Callable[..., Aether]) -> None:
    app, go = make_app(timings=Timings(progress=0.1)), anyio.Event()

    @app.handler("Slow")
    async def slow(ctx: JobContext) -> None:
        ctx.progress(1, 3)
        await go.wait()
        ctx.progress(3, 3)

    seen: list[float] = []

    def tell(progress: Progress) -> None:
        seen.append(progress.done)
        go.set()

    async with app, make_app().client() as elsewhere:
        job = await app.enqueue("Slow")
        await elsewhere.wait(job, 10, on_progress=tell)
    assert seen == [1, 3]


async def test_what_is_told_may_fail_and_must_be_a_function(app: Aether) -> None:
    @app.handler("Slow")
    async def slow(ctx: JobContext) -> None:
        ctx.progress(1)
        await anyio.sleep(0.2)

    def fail(_: Progress) -> None:
        raise ZeroDivisionError

    async with app:
        job = await app.enqueue("Slow")
        with pytest.raises(ZeroDivisionError):
            await app.wait(job, 10, on_progress=fail)
        with pytest.raises(InvalidOption, match="on_progress must be a function"):
            await app.wait(job, 10, on_progress=3)  # type: ignore[arg-type]
        assert (await app.wait(job, 10)).status is JobStatus.COMPLETED


def test_blocking_with_progress(app: Aether) -> None:
    @app.handler("Plain")
    def plain(ctx: JobContext) -> None:
        for n in range(3):
            ctx.progress(n, 2)

    seen: list[float] = []
    with app.blocking() as jobs:
        jobs.wait(jobs.enqueue("Plain"), 10, on_progress=lambda progress: seen.append(progress.done))
    assert seen[-1] == 2


async def test_sandbox_shows_it(app: Aether) -> None:
    @app.handler("Count")
    async def count(ctx: JobContext) -> None:
        ctx.progress(1, 2, "half")

    async with sandbox(app) as jobs:
        job = await jobs.enqueue("Count")
        await jobs.drain()
        row = await jobs.store.get(job)
        assert row is not None
        assert row.progress is not None
        assert row.progress.at == jobs.clock.now()


async def test_a_handler_called_by_hand_needs_no_app(app: Aether) -> None:
    from aether_bg.testing.contracts.values import a_job

    ctx = JobContext(a_job())
    ctx.progress(1, 2)
    with pytest.raises(InvalidOption):
        ctx.progress(-1)
    await ctx.checkpoint({"row": 1})
    assert ctx.checkpointed == {"row": 1}
