"""Being late: one-shots that expire, a start that has passed, and what history calls the occurrences that passed
(docs/protocol.md, R2, C4, N5)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from one_job import job_of

from aether_bg import (
    Aether,
    Backoff,
    InvalidSchedule,
    InvalidTransition,
    JobContext,
    JobStatus,
    RunOutcome,
    Snooze,
)
from aether_bg._rules import transitions
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


Row = tuple[RunOutcome | None, datetime | None, datetime | None, int]


async def gaps(app: Aether) -> list[Row]:
    """History rows without an attempt, oldest first."""
    runs = await app.store.history((await job_of(app)).id, 5000)
    return [(run.outcome, run.occurrence, run.last_occurrence, run.count) for run in runs[::-1] if not run.started_at]


# -- one-shots ---------------------------------------------------------------------------------------

WHEN = ["@once", HOUR, NOW + HOUR]


@pytest.mark.parametrize("schedule", WHEN, ids=str)
@pytest.mark.parametrize("misfire", ["once", "all"])
async def test_a_one_shot_runs_however_late(
    work: Aether, clock: FakeClock, ran: list[JobContext], schedule: Any, misfire: Any
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule=schedule, misfire=misfire)
        clock.advance(days=99)
        await app.drain()
        assert (await job_of(app)).status is JobStatus.COMPLETED


EXPIRE: list[dict[str, Any]] = [
    {"misfire": "skip"}, {"misfire": "skip", "misfire_grace": 60}, {"until": NOW + HOUR + MINUTE},
    {"until": NOW + HOUR + MINUTE, "misfire": "all", "misfire_grace": 9999}, {"until": NOW + HOUR},
]  # fmt: skip


@pytest.mark.parametrize("options", EXPIRE, ids=str)
@pytest.mark.parametrize("schedule", [HOUR, NOW + HOUR], ids=str)
async def test_a_one_shot_expires(
    work: Aether, clock: FakeClock, ran: list[JobContext], schedule: Any, options: dict[str, Any]
) -> None:
    async with work as app:
        job_id = await app.enqueue("Work", "job", schedule=schedule, **options)
        clock.advance(hours=1, minutes=2)
        await app.drain()
        job = await app.wait(job_id, 10)
        assert (job.status, job.last_error, job.due_at) == (JobStatus.CANCELLED, "expired", None)
        assert ran == []
        (run,) = await app.store.history(job_id)
        assert (run.outcome, run.occurrence, run.error) == (RunOutcome.SKIPPED, NOW + HOUR, "expired")
        assert "expired" in await app.explain("job")
        assert await app.enqueue("Work", "job", schedule=schedule, **options) == job_id, "the same job, in every state"


@pytest.mark.parametrize("options", EXPIRE, ids=str)
async def test_a_one_shot_in_time_runs(
    work: Aether, clock: FakeClock, ran: list[JobContext], options: dict[str, Any]
) -> None:
    """A moment late is in time, even where `until` is the due instant itself."""
    async with work as app:
        await app.enqueue("Work", "job", schedule=HOUR, **options)
        clock.advance(hours=1, milliseconds=300)
        await app.drain()
        assert (await job_of(app)).status is JobStatus.COMPLETED


async def test_an_end_is_an_end_within_the_grace_too(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Work", "job", until=NOW + 5 * SECOND, misfire_grace=60)
        clock.advance(seconds=7)
        await app.drain()
        assert (await job_of(app)).last_error == "expired"


@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
async def test_an_end_passes_during_a_pause_too(
    work: Aether, clock: FakeClock, ran: list[JobContext], misfire: Any
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule=MINUTE, until=NOW + HOUR, misfire=misfire)
        await app.pause("job")
        clock.advance(hours=2)
        await app.resume("job")
        await app.drain()
        assert (await job_of(app)).last_error == "expired"
        assert ran == []
        assert "its `until` had passed" in await app.explain("job")
        await app.enqueue("Work", "job", until=NOW + DAY, if_exists="replace")
        await app.drain()
        assert len(ran) == 1


async def test_the_advice_about_a_late_one_shot_works(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule=MINUTE, misfire="skip")
        clock.advance(hours=2)
        await app.drain()
        assert 'grace of 10 s allows (misfire="skip"). `retry` runs it now.' in await app.explain("job")
        await app.retry("job")
        await app.drain()
        assert len(ran) == 1


async def test_later_attempts_do_not_expire(fake_app: Aether, clock: FakeClock) -> None:
    app, tries = fake_app, []

    @app.handler("Work", retries=2, backoff=Backoff(first=3600, factor=1, max=3600, jitter=0))
    async def work(ctx: JobContext) -> None:
        tries.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError
        if ctx.attempt == 2:
            raise Snooze(DAY)

    async with app:
        await app.enqueue("Work", "job", misfire="skip", until=NOW + MINUTE)
        await app.drain()
        clock.advance(hours=2)
        await app.drain()
        clock.advance(days=2)
        await app.drain()
        assert (await job_of(app)).status is JobStatus.COMPLETED
    assert tries == [1, 2, 3]


async def test_a_one_shot_that_is_asked_for_by_hand_is_not_late(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    async with work as app:
        for name in ("triggered", "resumed", "retried"):
            await app.enqueue("Work", name, schedule=MINUTE, misfire="skip")
        await app.pause("triggered")
        await app.pause("resumed")
        clock.advance(hours=1)
        await app.drain()
        assert (await job_of(app, "retried")).last_error == "expired"
        await app.trigger("triggered")
        await app.resume("resumed")
        await app.retry("retried")
        await app.drain()
        for name in ("triggered", "resumed", "retried"):
            assert (await job_of(app, name)).status is JobStatus.COMPLETED
    assert len(ran) == 3


async def test_what_has_expired_cannot_be_asked_for(work: Aether, clock: FakeClock) -> None:
    async with work as app:
        for name in ("triggered", "retried"):
            await app.enqueue("Work", name, schedule=MINUTE, until=NOW + HOUR)
        await app.pause("triggered")
        clock.advance(hours=2)
        await app.drain()
        with pytest.raises(InvalidTransition, match=r"trigger.*until.*has passed"):
            await app.trigger("triggered")
        with pytest.raises(InvalidTransition, match=r"retry.*until.*has passed"):
            await app.retry("retried")


# -- @every with a start that has passed -------------------------------------------------------------


@pytest.mark.parametrize("ago", [timedelta(minutes=90), 3 * HOUR, timedelta(days=4000, minutes=10), timedelta(0)])
@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
async def test_every_continues_on_the_grid_of_its_start(
    work: Aether, clock: FakeClock, ran: list[JobContext], ago: timedelta, misfire: Any
) -> None:
    start = NOW - ago
    async with work as app:
        await app.enqueue("Work", "job", schedule="@every 1h", start=start, repeats=3, misfire=misfire)
        first = (await job_of(app)).due_at
        assert first is not None
        assert (first - start) % HOUR == timedelta(0)
        assert NOW <= first <= NOW + HOUR
        assert (first > NOW) == bool(ago), "a start now is a start"
        await app.drain()
        assert len(ran) == (not ago)
        clock.advance(seconds=(first - NOW).total_seconds())
        for _ in range(4):
            await app.drain()
            clock.advance(hours=1)
        assert [ctx.occurrence for ctx in ran] == [first, first + HOUR, first + 2 * HOUR]
        assert (await job_of(app)).status is JobStatus.COMPLETED
        assert await gaps(app) == []


async def test_a_start_that_is_still_to_come(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule="@every 7m", start=NOW + 3 * MINUTE)
        for _ in range(11):
            clock.advance(minutes=1)
            await app.drain()
        assert [ctx.occurrence for ctx in ran] == [NOW + 3 * MINUTE, NOW + 10 * MINUTE]


@pytest.mark.parametrize("schedule", ["@every 1h", "0 * * * *"])
async def test_start_and_end_that_have_both_passed_are_refused(work: Aether, schedule: str) -> None:
    async with work as app:
        with pytest.raises(InvalidSchedule, match="no occurrence before until"):
            await app.enqueue("Work", "job", schedule=schedule, start=NOW - 9 * HOUR, until=NOW - HOUR)
        with pytest.raises(InvalidSchedule, match="no occurrence before until"):
            await app.enqueue("Work", "job", schedule=schedule, start=NOW + 9 * HOUR, until=NOW + HOUR)


# -- what history calls it ---------------------------------------------------------------------------


@pytest.mark.parametrize(("misfire", "word"), [("once", RunOutcome.COALESCED), ("skip", RunOutcome.SKIPPED)])
async def test_what_passed_before_an_attempt_began_did_not_overlap(
    fake_app: Aether, clock: FakeClock, misfire: Any, word: RunOutcome
) -> None:
    """The first attempt fails, nothing runs for three hours, the second takes two."""
    app = fake_app

    @app.handler("Work", retries=1, backoff=Backoff(first=3 * 3600, factor=1, max=3 * 3600, jitter=0))
    async def work(ctx: JobContext) -> None:
        if ctx.attempt == 1 and ctx.occurrence == NOW + HOUR:
            raise ValueError
        if ctx.occurrence == NOW + HOUR:
            clock.advance(hours=2, minutes=10)

    async with app:
        await app.enqueue("Work", "job", schedule="@every 1h", misfire=misfire)
        clock.advance(hours=1)
        await app.drain()
        clock.advance(hours=3, seconds=1)
        await app.drain()
        assert (await gaps(app))[:2] == [
            (word, NOW + 2 * HOUR, NOW + 4 * HOUR, 3), (RunOutcome.OVERLAPPED, NOW + 5 * HOUR, NOW + 5 * HOUR, 1),
        ]  # fmt: skip
        assert (await job_of(app)).occurrence == NOW + 7 * HOUR


async def test_what_passed_while_it_was_snoozed_did_not_overlap(fake_app: Aether, clock: FakeClock) -> None:
    app = fake_app

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        if ctx.attempt == 1 and ctx.occurrence == NOW + HOUR:
            raise Snooze(timedelta(hours=5, minutes=30))

    async with app:
        await app.enqueue("Work", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await app.drain()
        clock.advance(hours=5, minutes=30)
        await app.drain()
        assert await gaps(app) == [(RunOutcome.COALESCED, NOW + 2 * HOUR, NOW + 5 * HOUR, 4)]


async def test_what_passed_during_a_run_did_overlap(fake_app: Aether, clock: FakeClock) -> None:
    app, ran = fake_app, []

    @app.handler("Work")
    async def work() -> None:
        ran.append(1)
        if len(ran) == 1:
            clock.advance(hours=3, minutes=30)

    async with app:
        await app.enqueue("Work", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await app.drain()
        assert await gaps(app) == [(RunOutcome.OVERLAPPED, NOW + 2 * HOUR, NOW + 3 * HOUR, 2)]


async def test_what_all_gave_up_outlives_the_trimming(
    work: Aether, clock: FakeClock, ran: list[JobContext], keeps_a_hundred: Callable[[Aether], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As many occurrences are made up for as rows are kept of a history: a thousand, here a hundred."""
    assert transitions.KEPT == 1000
    monkeypatch.setattr(transitions, "KEPT", 100)
    keeps_a_hundred(work)
    async with work as app:
        job_id = await app.enqueue("Work", "job", schedule="@every 1m", misfire="all")
        clock.advance(minutes=150)
        await app.drain()
        assert len(ran) == 100
        for _ in range(2):
            clock.advance(minutes=60)
            await app.drain()
        assert len(ran) == 220
        assert await gaps(app) == [(RunOutcome.SKIPPED, NOW + MINUTE, NOW + 50 * MINUTE, 50)]
        assert len(await app.store.history(job_id, 5000)) < 200, "the rest is trimmed"
