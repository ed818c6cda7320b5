"""`jitter=`: jobs that share a schedule start one after the other, at occurrences that stay the same
(docs/protocol.md, R8)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from one_job import job_of

from aether_bg import Aether, InvalidOption, JobConflict, JobContext
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@pytest.mark.parametrize("jitter", [1200, 1200.0, timedelta(minutes=20)])
async def test_each_occurrence_is_due_later_by_the_same(
    work: Aether, clock: FakeClock, ran: list[JobContext], jitter: Any
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule="@hourly", jitter=jitter, misfire="skip")
        job = await job_of(app)
        assert job.jitter == 1200
        assert job.occurrence == NOW + HOUR
        assert job.due_at is not None
        lag = job.due_at - job.occurrence
        assert timedelta(0) < lag < 20 * MINUTE
        told = await app.explain("job")
        assert "spread over 20 min by its jitter" in told
        assert "after its occurrence" in told
        clock.advance(seconds=3600 + lag.total_seconds() - 1)
        await app.drain()
        assert not ran
        for hour in range(1, 4):
            clock.set(NOW + hour * HOUR + lag)
            await app.drain()
            assert ran[-1].occurrence == NOW + hour * HOUR
            again = await job_of(app)
            assert (again.occurrence, again.due_at) == (NOW + (hour + 1) * HOUR, NOW + (hour + 1) * HOUR + lag)
        assert [run.outcome for run in await app.store.history(job.id)] == ["completed"] * 3


async def test_a_one_shot_lags_as_well(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule=NOW + HOUR, jitter=600, misfire="skip")
        job = await job_of(app)
        assert job.occurrence == NOW + HOUR
        assert job.due_at is not None
        assert NOW + HOUR < job.due_at < NOW + HOUR + 10 * MINUTE
        clock.set(job.due_at)
        await app.drain()
        assert len(ran) == 1


async def test_a_trigger_runs_at_once(work: Aether, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule="@hourly", jitter=1200)
        await app.trigger("job")
        await app.drain()
        assert len(ran) == 1
        job = await job_of(app)
        assert job.due_at is not None
        assert job.due_at > NOW + HOUR == job.occurrence


async def test_the_jitter_belongs_to_the_definition(work: Aether) -> None:
    async with work as app:
        job_id = await app.enqueue("Work", "job", schedule="@hourly", jitter=60)
        assert await app.enqueue("Work", "job", schedule="@hourly", jitter=timedelta(minutes=1)) == job_id
        with pytest.raises(JobConflict) as caught:
            await app.enqueue("Work", "job", schedule="@hourly")
        assert caught.value.differences == ("jitter",)
        await app.enqueue("Work", "job", schedule="@hourly", jitter=90, if_exists="replace")
        assert (await job_of(app)).jitter == 90
        await app.update("job", "*/30 * * * *")
        job = await job_of(app)
        assert job.jitter == 90
        assert job.due_at is not None
        assert job.occurrence == NOW + 30 * MINUTE < job.due_at


async def test_of_a_handler_and_a_declaration(fake_app: Aether) -> None:
    @fake_app.handler("Work", schedule="@hourly", jitter=600)
    async def work() -> None: ...

    fake_app.declare("Work", "other", schedule="@hourly", jitter=timedelta(minutes=10))
    async with fake_app as app:
        one, other = await job_of(app, "Work"), await job_of(app, "other")
        assert one.jitter == other.jitter == 600
        assert one.due_at != other.due_at


@pytest.mark.parametrize("jitter", [-1, "5", None, True, float("nan"), float("inf"), timedelta(-1), 1e300])
async def test_a_wrong_jitter_is_refused(work: Aether, jitter: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^jitter must be"):
        work.declare("Work", "job", schedule="@hourly", jitter=jitter)
    with pytest.raises(InvalidOption, match=r"^jitter must be"):
        work.handler("Other", schedule="@hourly", jitter=jitter)
    async with work as app:
        with pytest.raises(InvalidOption, match=r"^jitter must be"):
            await app.enqueue("Work", "job", schedule="@hourly", jitter=jitter)


def test_a_handler_without_a_schedule_has_none(fake_app: Aether) -> None:
    with pytest.raises(InvalidOption, match="jitter must come with a schedule, got 5"):
        fake_app.handler("Work", jitter=5)


async def test_days_and_weeks_are_counted_from_the_start(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    """Also where it has passed, and after an update of something else."""
    every = {"schedule": "@every 2 weeks on MON at 09:00", "timezone": "Europe/Berlin"}
    start = datetime(2029, 12, 24, tzinfo=UTC)  # a Monday
    async with work as app:
        await app.enqueue("Work", "job", start=start, **every)  # type: ignore[arg-type]
        assert (await job_of(app)).due_at == datetime(2030, 1, 7, 8, tzinfo=UTC)
        await app.enqueue("Work", "job", metadata={"n": 1}, start=start, if_exists="replace", **every)  # type: ignore[arg-type]
        clock.set(datetime(2030, 1, 7, 8, tzinfo=UTC))
        await app.drain()
        assert len(ran) == 1
        assert (await job_of(app)).due_at == datetime(2030, 1, 21, 8, tzinfo=UTC)
        await app.enqueue("Work", "on", schedule="@every 3 days at 12:00", start=NOW + 40 * 24 * HOUR)
        assert (await job_of(app, "on")).due_at == NOW + 40 * 24 * HOUR + 12 * HOUR
        await app.enqueue("Work", "now", schedule="@every 3 days at 12:00")
        assert (await job_of(app, "now")).due_at == datetime(2030, 1, 7, 12, tzinfo=UTC)
