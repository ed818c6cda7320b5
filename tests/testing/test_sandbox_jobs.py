"""What a test does in a sandbox: drain, let time pass, assert."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from shop import FakeMailer, Mail, Mailer, make_shop

import aether_bg
from aether_bg import (
    Aether,
    GiveUp,
    InvalidOption,
    JobContext,
    JobType,
    RunOutcome,
    UnitOfWork,
    UnknownHandler,
    UsageError,
    WaitTimeout,
)
from aether_bg.testing import JobFailed, sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
START = datetime(2030, 1, 1, tzinfo=UTC)


# -- drain -----------------------------------------------------------------------------------------


async def test_drain_runs_what_becomes_due_by_what_it_runs(app: Aether) -> None:
    @app.handler("Count")
    async def count(left: int) -> None:
        if left:
            await app.enqueue("Count", f"count-{left - 1}", left - 1)

    async with sandbox(app) as jobs:
        await app.enqueue("Count", "count-3", 3)
        await app.enqueue("Print", "later", "text", timedelta(minutes=1))
        assert [ran.job_name for ran in await jobs.drain()] == ["count-3", "count-2", "count-1", "count-0"]
        assert await jobs.drain() == []
        jobs.clock.advance(minutes=1)
        assert [ran.job_name for ran in await jobs.drain()] == ["later"]


async def test_what_a_handler_raises_is_the_cause(app: Aether) -> None:
    mailer = FakeMailer(OSError("no route"))
    async with sandbox(app, override={Mailer: mailer}) as jobs:
        await app.enqueue("SendEmail", "mail", Mail("ada"))
        await app.enqueue("Print", "page", "text")
        with pytest.raises(JobFailed) as caught:
            await jobs.drain()
        assert str(caught.value) == (
            "1 of 2 attempts: job 'mail' (SendEmail), attempt 1: failed, OSError: no route. "
            "If the test wants that: drain(raise_errors=False) returns them instead."
        )
        assert isinstance(caught.value, AssertionError)
        assert isinstance(caught.value, aether_bg.JobFailed)
        assert (caught.value.last_error or "").startswith("OSError: no route")
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.__traceback__ is not None, "as it was raised"
        assert [job.job_name for job in await jobs.completed()] == ["page"], "everything has run all the same"
        assert await jobs.drain() == [], "raised once"


async def test_several_failures_are_a_group(app: Aether) -> None:
    mailer = FakeMailer(OSError("one"), KeyError("two"))
    async with sandbox(app, override={Mailer: mailer}) as jobs:
        for name in "ab":
            await app.enqueue("SendEmail", name, Mail(name))
        with pytest.raises(JobFailed, match="2 of 2") as caught:
            await jobs.drain()
        assert {ran.job_name for ran in caught.value.failed} == {"a", "b"}
        cause = caught.value.__cause__
        assert isinstance(cause, BaseExceptionGroup)
        assert {type(error) for error in cause.exceptions} == {OSError, KeyError}


async def test_failures_that_a_test_wants(app: Aether) -> None:
    mailer = FakeMailer(OSError("no route"))
    async with sandbox(app, override={Mailer: mailer}) as jobs:
        await app.enqueue("SendEmail", "mail", Mail("ada"))
        (first,) = await jobs.drain(raise_errors=False)
        assert first.failed
        assert (first.outcome, str(first.exception)) == (RunOutcome.FAILED, "no route")
        (waiting,) = [job for job in await jobs.pending() if job.job_name == "mail"]
        assert (waiting.due_at, waiting.retry_count) == (START + timedelta(minutes=1), 1)
        assert await jobs.drain() == [], "the retry waits for its backoff"
        (second,) = await jobs.advance(minutes=1)
        assert not second.failed
        assert second.job.attempt == 2
        assert mailer.sent == [Mail("ada")]


@pytest.mark.parametrize(
    ("raised", "said"),
    [(GiveUp("only https"), "GiveUp: only https"), (SystemExit(3), "SystemExit"), (KeyboardInterrupt(), "Keyboard")],
)
async def test_whatever_it_raises(app: Aether, raised: BaseException, said: str) -> None:
    @app.handler("Raise")
    async def fail() -> None:
        raise raised

    async with sandbox(app) as jobs:
        await app.enqueue("Raise")
        with pytest.raises(JobFailed, match=said) as caught:
            await jobs.drain()
        assert caught.value.__cause__ is raised


async def test_what_a_unit_of_work_raises_at_its_commit(app: Aether) -> None:
    @app.handler("Insert")
    async def insert(uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO nowhere VALUES (1)")

    async with sandbox(app) as jobs:
        await app.enqueue("Insert")
        with pytest.raises(JobFailed, match="nowhere") as caught:
            await jobs.drain()
        assert "nowhere" in str(caught.value.__cause__)


async def test_a_timeout(app: Aether) -> None:
    @app.handler("Slow", timeout=0.05)
    async def slow() -> None:
        await anyio.sleep_forever()

    async with sandbox(app) as jobs:
        await app.enqueue("Slow")
        with pytest.raises(JobFailed, match="timed_out"):
            await jobs.drain()


async def test_a_drain_without_an_end_is_ended(real: Path) -> None:
    app = make_shop(real, grace=0.1)

    @app.handler("Again")
    async def again(number: int) -> None:
        await app.enqueue("Again", payload=number + 1)

    @app.handler("Stuck")
    async def stuck() -> None:
        await anyio.sleep_forever()

    async with sandbox(app) as jobs:
        job = await app.enqueue("Stuck", "stuck")
        with pytest.raises(WaitTimeout, match=r"running now: 'stuck'.*Does a handler wait"):
            await jobs.drain(timeout=0.2)
        await app.delete(job)
        await app.enqueue("Again", payload=1)
        with pytest.raises(WaitTimeout, match=r"still due or running after 0\.2 s"):
            await jobs.drain(timeout=0.2)


async def test_what_the_code_under_test_drained_counts_as_well(app: Aether) -> None:
    async with sandbox(app) as jobs:
        await app.enqueue("Print", "one", "text")
        await app.drain()
        await app.enqueue("Print", "two", "text")
        assert [ran.job_name for ran in await jobs.drain()] == ["one", "two"]


# -- time ------------------------------------------------------------------------------------------


async def test_months_of_a_daily_schedule(app: Aether, request: pytest.FixtureRequest) -> None:
    many = 365 if request.config.getoption("--thorough") else 60
    async with sandbox(app) as jobs:
        began = time.monotonic()
        days = 0
        for _ in range(many):
            jobs.clock.advance(days=1)
            days += len(await jobs.drain())
        assert days == many
        assert time.monotonic() - began < 60, "no sleeping"


async def test_advance_stops_at_each_due_instant(app: Aether) -> None:
    seen: list[tuple[str, datetime]] = []

    def note(ctx: JobContext) -> None:
        seen.append((ctx.job.handler_name, app.options.clock.now()))

    app.handler("Skipping")(note)
    app.handler("Weekly")(note)
    async with sandbox(app) as jobs:
        await app.enqueue("Skipping", "skipping", schedule="0 */8 * * *", misfire="skip")
        await app.enqueue("Weekly", "weekly", schedule=timedelta(hours=20))
        ran = await jobs.advance(days=1)
        assert seen == [
            ("Skipping", START + timedelta(hours=8)), ("Skipping", START + timedelta(hours=16)),
            ("Weekly", START + timedelta(hours=20)), ("Skipping", START + timedelta(hours=24)),
        ]  # fmt: skip
        assert [each.handler_name for each in ran] == ["Report", "Skipping", "Skipping", "Weekly", "Skipping"]
        assert jobs.clock.now() == START + timedelta(days=1)


async def test_a_clock_that_leaps_is_an_app_that_slept(app: Aether) -> None:
    runs: list[datetime] = []

    @app.handler("Skipping")
    def skipping(ctx: JobContext) -> None:
        runs.append(ctx.occurrence)

    async with sandbox(app) as jobs:
        job = await app.enqueue("Skipping", "skipping", schedule="0 */8 * * *", misfire="skip")
        jobs.clock.advance(hours=30)
        assert [ran.handler_name for ran in await jobs.drain()] == ["Report"]
        assert runs == []
        (gap,) = await jobs.store.history(job)
        assert (gap.outcome, gap.count) == (RunOutcome.SKIPPED, 3)


async def test_a_paused_job_does_not_hold_time_up(app: Aether) -> None:
    async with sandbox(app) as jobs:
        await app.pause("Report")
        assert await jobs.advance(days=3) == []
        await app.trigger("Report")
        assert len(await jobs.drain()) == 1


async def test_advance_stops_where_a_job_fails(app: Aether) -> None:
    @app.handler("Fails")
    def fails() -> None:
        raise OSError

    async with sandbox(app) as jobs:
        await app.enqueue("Fails", schedule=timedelta(hours=1))
        with pytest.raises(JobFailed):
            await jobs.advance(days=1)
        assert jobs.clock.now() == START + timedelta(hours=1)
        assert len(await jobs.advance(hours=23)) == 1
        with pytest.raises(InvalidOption, match="backwards"):
            await jobs.advance(hours=-1)


# -- assertions ------------------------------------------------------------------------------------


async def test_assert_enqueued(app: Aether, mailer: FakeMailer) -> None:
    @app.handler("Charge")
    def charge(amount: int) -> None: ...

    async with sandbox(app, override={Mailer: mailer}) as jobs:
        await app.enqueue("SendEmail", "ada", Mail("ada", 2), metadata={"order": 1, "shop": "north"})
        await app.enqueue("SendEmail", "bob", Mail("bob"), timedelta(hours=1))
        await app.enqueue(charge, payload=5)
        (ada,) = await jobs.assert_enqueued("SendEmail", "ada")
        assert ada.job_name == "ada"
        await jobs.assert_enqueued("SendEmail", payload={"to": "ada"})
        await jobs.assert_enqueued("SendEmail", payload=Mail("ada", 2))
        await jobs.assert_enqueued("SendEmail", payload=Mail("ada"), count=0)
        await jobs.assert_enqueued("SendEmail", due=timedelta(hours=1), payload={"to": "bob"})
        await jobs.assert_enqueued("SendEmail", due=jobs.clock.now())
        await jobs.assert_enqueued("SendEmail", metadata={"order": 1})
        await jobs.assert_enqueued("SendEmail", schedule="@once")
        await jobs.assert_enqueued("SendEmail", count=2)
        await jobs.assert_enqueued(charge, payload=5)
        await jobs.assert_enqueued(JobType("Charge", int), payload=5)
        await jobs.assert_not_enqueued("SendEmail", payload={"to": "eve"})
        await jobs.assert_not_enqueued(charge, payload=6)
        await jobs.drain()
        await jobs.assert_enqueued("SendEmail", "ada", due=jobs.clock.now())  # run or not
        await app.delete("bob")
        await jobs.assert_not_enqueued("SendEmail", "bob")


async def test_a_failed_assertion_shows_what_is_there(app: Aether) -> None:
    async with sandbox(app) as jobs:
        await app.enqueue("Print", "page", "text")
        with pytest.raises(AssertionError) as caught:
            await jobs.assert_enqueued("SendEmail", payload={"to": "ada"}, due=timedelta(hours=1))
        assert str(caught.value).splitlines() == [
            "0 jobs, not 1, are enqueued for SendEmail with payload={'to': 'ada'}, due=2030-01-01T01:00:00Z. There is:",
            "  Report 'Report' SCHEDULED due 2030-01-01T03:00:00Z '0 3 * * *' payload=None",
            "  Print 'page' SCHEDULED due 2030-01-01T00:00:00Z '@once' payload='text'",
        ]
        with pytest.raises(AssertionError, match="1 jobs, not 0, are enqueued for Print"):
            await jobs.assert_not_enqueued("Print")
        for name in ("page", "Report"):
            await app.delete(name)
        with pytest.raises(AssertionError, match="There is no job at all"):
            await jobs.assert_enqueued("Print")


async def test_what_can_never_be_enqueued_is_an_error_of_the_test(app: Aether) -> None:
    async with sandbox(app) as jobs:
        with pytest.raises(UnknownHandler, match="SendEmail"):
            await jobs.assert_not_enqueued("SendMail")
        with pytest.raises(InvalidOption, match="aware"):
            await jobs.assert_enqueued("Print", due=datetime(2030, 1, 1))
        with pytest.raises(AttributeError):
            jobs.assert_enqeued("Print")


async def test_an_assertion_that_is_not_awaited_does_not_pass(app: Aether) -> None:
    with pytest.raises(UsageError, match=r"assert_enqueued.*never awaited.*Add await"):
        async with sandbox(app) as jobs:
            jobs.assert_enqueued("Print")  # type: ignore[unused-coroutine]


async def test_pending_is_in_order_of_due_instants(app: Aether) -> None:
    async with sandbox(app) as jobs:
        await app.enqueue("Print", "late", "text", timedelta(days=1))
        await app.enqueue("Print", "now", "text")
        assert [job.job_name for job in await jobs.pending()] == ["now", "Report", "late"]
        await jobs.drain()
        assert [job.job_name for job in await jobs.completed()] == ["now"]
        assert [job.job_name for job in await jobs.pending()] == ["Report", "late"]


async def test_its_verbs_are_those_of_the_app(app: Aether) -> None:
    async with sandbox(app) as jobs:
        job = await jobs.enqueue("Print", "page", "text")
        await jobs.drain()
        assert (await jobs.wait(job)).status.name == "COMPLETED"
        assert "2030-01-01T00:00:00Z" in repr(jobs)
