"""`app.store`: queries, paging, history, statistics, update_status, purge."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from aether_bg import Aether, InputError, InvalidOption, InvalidTransition, JobNotFound, JobStatus, NewJob, RunOutcome
from aether_bg.model import Failures, Query, Runs
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
HOUR = timedelta(hours=1)


@pytest.fixture
def filled(fake_app: Aether) -> Aether:
    fake_app.handler("A")(lambda: None)
    fake_app.handler("B")(lambda args=None: None)

    @fake_app.handler("Fails")
    def fails() -> None:
        raise ValueError("no")

    return fake_app


def names(jobs: list[Any]) -> list[str]:
    return [job.job_name for job in jobs]


async def test_what_is_not_there(filled: Aether) -> None:
    async with filled as app:
        assert await app.store.get(uuid4()) is None
        assert await app.store.get_by_job_name("nothing") is None
        assert await app.store.get_by_handler_name("Nothing") == []
        assert await app.store.get_active() == []
        assert await app.store.find() == []
        assert await app.store.history(uuid4()) == []
        assert await app.store.purge() == 0
        with pytest.raises(JobNotFound):
            await app.store.update_status(uuid4(), JobStatus.FAILED)
        for verb in (app.retry, app.trigger, app.pause, app.resume, app.wait, app.explain):
            with pytest.raises(JobNotFound, match=r"no such job.*purged"):
                await verb("nothing")
        assert await app.delete(uuid4()) is False


async def test_find(filled: Aether, clock: FakeClock) -> None:
    async with filled as app:
        begun = clock.now()
        await app.enqueue("A", "a1", schedule=2 * HOUR, metadata={"OrderId": 1, "kind": "x"})
        clock.advance(minutes=1)
        await app.enqueue("A", "a2", schedule=HOUR, metadata={"OrderId": "1"})
        clock.advance(minutes=1)
        await app.enqueue("B", "b1", metadata={"OrderId": 1, "deep": {"a": [1]}, "none": None, "yes": True})
        await app.enqueue("Fails", "f1")
        await app.drain()
        find = app.store.find
        assert names(await find()) == ["a1", "a2", "b1", "f1"]
        assert names(await find(Query(handler_name="A"))) == ["a1", "a2"]
        assert names(await find(handler_name="A", order="due")) == ["a2", "a1"]
        assert names(await find(status=JobStatus.FAILED)) == ["f1"]
        assert names(await find(status=[JobStatus.FAILED, JobStatus.COMPLETED])) == ["b1", "f1"]
        assert names(await find(metadata={"OrderId": 1})) == ["a1", "b1"]
        assert names(await find(metadata={"OrderId": "1"})) == ["a2"]
        assert names(await find(metadata={"OrderId": 1, "kind": "x"})) == ["a1"]
        assert names(await find(metadata={"deep": {"a": [1]}})) == ["b1"]
        assert names(await find(metadata={"none": None})) == ["b1"]
        assert names(await find(metadata={"yes": True})) == ["b1"]
        assert names(await find(metadata={"missing": None})) == []
        await app.enqueue("A", "nested", schedule=HOUR, metadata={"of": {"a": 1, "b": [{"c": 1, "d": 2}]}})
        assert names(await find(metadata={"of": {"b": [{"d": 2, "c": 1}], "a": 1}})) == ["nested"]
        assert names(await find(metadata={"of": {"b": [{"d": 2, "c": True}], "a": 1}})) == []
        await app.delete("nested")
        await app.store.purge(JobStatus.CANCELLED)
        assert names(await find(created_after=begun)) == ["a2", "b1", "f1"]
        assert names(await find(created_before=begun + timedelta(minutes=1))) == ["a1"]
        assert names(await find(created_after=begun, created_before=begun + timedelta(minutes=2))) == ["a2"]
        zone = timezone(timedelta(hours=5))
        assert names(await find(created_before=(begun + timedelta(minutes=1)).astimezone(zone))) == ["a1"]
        assert names(await find(due_before=begun + HOUR + timedelta(minutes=1))) == ["a2"]
        assert names(await find(ids=[job.id for job in await find()][:2])) == ["a1", "a2"]
        assert names(await find(Query(handler_name="A"), status=JobStatus.FAILED)) == []
        assert names(await app.store.get_by_handler_name("A")) == ["a1", "a2"]
        assert names(await app.store.get_by_handler_name("A", limit=1)) == ["a1"]
        assert names(await app.store.get_active()) == ["a1", "a2"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"handlr_name": "A"}, r"'handlr_name'.*Did you mean 'handler_name'"),
    ({"status": "FAILED"}, "status.*JobStatus"), ({"status": [9]}, "status"), ({"limit": -1}, "limit"),
    ({"limit": True}, "limit"), ({"ids": ["no id"]}, "ids"), ({"order": "name"}, "order"),
    ({"created_after": datetime(2030, 1, 1)}, "created_after.*time zone"), ({"metadata": 5}, "metadata"),
    ({"status": UUID(int=5)}, "status"), ({"ids": 5}, "ids"), ({"ids": UUID(int=5)}, "ids"),
    ({"parents_of": "a1"}, "parents_of"), ({"children_of": "a1"}, "children_of"),
    ({"holders": "a1"}, "holders"), ({"holders": [5]}, "holders"),
    ({"name_prefix": "\ud800"}, "name_prefix.*surrogates"), ({"error_line": "\udfff"}, "error_line.*surrogates"),
    ({"after": "no id"}, "after"), ({"job_name": 5}, "job_name"), ({"handler_name": b"A"}, "handler_name"),
]  # fmt: skip


async def test_bad_queries(filled: Aether) -> None:
    async with filled as app:
        for bad, said in BAD:
            with pytest.raises(InputError, match=said):
                await app.store.find(**bad)


BAD_QUESTIONS: list[tuple[Any, str]] = [
    (Runs(after="now"), "after"), (Runs(before=datetime(2030, 1, 1)), "before.*time zone"), (Runs(ids=5), "ids"),
    (Runs(outcomes=5), "outcomes"), (Runs(outcomes=("gone",)), "outcomes"), (Runs(handler_name=5), "handler_name"),
    (Runs(limit=0), "limit"), (Query(), "must be a Runs"), (Failures(limit="5"), "limit"),
    (Failures(among=-1), "among"), (Failures(handler_name="\ud800"), "handler_name.*surrogates"),
]  # fmt: skip


async def test_bad_questions_about_all_jobs(filled: Aether) -> None:
    async with filled as app:
        for bad, said in BAD_QUESTIONS:
            with pytest.raises(InputError, match=said):
                await (app.store.failures(bad) if isinstance(bad, Failures) else app.store.runs(bad))


async def test_text_that_no_store_holds(filled: Aether) -> None:
    async with filled as app:
        calls: tuple[Callable[[Any], Any], ...] = (
            app.delete, app.pause, app.resume, app.trigger, app.retry, app.explain, app.wait, app.result,
            app.store.get_by_job_name, app.store.get_by_handler_name, app.store.backup,
            lambda text: app.enqueue("A", after=[text]), lambda text: app.update(text, HOUR),
        )  # fmt: skip
        for call in calls:
            with pytest.raises(InvalidOption, match=r"surrogates|encode"):
                await call("\ud800")


@pytest.mark.parametrize("order", ["created", "due"])
async def test_paging_sees_every_job_once(filled: Aether, order: Any) -> None:
    async with filled as app:
        for number in range(23):
            await app.enqueue("A", f"{number:02}", schedule=timedelta(minutes=(number * 7) % 5))
        seen: list[Any] = []
        while page := await app.store.find(order=order, limit=5, after=seen[-1].id if seen else None):
            assert len(page) <= 5
            seen += page
        assert sorted(names(seen)) == [f"{number:02}" for number in range(23)]
        assert order == "created" or [job.due_at for job in seen] == sorted(job.due_at for job in seen)


async def test_wrong_arguments_raise(filled: Aether) -> None:
    async with filled as app:
        with pytest.raises(InvalidOption, match=r"job_id must be a uuid\.UUID, got 'a1'\. .*get_by_job_name"):
            await app.store.history("a1")  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match=r"older_than must be a timedelta, got 5"):
            await app.store.purge(older_than=5)  # type: ignore[arg-type]
        await app.enqueue("A", "done")
        await app.drain()
        with pytest.raises(InvalidTransition, match=r"it is COMPLETED.*another name, or purge it first"):
            await app.trigger("done")
        assert f"{(await app.wait('done')).status}" == "COMPLETED"


async def test_paging_continues_after_a_purged_row(filled: Aether) -> None:
    async with filled as app:
        for number in range(4):
            await app.enqueue("A", f"{number}", schedule="@once" if number == 1 else HOUR)
        last = (await app.store.find(limit=2))[-1].id
        await app.drain()
        assert await app.store.purge() == 1
        assert names(await app.store.find(after=last)) == ["2", "3"]


async def test_history_is_newest_first_and_limited(filled: Aether, clock: FakeClock) -> None:
    async with filled as app:
        job_id = await app.enqueue("A", "job", schedule="@every 1h")
        for _ in range(5):
            clock.advance(hours=1)
            await app.drain()
        runs = await app.store.history(job_id)
        assert [run.occurrence for run in runs] == sorted((run.occurrence for run in runs), reverse=True)  # type: ignore[type-var]
        run = runs[0]
        assert (run.job_id, run.outcome, run.attempt, run.count) == (job_id, RunOutcome.COMPLETED, 1, 1)
        assert run.started_at == run.finished_at == run.occurrence == clock.now()
        assert run.owner is not None
        assert await app.store.history(job_id, 2) == runs[:2]
        with pytest.raises(InvalidOption, match="limit"):
            await app.store.history(job_id, 0)


async def test_a_recurring_job_keeps_its_last_rows(
    filled: Aether, clock: FakeClock, keeps_a_hundred: Callable[[Aether], None]
) -> None:
    """docs/protocol.md, N5; trimmed in bites of a hundred occurrences."""
    keeps_a_hundred(filled)
    async with filled as app:
        job_id = await app.enqueue("A", "job", schedule="@every 1s", misfire="all")
        clock.advance(seconds=100)
        await app.drain()
        assert len(await app.store.history(job_id, 5000)) == 100
        clock.advance(seconds=100)
        await app.drain()
        with anyio.fail_after(10):
            while len(runs := await app.store.history(job_id, 5000)) > 100:
                await anyio.sleep(0.005)
        assert len(runs) == 100
        assert runs[0].occurrence == clock.now()


async def test_stats(filled: Aether, clock: FakeClock) -> None:
    async with filled as app:
        await app.enqueue("A", "done")
        await app.enqueue("Fails", "failed")
        await app.drain()
        await app.enqueue("A", "later", schedule=HOUR)
        await app.enqueue("A", "gone", schedule=HOUR)
        await app.delete("gone")
        await app.enqueue("B", "paused", schedule=HOUR)
        await app.pause("paused")
        stats = await app.store.stats()
        assert (stats.scheduled, stats.running, stats.completed, stats.failed, stats.cancelled) == (2, 0, 1, 1, 1)
        assert (stats.total, stats.paused, stats.owners, stats.runs) == (5, 1, 1, 2)
        assert stats.oldest_due == clock.now() + HOUR
        assert stats.by_handler["A"] == {"scheduled": 1, "completed": 1, "cancelled": 1}
        assert stats.size > 0


async def test_update_status(filled: Aether, clock: FakeClock) -> None:
    """docs/protocol.md, U6."""
    async with filled as app:
        job_id = await app.enqueue("A", "job", schedule=HOUR)
        with pytest.raises(InvalidTransition, match="RUNNING"):
            await app.store.update_status(job_id, JobStatus.RUNNING)
        when = clock.now() - HOUR
        await app.store.update_status(job_id, JobStatus.FAILED, when, "by hand")
        job = await app.store.get(job_id)
        assert job is not None
        assert (job.status, job.handled_time, job.last_error, job.holds_name) == (
            JobStatus.FAILED, when, "by hand", True,
        )  # fmt: skip
        for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
            with pytest.raises(InvalidTransition, match="it is FAILED"):
                await app.store.update_status(job_id, status)
        await app.store.update_status(job_id, JobStatus.SCHEDULED)
        await app.drain()
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
        other = await app.enqueue("A", "other", schedule=HOUR)
        await app.store.update_status(other, JobStatus.CANCELLED)
        assert await app.enqueue("A", "other", schedule=2 * HOUR) != other, "cancelled: it gave its name up"
        for bad in (9, "FAILED"):
            with pytest.raises(InvalidOption, match="status"):
                await app.store.update_status(other, bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match=r"handled_time.*time zone"):
            await app.store.update_status(job_id, JobStatus.FAILED, datetime(2030, 1, 1))


async def test_update_status_revokes_a_running_attempt(filled: Aether, step: Any) -> None:
    told: list[str] = []

    @filled.handler("Long")
    async def long() -> None:
        told.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            told.append("cancelled")

    async with filled as app:
        job_id = await app.enqueue("Long")
        await step.kernel.fire_due()
        with anyio.fail_after(10):
            while not told:
                await anyio.sleep(0.003)
            await app.store.update_status(job_id, JobStatus.COMPLETED, error="enough")
            while len(told) < 2:
                await anyio.sleep(0.003)
        await app.drain()
        job = await app.wait(job_id, 10)
        assert (job.status, job.last_error) == (JobStatus.COMPLETED, "enough")
        (run,) = await app.store.history(job_id)
        assert run.outcome is RunOutcome.COMPLETED


async def test_purge(filled: Aether, clock: FakeClock) -> None:
    async with filled as app:
        for number in range(3):
            await app.enqueue("A", f"old-{number}")
            await app.drain()
            clock.advance(minutes=1)
        clock.advance(hours=2)
        await app.enqueue("A", "new")
        await app.enqueue("Fails", "failed")
        await app.drain()
        await app.enqueue("A", "waiting", schedule=HOUR)
        await app.enqueue("A", "gone", schedule=HOUR)
        await app.delete("gone")
        purge = app.store.purge
        assert await purge(JobStatus.CANCELLED) == 1
        assert await purge(older_than=timedelta(days=1)) == 0
        assert await purge(JobStatus.COMPLETED, keep=4) == 0
        assert await purge(JobStatus.COMPLETED, keep=3) == 1
        assert await app.store.get_by_job_name("old-0") is None
        assert await purge(older_than=HOUR) == 2
        assert names(await app.store.find()) == ["new", "failed", "waiting"]
        assert await purge() == 2
        assert names(await app.store.find()) == ["waiting"], "a live row is never touched"
        assert (await app.store.stats()).runs == 0, "history goes with its job"
        for bad in (JobStatus.SCHEDULED, JobStatus.RUNNING):
            with pytest.raises(InvalidOption, match="terminal"):
                await purge(bad)
        for options in ({"keep": -1}, {"keep": True}, {"older_than": timedelta(-1)}):
            with pytest.raises(InvalidOption, match=r"keep|older_than"):
                await purge(**options)  # type: ignore[arg-type]


async def test_purge_keeps_as_many_as_it_says(filled: Aether) -> None:
    """Also of jobs that ended in the same instant."""
    async with filled as app:
        for number in range(5):
            await app.enqueue("A", f"job-{number}")
        await app.drain()
        assert await app.store.purge(JobStatus.COMPLETED, keep=2) == 3
        assert len(await app.store.find()) == 2


async def test_purge_of_many(filled: Aether) -> None:
    """More than one bite."""
    async with filled as app:
        first = await app.enqueue("A", schedule=HOUR)
        await app.enqueue_many([NewJob("A", after=first)] * 700)
        await app.delete(first)
        assert await app.store.purge() == 701


async def test_ids_and_names_are_distinguished(filled: Aether) -> None:
    async with filled as app:
        job_id = await app.enqueue("A", "job", schedule=datetime(2031, 1, 1, tzinfo=UTC))
        with pytest.raises(InvalidOption, match="get_by_job_name"):
            await app.store.get("job")  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match=r"id .*or its name"):
            await app.pause(5)  # type: ignore[arg-type]
        await app.pause("job")
        await app.resume(job_id)
