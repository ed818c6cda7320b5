"""Jobs that run after others (docs/protocol.md, A)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from aether_bg import (
    Aether,
    InvalidOption,
    InvalidTransition,
    JobConflict,
    JobContext,
    JobInfo,
    JobNotFound,
    JobStatus,
    UnitOfWork,
    hookimpl,
)
from aether_bg._kernel.timings import Timings
from aether_bg.model import Altered, Event
from aether_bg.plugins.memory import MemoryStore
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]
HOUR = timedelta(hours=1)


class Engine:
    """A push scheduler that the test works by hand; it notes what is armed."""

    kernel: Kernel

    def __init__(self) -> None:
        self.armed: list[tuple[str, bool]] = []

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        self.armed.append((job.job_name, job.waiting))
        return True

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.kernel = kernel
        await anyio.sleep_forever()


def works(app: Aether, ran: list[str] | None = None) -> Aether:
    """Handlers "Work", "Fail" and "Merge", which note what ran, in order."""
    ran = [] if ran is None else ran

    @app.handler("Work", keep_result=True)
    async def work(args: str = "") -> str:
        ran.append(args)
        return args.upper()

    @app.handler("Fail")
    async def fail() -> None:
        raise ValueError("boom")

    @app.handler("Merge", keep_result=True)
    async def merge(ctx: JobContext) -> list[Any]:
        parents = await ctx.parents()
        ran.append("merge")
        return [[parent.job_name, parent.status.name, parent.result, parent.error] for parent in parents]

    return app


async def of(app: Aether, job: UUID | str) -> JobInfo:
    row = await (app.store.get(job) if isinstance(job, UUID) else app.store.get_by_job_name(job))
    assert row is not None
    return row


@pytest.mark.parametrize("store", ["file", "memory"])
async def test_a_child_runs_after_all_of_its_parents(make_app: Make, store: str) -> None:
    ran: list[str] = []
    async with works(make_app(MemoryStore() if store == "memory" else None), ran) as app:
        await app.pause(handler="Work")
        given = [await app.enqueue("Work", f"p{n}", str(n)) for n in range(3)]
        child = await app.enqueue("Merge", "merge:7", after=[given[2], "p0", await of(app, "p1")])
        row = await of(app, child)
        assert (row.status, row.parents, row.waits_for) == (JobStatus.SCHEDULED, 3, 3)
        await app.resume(handler="Work")
        assert [p[:3] for p in await app.result(child, 20)] == [
            ["p2", "COMPLETED", "2"], ["p0", "COMPLETED", "0"], ["p1", "COMPLETED", "1"],
        ]  # fmt: skip
        assert ran[-1] == "merge"


async def test_a_chain_is_started_at_once(make_app: Make) -> None:
    """The release wakes the scheduler: nothing waits for its next look."""
    async with works(make_app(timings=Timings(nap=60))) as app:
        last = await app.enqueue("Work", payload="first", schedule=timedelta(seconds=0.2))
        for n in range(10):
            last = await app.enqueue("Work", payload=str(n), after=last)
        began = time.monotonic()
        await app.wait(last, 30)
        assert time.monotonic() - began < 20


async def test_what_a_parent_leaves_is_typed(make_app: Make) -> None:
    app = make_app()

    @app.handler("Sizes", keep_result=True)
    async def sizes() -> dict[str, timedelta]:
        return {"a": timedelta(seconds=3)}

    @app.handler("Read", keep_result=True)
    async def read(ctx: JobContext) -> bool:
        (parent,) = await ctx.parents()
        return parent.result == {"a": timedelta(seconds=3)}

    @app.handler("Plain", keep_result=True)
    def plain(ctx: JobContext) -> bool:
        (parent,) = app.sync.store.find(parents_of=ctx.job.id)
        return bool(app.sync.result(parent) == {"a": timedelta(seconds=3)})

    app.payload_type(timedelta, encode=timedelta.total_seconds, decode=lambda value: timedelta(seconds=value))
    async with app:
        parent = await app.enqueue("Sizes")
        assert await app.result(await app.enqueue("Read", after=[parent]), 10) is True
        assert await app.result(await app.enqueue("Plain", after=parent), 10) is True


async def test_a_failure_cancels_what_follows(make_app: Make) -> None:
    async with works(make_app()) as app:
        bad = await app.enqueue("Fail", "bad", schedule=timedelta(seconds=0.3))
        child = await app.enqueue("Merge", "child", after=[bad])
        grandchild = await app.enqueue("Merge", "grandchild", after=[child])
        anyway = await app.enqueue("Merge", after=[bad, child], after_any=True)
        assert [entry[:2] for entry in await app.result(anyway, 20)] == [["bad", "FAILED"], ["child", "CANCELLED"]]
        for job in (child, grandchild):
            row = await of(app, job)
            assert (row.status, row.last_error) == (JobStatus.CANCELLED, "parent 'bad' failed: ValueError: boom")
            assert not row.holds_name
        assert "It was cancelled" in await app.explain(grandchild)
        assert "parent 'bad' failed: ValueError: boom. Retry that job first" in await app.explain(grandchild)
        late = await app.wait(await app.enqueue("Merge", "child", after=bad), 1)
        assert late.last_error == "parent 'bad' failed: ValueError: boom"


async def test_a_retry_of_a_parent_and_of_a_child(fake_app: Aether, clock: FakeClock) -> None:
    fails = [True]

    @fake_app.handler("Once")
    async def once() -> None:
        if fails[0]:
            raise ValueError("boom")

    async with works(fake_app) as app:
        bad, child = await app.enqueue("Once", "bad"), await app.enqueue("Merge", "child", after="bad")
        await app.drain()
        with pytest.raises(InvalidTransition, match=r"it runs after 'bad' .*, which is FAILED\. Retry that one first"):
            await app.retry(child)
        fails[0] = False
        await app.retry(bad)
        assert (await of(app, child)).status is JobStatus.CANCELLED  # it stays so until it is retried itself
        await app.retry(child)
        row = await of(app, child)
        assert (row.status, row.waits_for, row.holds_name) == (JobStatus.SCHEDULED, 1, True)
        await app.drain()
        assert (await of(app, child)).status is JobStatus.COMPLETED


async def test_a_parent_that_fails_again(fake_app: Aether) -> None:
    async with works(fake_app) as app:
        bad = await app.enqueue("Fail", "bad")
        child = await app.enqueue("Merge", "child", after="bad")
        grandchild = await app.enqueue("Merge", after=child)
        await app.drain()
        await app.retry(bad)
        await app.retry(child)
        await app.retry(grandchild)
        assert (await of(app, grandchild)).waits_for == 1
        await app.drain()
        for job in (child, grandchild):
            assert (await of(app, job)).status is JobStatus.CANCELLED


async def test_delete_and_update_status_end_a_parent(fake_app: Aether) -> None:
    async with works(fake_app) as app:
        for end in (app.delete, lambda job: app.store.update_status(job, JobStatus.FAILED, error="by hand")):
            parent = await app.enqueue("Work", schedule=HOUR)
            child = await app.enqueue("Merge", after=parent)
            await end(parent)
            assert (await of(app, child)).status is JobStatus.CANCELLED
        parent = await app.enqueue("Work", "mine", schedule=HOUR)
        child = await app.enqueue("Merge", after=parent)
        await app.store.update_status(parent, JobStatus.COMPLETED)
        await app.drain()
        assert [entry[1] for entry in await app.result(child)] == ["COMPLETED"]


async def test_the_verbs_on_a_child(fake_app: Aether, clock: FakeClock) -> None:
    async with works(fake_app) as app:
        parent = await app.enqueue("Work", "parent", schedule=HOUR)
        child = await app.enqueue("Work", "child", after=parent)
        with pytest.raises(InvalidTransition, match="it runs after other jobs, and 1 have not ended"):
            await app.trigger(child)
        assert "It waits for 1 job to complete: 'parent' (SCHEDULED)." in await app.explain(child)
        await app.pause(child)
        await app.trigger(parent)
        await app.drain()
        assert (await of(app, child)).status is JobStatus.SCHEDULED
        assert "It is paused" in await app.explain(child)
        await app.resume(child)
        await app.drain()
        assert (await of(app, child)).status is JobStatus.COMPLETED
        waiting = await app.enqueue("Work", after=await app.enqueue("Work", schedule=HOUR))
        below = await app.enqueue("Work", after=waiting)
        assert await app.delete(waiting)
        assert (await of(app, below)).status is JobStatus.CANCELLED


async def test_a_child_with_a_schedule_of_its_own(fake_app: Aether, clock: FakeClock) -> None:
    async with works(fake_app) as app:
        early = await app.enqueue("Work", schedule=timedelta(minutes=1), after=await app.enqueue("Work", schedule=HOUR))
        late = await app.enqueue("Work", schedule=3 * HOUR, after=await app.enqueue("Work", schedule=HOUR))
        due = (await of(app, late)).due_at
        clock.advance(hours=1)
        now = clock.now()
        await app.drain()
        assert (await of(app, early)).status is JobStatus.COMPLETED
        row = await of(app, late)
        assert (row.status, row.waits_for, row.due_at) == (JobStatus.SCHEDULED, 0, due)
        assert (await app.store.history(early))[0].started_at == now


async def test_replace_of_a_parent_and_of_a_child(fake_app: Aether) -> None:
    async with works(fake_app) as app:
        parent = await app.enqueue("Work", "parent", "a", HOUR)
        child = await app.enqueue("Merge", "child", after=parent)
        assert await app.enqueue("Work", "parent", "b", HOUR, if_exists="replace") == parent
        other = await app.enqueue("Work", "other", schedule=HOUR)
        assert await app.enqueue("Merge", "child", after=parent) == child
        assert await app.enqueue("Merge", "child", after=[other], if_exists="keep") == child
        for after in ([other], [parent, other], None):
            with pytest.raises(JobConflict, match="differs in after"):
                await app.enqueue("Merge", "child", after=after)
            with pytest.raises(JobConflict, match=r"Its parents cannot be replaced: delete it first\."):
                await app.enqueue("Merge", "child", after=after, if_exists="replace")
        with pytest.raises(JobConflict, match="differs in after_any"):
            await app.enqueue("Merge", "child", after=parent, after_any=True)
        new = await app.enqueue("Merge", "child", after=parent, metadata={"n": 1}, if_exists="replace")
        assert new == child
        await app.trigger(parent)
        await app.drain()
        assert [entry[2] for entry in await app.result(child)] == ["B"]
        again = await app.enqueue("Merge", "child", after=other, if_exists="replace")
        assert again != child
        assert (await of(app, again)).waits_for == 1


async def test_what_cannot_be_a_parent(fake_app: Aether) -> None:
    async with works(fake_app) as app:
        await app.enqueue("Work", "daily", schedule="@daily")
        for wrong, error, said in (
            ("nobody", JobNotFound, "job 'nobody': there is no such job"), ([uuid4()], JobNotFound, "no such job"),
            (["daily"], InvalidOption, "cannot run after one that recurs"), (3, InvalidOption, "must be ids or names"),
            ([3], InvalidOption, "must be ids"), ({"a": 1}, JobNotFound, "job 'a'"),
        ):  # fmt: skip
            with pytest.raises(error, match=said):
                await app.enqueue("Merge", "child", after=wrong)
        with pytest.raises(InvalidOption, match="after_any must come with after="):
            await app.enqueue("Merge", after_any=True)
        with pytest.raises(InvalidOption, match="after_any must be True or False"):
            await app.enqueue("Merge", after=[], after_any="yes")  # type: ignore[arg-type]
        assert await app.store.get_by_job_name("child") is None
        assert (await of(app, await app.enqueue("Merge", after=[]))).waits_for == 0
        twice = await app.enqueue("Work", schedule=HOUR)
        assert (await of(app, await app.enqueue("Merge", after=[twice, twice]))).waits_for == 1
    with pytest.raises(InvalidOption, match="must be left out of a declaration"):
        fake_app.declare("Merge", "declared", after=["daily"])


async def test_an_identical_child_is_the_same_job_after_a_purge(fake_app: Aether) -> None:
    async with works(fake_app) as app:
        parent = await app.enqueue("Work", "parent")
        child = await app.enqueue("Merge", "child", after=[parent])
        await app.drain()
        await app.store.purge(JobStatus.COMPLETED, keep=1)
        assert await app.store.get(parent) is None
        assert await app.enqueue("Merge", "child", after=[parent]) == child
        assert await app.enqueue("Merge", "child", after=["parent"]) == child


async def test_retention_strands_no_child(make_app: Make, clock: FakeClock) -> None:
    async with works(make_app(clock=clock)) as app:
        done = await app.enqueue("Work", "done", "x")
        await app.drain()
        other = await app.enqueue("Work", "other", "y", HOUR)
        child = await app.enqueue("Merge", after=[done, other])
        assert await app.store.purge() == 0
        clock.advance(hours=1)
        await app.drain()
        assert [entry[2] for entry in await app.result(child)] == ["X", "Y"]
        assert await app.store.purge() == 3


async def test_units_of_work(make_app: Make) -> None:
    async with works(make_app()) as app:
        async with app.unit_of_work() as unit:
            first = await app.enqueue("Work", "first", "1")
            second = await app.enqueue("Merge", "second", after=[first, "first"])
            third = unit.run(lambda tx: tx.enqueue("Merge", "third", after=["second", tx.enqueue("Work", "inner")]))
            with pytest.raises(JobNotFound):
                await app.enqueue("Work", after=["absent"])
        assert [entry[0] for entry in await app.result(third.result, 10)] == ["second", "inner"]
        assert [entry[0] for entry in await app.result(second, 10)] == ["first"]

        async def fails() -> None:
            async with app.unit_of_work() as unit:
                await app.enqueue("Work", "lost")
                unit.run(lambda tx: tx.enqueue("Work", after="absent"))

        with pytest.raises(JobNotFound, match="absent"):
            await fails()
        assert await app.store.get_by_job_name("lost") is None


async def test_a_handler_enqueues_a_child_of_its_own_job(make_app: Make) -> None:
    app = works(make_app())

    @app.handler("Begin")
    async def begin(ctx: JobContext, unit: UnitOfWork) -> None:
        await app.enqueue("Merge", "follows", after=ctx.job.id)

    async with app:
        await app.wait(await app.enqueue("Begin", "begin"), 10)
        assert [entry[0] for entry in await app.result("follows", 10)] == ["begin"]


def test_without_async(make_app: Make) -> None:
    with works(make_app()).blocking() as jobs:
        parts = [jobs.enqueue("Work", payload=str(n)) for n in range(3)]
        merged = jobs.enqueue("Merge", "merge", after=parts)
        assert [entry[2] for entry in jobs.result(merged, 10)] == ["0", "1", "2"]


async def test_enqueue_many(make_app: Make) -> None:
    async with works(make_app()) as app:
        early = await app.enqueue("Work", "early")
        *_, merged = await app.enqueue_many([
            {"handler": "Work", "job_name": "a", "payload": "a"}, {"handler": "Work", "job_name": "b", "payload": "b"},
            {"handler": "Merge", "job_name": "merge", "after": ["a", "b", early]},
        ])  # fmt: skip
        assert [entry[0] for entry in await app.result(merged, 10)] == ["a", "b", "early"]
        kept, again = await app.enqueue_many([
            {"handler": "Work", "job_name": "a", "payload": "z", "if_exists": "keep"},
            {"handler": "Merge", "job_name": "again", "after": ["a"]},
        ])  # fmt: skip
        assert [entry[2] for entry in await app.result(again, 10)] == ["A"]
        async with app.unit_of_work():
            inside = await app.enqueue_many([
                {"handler": "Work", "job_name": "a", "payload": "a"}, {"handler": "Merge", "after": ["a", kept]},
            ])  # fmt: skip
        assert len(await app.result(inside[1], 10)) == 1
        async with app.unit_of_work():
            alone = await app.enqueue("Work", payload="alone")
            (both,) = await app.enqueue_many([{"handler": "Merge", "after": [alone, inside[0]]}])
        assert [entry[2] for entry in await app.result(both, 10)] == ["ALONE", "A"]
        with pytest.raises(JobNotFound, match=r"items\[0\]: job 'c'"):
            await app.enqueue_many([{"handler": "Merge", "after": ["c"]}, {"handler": "Work", "job_name": "c"}])


async def test_other_parents_are_another_job(fake_app: Aether) -> None:
    """As many of them: in the store, in the same call, and in a unit of work."""
    async with works(fake_app).client() as app:
        a, b = [await app.enqueue("Work", name) for name in "ab"]

        def merge(name: str, *after: Any, **more: Any) -> dict[str, Any]:
            return {"handler": "Merge", "job_name": name, "after": list(after), **more}

        (one,) = await app.enqueue_many([merge("one", a)])
        same, first, second = await app.enqueue_many([merge("one", "a"), merge("two", a), merge("two", "a")])
        assert (same, second) == (one, first)
        for wrong in ([merge("one", b)], [merge("three", a), merge("three", b)]):
            with pytest.raises(JobConflict, match="differs in after"):
                await app.enqueue_many(wrong)
            with pytest.raises(JobConflict, match="differs in after"):
                async with app.unit_of_work():
                    await app.enqueue_many(wrong)
            with pytest.raises(JobConflict, match="differs in after"):
                await one_by_one(app, wrong)
        with pytest.raises(JobConflict, match="Its parents cannot be replaced"):
            await app.enqueue_many([merge("one", b, if_exists="replace")])
        assert await app.enqueue_many([merge("one", b, if_exists="keep")]) == [one]


class Watcher:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, JobStatus]] = []

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        if isinstance(event, Altered):
            self.seen.append((event.job.job_name, event.verb, event.job.status))


async def test_observers_see_the_children_that_are_cancelled(make_app: Make) -> None:
    watcher = Watcher()
    async with works(make_app(plugins=[watcher])) as app:
        first = await app.enqueue("Fail", "first", schedule=HOUR)
        second = await app.enqueue("Work", "second", after=[first])
        third = await app.enqueue("Work", "third", after=[second])
        await app.trigger(first)
        await app.wait(third, 10)
        with anyio.fail_after(10):
            while len(watcher.seen) < 3:
                await anyio.sleep(0.01)
    cancelled = [("second", "delete", JobStatus.CANCELLED), ("third", "delete", JobStatus.CANCELLED)]
    assert sorted(watcher.seen[1:]) == cancelled


async def one_by_one(app: Any, jobs: list[dict[str, Any]]) -> None:
    async with app.unit_of_work():
        for job in jobs:
            await app.enqueue(**job)


async def test_replace_of_a_failed_child_in_enqueue_many(make_app: Make) -> None:
    async with works(make_app()) as app:
        a, b = [await app.enqueue("Work", name, name) for name in "ab"]
        await app.wait(await app.enqueue("Fail", "one", after=[a]), 10)
        with pytest.raises(JobConflict, match="differs in handler, after"):
            await app.enqueue_many([{"handler": "Merge", "job_name": "one", "after": [b]}])
        (again,) = await app.enqueue_many(
            [{"handler": "Merge", "job_name": "one", "after": [b], "if_exists": "replace"}]
        )
        assert [entry[0] for entry in await app.result(again, 10)] == ["b"]


async def test_a_push_scheduler_holds_a_child_from_its_release_on(make_app: Make) -> None:
    engine = Engine()
    armed = engine.armed
    async with works(make_app(scheduler=engine)) as app:
        parent = await app.enqueue("Work", "parent", schedule=HOUR)
        child = await app.enqueue("Work", "child", after=parent)
        await _until(lambda: ("parent", True) in armed)
        await anyio.sleep(0.2)
        assert ("child", True) not in armed
        await app.store.update_status(parent, JobStatus.COMPLETED)
        await _until(lambda: ("child", True) in armed, within=2)
        row = await of(app, child)
        await engine.kernel.fire(engine.kernel.store_id, child, row.seq, row.occurrence)
        await app.wait(child, 10)


async def _until(holds: Callable[[], bool], within: float = 10) -> None:
    with anyio.fail_after(within):
        while not holds():
            await anyio.sleep(0.01)


async def test_another_process_releases(make_app: Make) -> None:
    """A client with a scheduler of its own sees what another app on the file has released."""
    ran: list[str] = []
    one, two = works(make_app(timings=Timings(nap=60))), make_app(timings=Timings(nap=60))

    @two.handler("Elsewhere")
    async def elsewhere() -> None:
        ran.append("elsewhere")

    async with one, two:
        parent = await one.enqueue("Work", schedule=timedelta(seconds=0.3))
        await two.wait(await two.enqueue("Elsewhere", after=parent), 20)
    assert ran == ["elsewhere"]


async def test_what_was_ended_by_hand_is_settled_at_the_next_start(make_app: Make, path: Path) -> None:
    async with works(make_app()) as app:
        good, bad = await app.enqueue("Work", "good", schedule=HOUR), await app.enqueue("Work", schedule=HOUR)
        gone = await app.enqueue("Work", "gone", schedule=HOUR)
        children = [await app.enqueue("Merge", after=parent) for parent in (good, bad, gone)]
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE aether_jobs SET status = 2, due_at = NULL WHERE id = ?", [str(good)])
        conn.execute("UPDATE aether_jobs SET status = 3, due_at = NULL WHERE id = ?", [str(bad)])
        conn.execute("DELETE FROM aether_jobs WHERE id = ?", [str(gone)])
    async with works(make_app()) as app:
        ended = [(await app.wait(child, 10)).status for child in children]
    assert ended == [JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.COMPLETED]


async def test_a_row_that_cannot_be_read_cancels_its_children(make_app: Make, path: Path) -> None:
    async with works(make_app()) as app:
        parent = await app.enqueue("Work", "parent", schedule=HOUR)
        child = await app.enqueue("Merge", after=parent)
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.execute("UPDATE aether_jobs SET anchor = 'never', due_at = created_at WHERE id = ?", [str(parent)])
        assert (await app.wait(child, 10)).status is JobStatus.CANCELLED


@pytest.mark.parametrize("width", [1000])
async def test_a_wide_fan_in(make_app: Make, width: int) -> None:
    async with works(make_app()) as app:
        parts = await app.enqueue_many({"handler": "Work", "payload": str(n)} for n in range(width))
        merged = await app.enqueue("Merge", "merge", after=parts)
        assert [entry[2] for entry in await app.result(merged, 60)] == [str(n) for n in range(width)]


async def test_a_long_chain_is_cancelled_at_once(make_app: Make) -> None:
    async with works(make_app(scheduler=Engine())) as app:
        names = [f"c{n}" for n in range(1100)]
        first = await app.enqueue("Work", "c0", schedule=HOUR)
        items = [{"handler": "Work", "job_name": name, "after": before} for before, name in pairwise(names)]
        last = (await app.enqueue_many(items))[-1]
        await app.delete(first)
        row = await of(app, last)
        assert (row.status, row.last_error) == (JobStatus.CANCELLED, "parent 'c0' was cancelled")
