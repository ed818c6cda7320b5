"""update, delete, pause, resume, trigger, retry and drain on real files, by a fake clock. docs/protocol.md, U, C, R."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from gauge import Gauge

from aether_bg import (
    Aether,
    Backoff,
    GiveUp,
    InvalidOption,
    InvalidSchedule,
    InvalidTransition,
    JobConflict,
    JobContext,
    JobInfo,
    JobNotFound,
    JobStatus,
    RunOutcome,
    Snooze,
)
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def row(app: Aether, name: str) -> JobInfo:
    job = await app.store.get_by_job_name(name)
    assert job is not None
    return job


async def outcomes(app: Aether, name: str) -> list[str]:
    runs = await app.store.history((await row(app, name)).id)
    return [str(run.outcome) for run in reversed(runs)]


async def until_running(app: Aether, count: int = 1) -> None:
    """Start what is due; it runs when this returns."""
    await app.step.kernel.fire_due()  # type: ignore[attr-defined]
    with anyio.fail_after(10):
        while (await app.store.stats()).running < count:
            await anyio.sleep(0.003)


@pytest.fixture
def ran() -> list[JobContext]:
    return []


@pytest.fixture
def work(fake_app: Aether, step: Any, ran: list[JobContext]) -> Aether:
    """`Work` notes its context; `Fails` raises; `Gated` waits for `app.gate`."""
    fake_app.step = step  # type: ignore[attr-defined]

    @fake_app.handler("Work")
    async def work(ctx: JobContext) -> None:
        ran.append(ctx)

    @fake_app.handler("Fails")
    async def fails(ctx: JobContext) -> None:
        ran.append(ctx)
        raise ValueError("it fails")

    @fake_app.handler("Retried", retries=2, backoff=Backoff(first=60, factor=3, max=100, jitter=0))
    async def retried(ctx: JobContext) -> None:
        ran.append(ctx)
        raise ValueError("it fails")

    @fake_app.handler("Gated")
    async def gated(ctx: JobContext) -> None:
        ran.append(ctx)
        await fake_app.gate.wait()  # type: ignore[attr-defined]

    return fake_app


async def test_update_moves_a_waiting_job_from_now(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        job_id = await app.enqueue("Work", "job", schedule="CRON_TZ=Europe/Berlin 0 12 * * *")
        before = await row(app, "job")
        clock.advance(minutes=10)
        await app.update("job", "@every 1h")
        after = await row(app, "job")
        assert (after.id, after.expression_value, after.timezone) == (job_id, "@every 1h", "Europe/Berlin")
        assert after.due_at == NOW + timedelta(minutes=70)
        assert (after.seq, after.schedule_rev) == (before.seq + 1, before.schedule_rev + 1)
        await app.update(job_id, "CRON_TZ=Asia/Tokyo 0 12 * * *")
        assert (await row(app, "job")).timezone == "Asia/Tokyo"
        await app.update(job_id, "0 12 * * *", timezone="UTC")
        assert (await row(app, "job")).timezone == "UTC"
        await app.update(job_id, timedelta(minutes=5))
        clock.advance(minutes=5)
        await app.drain()
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
        assert len(ran) == 1
        with pytest.raises(InvalidTransition, match=r"update.*'job'.*COMPLETED.*Enqueue it again"):
            await app.update(job_id, "@daily")
        with pytest.raises(JobNotFound):
            await app.update("nothing", "@daily")
        with pytest.raises(InvalidSchedule):
            await app.update(job_id, "every day")


async def test_update_supersedes_a_waiting_retry(work: Aether, clock: FakeClock) -> None:
    async with work as app:
        await app.enqueue("Retried", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await app.drain()
        waiting = await row(app, "job")
        assert (waiting.retry_count, waiting.due_at) == (1, clock.now() + timedelta(seconds=60))
        await app.update("job", "@every 2h")
        after = await row(app, "job")
        assert (after.retry_count, after.attempt, after.due_at) == (0, 0, clock.now() + timedelta(hours=2))
        assert await outcomes(app, "job") == ["failed", "superseded"]


async def test_update_of_an_extra_run_that_waits_for_its_retry_counts_no_occurrence(
    work: Aether, clock: FakeClock
) -> None:
    async with work as app:
        await app.enqueue("Retried", "job", schedule="@every 1h")
        await app.trigger("job")
        await app.drain()
        waiting = await row(app, "job")
        assert (waiting.off_schedule, waiting.retry_count, waiting.occurrences) == (True, 1, 0)
        await app.update("job", "@every 2h")
        after = await row(app, "job")
        assert (after.off_schedule, after.retry_count, after.occurrences) == (False, 0, 0)
        assert await outcomes(app, "job") == ["failed", "superseded"]


async def test_update_during_a_run_takes_effect_at_its_end(work: Aether, clock: FakeClock, ran: list[Any]) -> None:
    async with work as app:
        app.gate = anyio.Event()  # type: ignore[attr-defined]
        await app.enqueue("Gated", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await until_running(app)
        running = await row(app, "job")
        clock.advance(minutes=1)
        await app.update("job", "@every 3h")
        changed = await row(app, "job")
        assert (changed.seq, changed.status) == (running.seq, JobStatus.RUNNING)
        assert changed.schedule_rev == running.schedule_rev + 1
        app.gate.set()  # type: ignore[attr-defined]
        await app.drain()
        after = await row(app, "job")
        assert after.due_at == NOW + timedelta(hours=4, minutes=1)
        assert await outcomes(app, "job") == ["completed"]


async def test_delete_of_a_waiting_and_of_a_running_job(work: Aether, ran: list[JobContext]) -> None:
    cancelled = []

    async def hangs() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            cancelled.append(type(error))
            raise

    work.handler("Hangs")(hangs)
    async with work as app:
        await app.enqueue("Work", "waiting", schedule=timedelta(hours=1))
        assert await app.delete("waiting") is True
        assert (await row(app, "waiting")).status is JobStatus.CANCELLED
        assert await outcomes(app, "waiting") == []
        await app.enqueue("Hangs", "running")
        await until_running(app)
        assert await app.delete("running") is True
        job = await app.wait("running", 10)
        assert job.status is JobStatus.CANCELLED
        with anyio.fail_after(10):
            while not cancelled:
                await anyio.sleep(0.003)
        assert await outcomes(app, "running") == ["cancelled"]
        assert (await row(app, "running")).seq == job.seq, "the cancelled attempt records nothing"
        assert await app.delete("nothing") is False
        assert await app.delete("running") is False


async def test_a_deleted_job_that_still_runs_changes_nothing(work: Aether) -> None:
    go, ended = anyio.Event(), anyio.Event()

    @work.handler("Deaf")
    async def deaf() -> None:
        with anyio.CancelScope(shield=True):
            await go.wait()
        ended.set()

    async with work as app:
        job_id = await app.enqueue("Deaf", "job", schedule="@every 1h")
        await app.trigger(job_id)
        await until_running(app)
        assert await app.delete(job_id)
        await app.enqueue("Work", "job", schedule=timedelta(hours=1))
        go.set()
        await ended.wait()
        await app.drain()
        gone = await app.store.get(job_id)
        assert gone is not None
        assert gone.status is JobStatus.CANCELLED
        assert [str(run.outcome) for run in await app.store.history(job_id)] == ["cancelled"]


async def test_pause_and_resume_of_a_one_shot(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule=timedelta(minutes=1))
        await app.pause("job")
        seq = (await row(app, "job")).seq
        await app.pause("job")
        assert (await row(app, "job")).seq == seq, "pausing twice is once"
        clock.advance(hours=5)
        await app.drain()
        assert not ran
        await app.resume("job")
        await app.resume("job")
        await app.drain()
        assert (await app.wait("job", 10)).status is JobStatus.COMPLETED
        with pytest.raises(InvalidTransition, match="pause"):
            await app.pause("job")
        with pytest.raises(InvalidTransition, match=r"resume.*retry"):
            await app.resume("job")


async def test_resume_of_a_recurring_job_closes_the_gap_in_one_row(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    async with work as app:
        job_id = await app.enqueue("Work", "job", schedule="@every 1h", misfire="all")
        await app.pause("job")
        clock.advance(hours=10, minutes=30)
        await app.resume("job")
        await app.drain()
        assert not ran
        after = await row(app, "job")
        assert after.due_at == NOW + timedelta(hours=11)
        (gap,) = await app.store.history(job_id)
        assert (gap.outcome, gap.count) == (RunOutcome.SKIPPED, 10)
        assert (gap.occurrence, gap.last_occurrence) == (NOW + timedelta(hours=1), NOW + timedelta(hours=10))
        clock.advance(minutes=30)
        await app.drain()
        assert [ctx.occurrence for ctx in ran] == [NOW + timedelta(hours=11)]


async def test_pause_during_a_run_lets_it_end(work: Aether, clock: FakeClock) -> None:
    async with work as app:
        app.gate = anyio.Event()  # type: ignore[attr-defined]
        await app.enqueue("Gated", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await until_running(app)
        await app.pause("job")
        app.gate.set()  # type: ignore[attr-defined]
        await app.drain()
        after = await row(app, "job")
        assert (after.status, after.paused) == (JobStatus.SCHEDULED, True)
        assert await outcomes(app, "job") == ["completed"]
        clock.advance(hours=2)
        await app.drain()
        assert await outcomes(app, "job") == ["completed"]
        assert (await app.store.stats()).due == 0, "a paused job is never overdue"


async def test_a_paused_retry_waits_and_runs_at_the_resume(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    async with work as app:
        await app.enqueue("Retried", "job")
        await app.drain()
        await app.pause("job")
        clock.advance(minutes=5)
        await app.drain()
        assert len(ran) == 1
        await app.resume("job")
        await app.drain()
        assert [ctx.attempt for ctx in ran] == [1, 2]


async def test_trigger(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        # a future one-shot: due now
        await app.enqueue("Work", "one", schedule=timedelta(hours=1))
        await app.trigger("one")
        await app.drain()
        assert (await app.wait("one", 10)).status is JobStatus.COMPLETED
        with pytest.raises(InvalidTransition, match=r"trigger.*'one'.*COMPLETED"):
            await app.trigger("one")
        # a waiting retry: due now
        await app.enqueue("Retried", "retry")
        await app.drain()
        await app.trigger("retry")
        await app.drain()
        assert [ctx.attempt for ctx in ran if ctx.job.job_name == "retry"] == [1, 2]
        # a recurring one: an extra run that moves neither last_occurrence nor repeats
        clock.advance(minutes=7)
        await app.enqueue("Work", "many", schedule="@every 1h", repeats=2)
        due = (await row(app, "many")).due_at
        await app.trigger("many")
        await app.trigger("many")
        await app.drain()
        extra = [ctx for ctx in ran if ctx.job.job_name == "many"]
        assert [ctx.occurrence for ctx in extra] == [clock.now()]
        after = await row(app, "many")
        assert (after.due_at, after.last_occurrence, after.occurrences, after.off_schedule) == (due, None, 0, False)
        clock.advance(hours=1)
        await app.drain()
        clock.advance(hours=1)
        await app.drain()
        assert (await app.wait("many", 10)).status is JobStatus.COMPLETED
        assert len([ctx for ctx in ran if ctx.job.job_name == "many"]) == 3


@pytest.mark.parametrize("early", [timedelta(minutes=1), timedelta(hours=4), timedelta(days=400)])
async def test_a_triggered_one_shot_has_run(
    work: Aether, clock: FakeClock, ran: list[JobContext], early: timedelta
) -> None:
    async with work:
        await work.enqueue("Work", "later", schedule=early)
        await work.enqueue("Work", "at", schedule=NOW + early)
        for name in ("later", "at"):
            await work.trigger(name)
        await work.drain()
        clock.advance(early + timedelta(days=1))
        await work.drain()
        assert [(await row(work, name)).status for name in ("later", "at")] == [JobStatus.COMPLETED] * 2
        assert len(ran) == 2


async def test_trigger_works_while_paused_and_leaves_it_paused(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule="@every 1h")
        await app.pause("job")
        clock.advance(minutes=10)
        await app.trigger("job")
        await app.drain()
        assert [ctx.occurrence for ctx in ran] == [clock.now()]
        after = await row(app, "job")
        assert (after.paused, after.manual, after.off_schedule) == (True, False, False)
        assert after.due_at == NOW + timedelta(hours=1)


async def test_trigger_during_a_run_makes_one_more_run(work: Aether, clock: FakeClock, ran: list[Any]) -> None:
    async with work as app:
        app.gate = anyio.Event()  # type: ignore[attr-defined]
        await app.enqueue("Gated", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await until_running(app)
        await app.trigger("job")
        await app.trigger("job")
        await app.enqueue("Gated", "one")
        await until_running(app, 2)
        with pytest.raises(InvalidTransition, match=r"trigger.*'one'.*RUNNING"):
            await app.trigger("one")
        app.gate.set()  # type: ignore[attr-defined]
        await app.drain()
        assert await outcomes(app, "job") == ["completed", "completed"]
        after = await row(app, "job")
        assert (after.occurrences, after.due_at) == (1, NOW + timedelta(hours=2))


async def test_retry(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Fails", "job")
        await app.drain()
        failed = await app.wait("job", 10)
        assert (failed.status, failed.retry_count) == (JobStatus.FAILED, 0)
        assert failed.last_error is not None
        assert failed.last_error.startswith("ValueError: it fails")
        clock.advance(hours=3)
        await app.retry("job")
        again = await row(app, "job")
        assert (again.status, again.due_at, again.last_error) == (JobStatus.SCHEDULED, clock.now(), None)
        await app.drain()
        assert await outcomes(app, "job") == ["failed", "failed"]
        # cancelled, and its name taken meanwhile
        first = await app.enqueue("Work", "name", schedule=timedelta(hours=1))
        await app.delete(first)
        second = await app.enqueue("Work", "name", schedule=timedelta(hours=2))
        with pytest.raises(JobConflict, match=r"retry.*'name'.*held by another") as caught:
            await app.retry(first)
        assert caught.value.existing is not None
        assert caught.value.existing.id == second
        await app.delete(second)
        await app.retry(first)
        await app.drain()
        assert (await app.wait(first, 10)).status is JobStatus.COMPLETED
        with pytest.raises(InvalidTransition, match=r"retry.*COMPLETED"):
            await app.retry(first)
        # recurring: at its next occurrence
        await app.enqueue("Work", "many", schedule="@every 1h")
        due = (await row(app, "many")).due_at
        await app.delete("many")
        clock.advance(minutes=90)
        await app.retry("many")
        assert due is not None
        assert (await row(app, "many")).due_at == due + timedelta(hours=1)


# -- repeats, until, start; misfires --------------------------------------------------------------


async def test_repeats_until_and_start(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    hour = timedelta(hours=1)
    async with work as app:
        await app.enqueue("Work", "repeats", schedule="@every 1h", repeats=2)
        await app.enqueue("Work", "until", schedule="@every 1h", until=NOW + 3 * hour)
        await app.enqueue("Work", "start", schedule="@every 1h", start=NOW + 5 * hour, repeats=1)
        await app.enqueue("Work", "cron", schedule="0 * * * *", start=NOW + 4 * hour, until=NOW + 5 * hour)
        await app.enqueue("Work", "once", start=NOW + 2 * hour)
        for _ in range(8):
            clock.advance(hours=1)
            await app.drain()
        for name in ("repeats", "until", "start", "cron", "once"):
            assert (await app.wait(name, 10)).status is JobStatus.COMPLETED
    when = {
        name: [(ctx.occurrence - NOW) // hour for ctx in ran if ctx.job.job_name == name]
        for name in ("repeats", "until", "start", "cron", "once")
    }
    assert when == {"repeats": [1, 2], "until": [1, 2, 3], "start": [5], "cron": [4, 5], "once": [2]}


@pytest.mark.parametrize(("misfire", "runs"), [("skip", 0), ("once", 1), ("all", 60)])
async def test_down_for_an_hour(
    work: Aether, clock: FakeClock, ran: list[JobContext], misfire: Any, runs: int, make_app: Callable[..., Aether]
) -> None:
    """A minutely job, down for an hour, back 30 s after a tick (row 19 of the crash programme)."""
    async with work as app:
        job_id = await app.enqueue("Work", "job", schedule="* * * * *", misfire=misfire)
    clock.advance(hours=1, seconds=30)
    async with work as app:
        await app.drain()
        after = await row(app, "job")
        assert len(ran) == runs
        assert after.due_at == NOW + timedelta(minutes=61)
        history = await app.store.history(job_id)
        gaps = [run for run in history if run.outcome is not RunOutcome.COMPLETED]
        assert sum(gap.count for gap in gaps) == 60 - runs
        assert len(gaps) == (runs < 60)
    occurrences = [ctx.occurrence for ctx in ran]
    assert occurrences == sorted(set(occurrences))
    assert not ran or occurrences[-1] == NOW + timedelta(hours=1)


async def test_failures_retries_and_their_backoff(work: Aether, clock: FakeClock, ran: list[JobContext]) -> None:
    async with work as app:
        await app.enqueue("Retried", "job")
        waits = []
        for _ in range(3):
            await app.drain()
            job = await row(app, "job")
            if job.due_at is not None:
                waits.append((job.due_at - clock.now()).total_seconds())
                clock.advance(seconds=waits[-1])
        assert waits == [60, 100]
        failed = await app.wait("job", 10)
        assert (failed.status, failed.retry_count) == (JobStatus.FAILED, 2)
        assert await outcomes(app, "job") == ["failed"] * 3
        assert [ctx.attempt for ctx in ran] == [1, 2, 3]
        assert len({ctx.idempotency_key for ctx in ran}) == 1, "one key for all attempts at an occurrence"
        assert len({ctx.token for ctx in ran}) == 3


async def test_a_recurring_job_continues_after_an_exhausted_occurrence(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    async with work as app:
        await app.enqueue("Fails", "job", schedule="@every 1h")
        for _ in range(2):
            clock.advance(hours=1)
            await app.drain()
        job = await row(app, "job")
        assert job.status is JobStatus.SCHEDULED
        assert job.last_error is not None
        assert await outcomes(app, "job") == ["failed", "failed"]


async def test_snooze_and_give_up(fake_app: Aether, clock: FakeClock) -> None:
    app, tries = fake_app, []

    @app.handler("Snoozes", retries=1)
    async def snoozes(args: str) -> None:
        tries.append(args)
        if len(tries) == 1:
            raise Snooze(timedelta(minutes=5))
        if len(tries) == 2:
            raise Snooze(clock.now() + timedelta(hours=1))

    @app.handler("GivesUp", retries=5)
    async def gives_up() -> None:
        raise GiveUp("no such customer")

    @app.handler("BadSnooze")
    async def bad_snooze() -> None:
        raise Snooze(datetime(2030, 1, 1))

    async with app:
        await app.enqueue("Snoozes", "snoozes", "x")
        await app.drain()
        assert (await row(app, "snoozes")).due_at == clock.now() + timedelta(minutes=5)
        clock.advance(minutes=5)
        await app.drain()
        snoozed = await row(app, "snoozes")
        assert (snoozed.due_at, snoozed.retry_count) == (clock.now() + timedelta(hours=1), 0)
        clock.advance(hours=1)
        await app.drain()
        assert (await app.wait("snoozes", 10)).status is JobStatus.COMPLETED
        assert await outcomes(app, "snoozes") == ["snoozed", "snoozed", "completed"]
        await app.enqueue("GivesUp", "gives-up")
        await app.enqueue("BadSnooze", "bad-snooze")
        await app.drain()
        gave_up = await app.wait("gives-up", 10)
        assert gave_up.status is JobStatus.FAILED
        assert "no such customer" in str(gave_up.last_error)
        assert "aware datetime" in str((await app.wait("bad-snooze", 10)).last_error)


async def test_a_wall_clock_put_back_or_forth_doubles_nothing(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", schedule="0 * * * *")
        for jump in (timedelta(hours=1), timedelta(hours=-1), timedelta(days=1), timedelta(days=-1), timedelta(days=2)):
            clock.set(clock.now() + jump)
            await app.drain()
        occurrences = [ctx.occurrence for ctx in ran]
        assert occurrences == sorted(set(occurrences))


# -- drain and missing handlers --------------------------------------------------------------------


async def test_drain_runs_what_running_makes_due(fake_app: Aether) -> None:
    app, seen = fake_app, []

    @app.handler("Chain")
    async def chain(args: int) -> None:
        seen.append(args)
        if args:
            await app.enqueue(chain, payload=args - 1)

    async with app:
        await app.enqueue(chain, payload=5)
        await app.drain()
        assert seen == [5, 4, 3, 2, 1, 0]
        assert (await app.store.stats()).completed == 6


async def test_drain_of_more_than_there_are_slots(make_app: Callable[..., Aether], clock: FakeClock) -> None:
    app, gauge = make_app(concurrency=3, clock=clock), Gauge()

    @app.handler("Work")
    async def work() -> None:
        await gauge(0.001)

    async with app:
        for _ in range(20):
            await app.enqueue("Work", schedule=timedelta(minutes=1))
        clock.advance(minutes=1)
        await app.drain()
        assert (await app.store.stats()).completed == 20
        assert gauge.most == 3


async def test_a_job_waits_for_its_handler_and_keeps_its_payload(work: Aether, clock: FakeClock) -> None:
    """docs/protocol.md, C7."""
    async with work.client() as jobs:
        await jobs.enqueue("Later", "later", {"a": 1})
    async with work as app:
        for _ in range(2):
            clock.advance(minutes=2)
            await app.drain()
            waiting = await row(app, "later")
            assert (waiting.status, waiting.payload) == (JobStatus.SCHEDULED, {"a": 1})
            assert "Later" in await app.explain("later")
    seen = []
    work.handler("Later")(seen.append)
    async with work as app:
        await app.drain()
        assert (await app.wait("later", 10)).status is JobStatus.COMPLETED
    assert seen == [{"a": 1}]


async def test_a_trigger_at_the_very_instant_of_an_occurrence_is_one_more(
    work: Aether, clock: FakeClock, ran: list[JobContext]
) -> None:
    """History has one Completed per occurrence (docs/protocol.md, C6), so the two must not share theirs."""
    async with work as app:
        await app.enqueue("Work", "job", schedule="@every 1h")
        clock.advance(hours=1)
        await app.trigger("job")
        await app.drain()
        assert await outcomes(app, "job") == ["completed", "completed"]
        await app.trigger("job")
        await app.drain()
        await app.trigger("job")
        await app.drain()
        assert await outcomes(app, "job") == ["completed"] * 4
        after = await row(app, "job")
        assert (after.occurrences, after.due_at) == (1, NOW + timedelta(hours=2))
        assert len({ctx.occurrence for ctx in ran}) == 4


async def test_a_retry_never_waits_past_its_largest_backoff(work: Aether, clock: FakeClock) -> None:
    """docs/protocol.md, R4: whatever the wall clock does."""
    async with work as app:
        await app.enqueue("Retried", "job")
        await app.drain()
        assert (await row(app, "job")).due_at == clock.now() + timedelta(seconds=60)
        clock.set(clock.now() - timedelta(days=1))
        with anyio.fail_after(10):
            while (due := (await row(app, "job")).due_at) is None or due - clock.now() > timedelta(seconds=100):
                clock.advance(seconds=1)
                await anyio.sleep(0.02)
        clock.advance(seconds=100)
        await app.drain()
        assert (await outcomes(app, "job"))[:2] == ["failed", "failed"]


async def test_row_for_an_id_says_what_to_pass(work: Aether) -> None:
    async with work as app:
        await app.enqueue("Work", "once")
        for verb in (app.explain, app.retry, app.wait):
            with pytest.raises(InvalidOption, match=r"id \(uuid.UUID\) or its name.* Pass its id\."):
                await verb(await row(app, "once"))  # type: ignore[arg-type]
