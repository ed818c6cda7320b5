"""Names: who is the same job, what an enqueue of a held name changes, and a handler that enqueues its own name
(docs/protocol.md, N0, N2, N3, N7, U1)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from aether_bg import Aether, InvalidSchedule, JobConflict, JobContext, JobInfo, JobStatus, RunOutcome, UnitOfWork
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MODES = ("raise", "keep", "replace")


@pytest.fixture
def ran() -> list[tuple[str, datetime]]:
    return []


@pytest.fixture
def work(fake_app: Aether, ran: list[tuple[str, datetime]], clock: FakeClock) -> Aether:
    @fake_app.handler("Work")
    async def work(args: str, ctx: JobContext) -> None:
        ran.append((args, clock.now()))
        if args == "fails":
            raise ValueError(args)

    return fake_app


async def job_of(app: Aether, name: str = "job") -> JobInfo:
    found = await app.store.get_by_job_name(name)
    assert found is not None
    return found


async def rows_of(app: Aether, *outcomes: RunOutcome) -> list[tuple[datetime | None, datetime | None, int]]:
    history = await app.store.history((await job_of(app)).id)
    return [(run.occurrence, run.last_occurrence, run.count) for run in history if run.outcome in outcomes]


# -- who is the same --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["waiting", "failed", "completed", "paused"])
@pytest.mark.parametrize("if_exists", MODES)
async def test_an_identical_enqueue_answers_with_the_id_in_every_state(
    work: Aether, clock: FakeClock, state: str, if_exists: Any
) -> None:
    payload = "fails" if state == "failed" else "a"
    async with work as app:
        job_id = await app.enqueue("Work", "job", payload, timedelta(minutes=5))
        if state == "paused":
            await app.pause("job")
        elif state != "waiting":
            clock.advance(minutes=5)
            await app.drain()
        before = await job_of(app)
        again = await app.enqueue("Work", "job", payload, timedelta(seconds=300), if_exists=if_exists)
        if state == "failed" and if_exists == "replace":
            assert again != job_id, "what runs a failed job again"
        else:
            assert again == job_id
            assert await job_of(app) == before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"schedule": "0 9 * * *"}, {"schedule": "0 9 * * *", "timezone": "UTC"}),
        ({"schedule": "0 9 * * *", "timezone": "UTC"}, {"schedule": "CRON_TZ=UTC 0 9 * * *"}),
        ({"schedule": "@every 1h", "timezone": "UTC"}, {"schedule": "@every 1h"}),
        ({"timezone": "UTC"}, {}),
        ({"misfire_grace": 60}, {"misfire_grace": timedelta(minutes=1)}),
        ({"schedule": HOUR}, {"schedule": timedelta(minutes=60)}),
        (
            {"schedule": datetime(2031, 1, 1, 2, tzinfo=UTC)},
            {"schedule": datetime(2031, 1, 1, 1, tzinfo=UTC).astimezone(None) + HOUR},
        ),
    ],
    ids=str,
)
async def test_equal_enqueues_written_differently_are_equal(
    work: Aether, first: dict[str, Any], second: dict[str, Any]
) -> None:
    async with work as app:
        job_id = await app.enqueue("Work", "job", "a", **first)
        before = await job_of(app)
        for if_exists in MODES:
            assert await app.enqueue("Work", "job", "a", **second, if_exists=if_exists) == job_id
            assert await job_of(app) == before
        with pytest.raises(JobConflict, match="differs in timezone"):
            await app.enqueue("Work", "job", "a", **{**first, "timezone": "Europe/Berlin"})


@pytest.mark.parametrize("schedule", ["@every 1h", "0 * * * *", NOW + HOUR, HOUR])
@pytest.mark.usefixtures("path")  # it needs SQL
async def test_what_could_no_longer_be_made_is_still_the_same_job(
    work: Aether, clock: FakeClock, schedule: Any
) -> None:
    until = NOW + 2 * HOUR
    arguments = ("Work", "job", "a", schedule)
    async with work as app:
        job_id = await app.enqueue(*arguments, until=until)
        clock.advance(days=3)
        for if_exists in MODES:
            assert await app.enqueue(*arguments, until=until, if_exists=if_exists) == job_id
            async with app.unit_of_work():
                assert await app.enqueue(*arguments, until=until, if_exists=if_exists) == job_id
        async with app.unit_of_work() as uow:
            queued = uow.run(lambda tx: tx.enqueue(*arguments, until=until))
        assert queued.result == job_id
        assert await app.enqueue("Work", "job", "b", schedule, until=until, if_exists="keep") == job_id
        with pytest.raises(JobConflict, match="differs in payload"):
            await app.enqueue("Work", "job", "b", schedule, until=until)


@pytest.mark.usefixtures("path")  # it needs SQL
async def test_what_can_no_longer_be_made_is_refused_where_the_name_is_free(work: Aether, clock: FakeClock) -> None:
    def caught(tx: Any) -> None:
        with pytest.raises(InvalidSchedule):
            tx.enqueue("Work", "job", "a", "@daily", until=NOW - DAY)

    async with work as app:
        for schedule in ("@daily", "@every 1h", NOW - 2 * DAY):
            for if_exists in MODES:
                with pytest.raises(InvalidSchedule, match="no occurrence before until"):
                    await app.enqueue("Work", "job", "a", schedule, until=NOW - DAY, if_exists=if_exists)  # type: ignore[arg-type]
        with pytest.raises(InvalidSchedule):
            async with app.unit_of_work():
                await app.enqueue("Work", "job", "a", "@daily", until=NOW - DAY)
        with pytest.raises(InvalidSchedule):
            async with app.unit_of_work() as uow:
                uow.run(caught)
        assert await app.store.find() == []


# -- a redefinition ---------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [
    {"payload": "b"}, {"misfire_grace": 60}, {"misfire": "all"}, {"until": NOW + 99 * DAY}, {"repeats": 9},
    {"payload": "b", "timezone": "UTC"},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("schedule", ["0 0 * * *", "@every 24h"])
async def test_a_redefinition_keeps_what_was_missed_and_the_anchor(
    make_app: Callable[..., Aether], clock: FakeClock, step: Any, change: dict[str, Any], schedule: str
) -> None:
    """A deploy that changes anything but schedule, zone and start, while the job was due."""
    runs: list[str] = []

    def version(**options: Any) -> Aether:
        app = make_app(clock=clock, scheduler=step)
        app.handler("Work")(lambda args: runs.append(args))
        app.declare("Work", "job", **{"payload": "a", "schedule": schedule, **options})
        return app

    async with version() as app:
        before = await job_of(app)
    clock.advance(days=1, hours=3)
    async with version(**change) as app:
        after = await job_of(app)
        assert (after.id, after.occurrence, after.due_at, after.anchor) == (
            before.id, before.occurrence, before.due_at, before.anchor,
        )  # fmt: skip
        await app.drain()
    assert runs == [change.get("payload", "a")]
    for _ in range(2):
        clock.advance(hours=12)
        async with version(payload=f"deploy {clock.now()}") as app:
            await app.drain()
    assert len(runs) == 2, "two deploys a day put nothing off"


async def test_a_redefinition_keeps_a_waiting_retry(make_app: Callable[..., Aether], clock: FakeClock) -> None:
    app = make_app(clock=clock, scheduler="timer")
    tries: list[str] = []

    @app.handler("Work", retries=3)
    async def work(args: str) -> None:
        tries.append(args)
        if len(tries) == 1:
            raise ValueError

    async with app:
        await app.enqueue("Work", "job", "a", "@every 1h")
        clock.advance(hours=1)
        await app.drain()
        before = await job_of(app)
        assert before.retry_count == 1
        await app.enqueue("Work", "job", "b", "@every 1h", if_exists="replace")
        after = await job_of(app)
        assert (after.due_at, after.retry_count, after.payload) == (before.due_at, 1, "b")
        clock.advance(minutes=5)
        await app.drain()
        assert tries == ["a", "b"]
        assert (await job_of(app)).last_occurrence == NOW + HOUR


@pytest.mark.parametrize("by", ["update", "replace"])
async def test_another_schedule_starts_from_now_with_a_row_for_what_was_overdue(
    work: Aether, clock: FakeClock, ran: list[Any], by: str
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", "a", "@every 1h")
        clock.advance(hours=3, minutes=30)
        if by == "update":
            await app.update("job", "@every 2h")
        else:
            await app.enqueue("Work", "job", "a", "@every 2h", if_exists="replace")
        assert (await job_of(app)).due_at == clock.now() + 2 * HOUR
        assert await rows_of(app, RunOutcome.SUPERSEDED) == [(NOW + HOUR, NOW + 3 * HOUR, 3)]
        assert "3 occurrences" in await app.explain("job")
        await app.drain()
        assert ran == []


@pytest.mark.parametrize(("schedule", "advance"), [("@every 1h", timedelta(minutes=5)), (HOUR, 2 * HOUR)])
async def test_rows_are_written_for_what_was_overdue_only(
    work: Aether, clock: FakeClock, schedule: Any, advance: timedelta
) -> None:
    async with work as app:
        await app.enqueue("Work", "job", "a", schedule)
        clock.advance(seconds=advance.total_seconds())
        await app.enqueue("Work", "job", "a", "@daily", if_exists="replace")
        overdue = [(NOW + HOUR, NOW + HOUR, 1)] if advance > HOUR else []
        assert await rows_of(app, RunOutcome.SUPERSEDED) == overdue
        await app.pause("job")
        clock.advance(days=3)
        await app.enqueue("Work", "job", "a", "@hourly", if_exists="replace")
        assert await rows_of(app, RunOutcome.SUPERSEDED) == overdue, "a paused job is never overdue"


async def test_the_anchor_of_a_running_recurring_job_stays(app: Aether) -> None:
    begun, go = anyio.Event(), anyio.Event()

    @app.handler("Slow")
    async def slow(args: str) -> None:
        begun.set()
        await go.wait()

    async with app:
        await app.enqueue("Slow", "job", "a", "@every 1h")
        before = await job_of(app)
        await app.trigger("job")
        await begun.wait()
        await app.enqueue("Slow", "job", "b", "@every 1h", if_exists="replace")
        go.set()
        with anyio.fail_after(10):
            while (await job_of(app)).status is not JobStatus.SCHEDULED:
                await anyio.sleep(0.01)
        after = await job_of(app)
        assert (after.payload, after.anchor, after.due_at) == ("b", before.anchor, before.due_at)


# -- its own name -----------------------------------------------------------------------------------


def again(app: Aether, **options: Any) -> tuple[list[str], list[Any]]:
    """A one-shot that enqueues its own name once; what it ran with, and what it got."""
    ran: list[str] = []
    got: list[Any] = []

    @app.handler("Again")
    async def handler(args: str, ctx: JobContext) -> None:
        ran.append(args)
        if len(ran) == 1:
            try:
                got.append(await app.enqueue("Again", "job", **{"payload": args, **options}))
            except JobConflict as conflict:
                got.append(conflict)

    return ran, got


@pytest.mark.parametrize("payload", ["a", "b"])
@pytest.mark.parametrize("schedule", ["@once", timedelta(minutes=5), NOW - HOUR, NOW + HOUR])
async def test_replace_of_its_own_name_runs_it_once_more(
    fake_app: Aether, clock: FakeClock, payload: str, schedule: Any
) -> None:
    """The clock stands still: the second run is still another occurrence."""
    ran, got = again(fake_app, payload=payload, schedule=schedule, if_exists="replace")
    async with fake_app as app:
        job_id = await app.enqueue("Again", "job", "a")
        await app.drain()
        assert got == [job_id]
        if schedule in (timedelta(minutes=5), NOW + HOUR):
            waiting = await job_of(app)
            assert (waiting.status, waiting.due_at) == (
                JobStatus.SCHEDULED, schedule if isinstance(schedule, datetime) else NOW + schedule,
            )  # fmt: skip
            clock.advance(hours=1)
            await app.drain()
        assert ran == ["a", payload]
        job = await job_of(app)
        assert (job.id, job.status) == (job_id, JobStatus.COMPLETED)
        history = await app.store.history(job_id)
        assert [run.outcome for run in history] == [RunOutcome.COMPLETED] * 2


async def test_replace_of_its_own_name_by_a_recurring_job(fake_app: Aether, clock: FakeClock) -> None:
    ran, _ = again(fake_app, schedule="@every 1h", if_exists="replace")
    async with fake_app as app:
        await app.enqueue("Again", "job", "a")
        for _ in range(3):
            await app.drain()
            clock.advance(hours=1)
    assert len(ran) == 3


@pytest.mark.parametrize("payload", ["a", "b"])
async def test_raise_of_its_own_name_is_a_conflict_that_names_the_ways(fake_app: Aether, payload: str) -> None:
    ran, got = again(fake_app, payload=payload)
    async with fake_app as app:
        await app.enqueue("Again", "job", "a")
        await app.drain()
        (conflict,) = got
        for way in ("Snooze", "update", "replace"):
            assert way in str(conflict)
        assert ran == ["a"]
        assert (await job_of(app)).status is JobStatus.COMPLETED


async def test_keep_of_its_own_name_is_its_id(fake_app: Aether) -> None:
    ran, got = again(fake_app, payload="b", if_exists="keep")
    async with fake_app as app:
        job_id = await app.enqueue("Again", "job", "a")
        await app.drain()
    assert (ran, got) == (["a"], [job_id])


@pytest.mark.parametrize("if_exists", ["raise", "replace"])
async def test_its_own_name_in_its_unit_of_work(fake_app: Aether, if_exists: Any) -> None:
    app, said = fake_app, []

    @app.handler("Again")
    async def handler(args: str, uow: UnitOfWork) -> None:
        with pytest.raises(JobConflict, match=r"Snooze.*update.*unit of work") as caught:
            await app.enqueue("Again", "job", args, if_exists=if_exists)
        said.append(caught.value)

    async with app:
        await app.enqueue("Again", "job", "a")
        await app.drain()
        assert (await job_of(app)).status is JobStatus.COMPLETED
    assert len(said) == 1


@pytest.mark.parametrize("payload", ["a", "b"])
@pytest.mark.usefixtures("path")  # it needs SQL
async def test_its_own_name_in_the_transaction_of_its_unit_of_work(fake_app: Aether, payload: str) -> None:
    """The transaction that would complete it: nothing of it happens, and the attempt fails saying why."""
    app = fake_app

    @app.handler("Again")
    async def handler(args: str, uow: UnitOfWork) -> None:
        uow.run(lambda tx: tx.enqueue("Again", "job", payload))

    @app.handler("Kept")
    async def kept(uow: UnitOfWork) -> None:
        uow.run(lambda tx: tx.enqueue("Kept", "kept", if_exists="keep"))

    async with app:
        await app.enqueue("Again", "job", "a")
        await app.enqueue("Kept", "kept")
        await app.drain()
        job = await job_of(app)
        assert job.status is JobStatus.FAILED
        assert "Snooze" in str(job.last_error)
        assert (await job_of(app, "kept")).status is JobStatus.COMPLETED


@pytest.mark.parametrize("if_exists", ["raise", "replace"])
async def test_its_own_name_from_a_plain_handler(app: Aether, if_exists: Any) -> None:
    got: list[Any] = []

    @app.handler("Again")
    def handler(args: str) -> None:
        if not got:
            try:
                got.append(app.sync.enqueue("Again", "job", "b", if_exists=if_exists))
            except JobConflict as conflict:
                got.append(conflict)

    async with app:
        job_id = await app.enqueue("Again", "job", "a")
        job = await app.wait(job_id, 10)
        if if_exists == "raise":
            assert "Snooze" in str(got[0])
        else:
            assert got == [job_id]
            assert job.occurrences == 2


async def test_its_own_name_from_a_task_it_started(fake_app: Aether) -> None:
    app, got = fake_app, []

    async def enqueue() -> None:
        got.append(await app.enqueue("Again", "job", "b", if_exists="replace"))

    @app.handler("Again")
    async def handler(args: str) -> None:
        if not got:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(enqueue)

    async with app:
        job_id = await app.enqueue("Again", "job", "a")
        await app.drain()
        assert got == [job_id]
        assert (await job_of(app)).occurrences == 2


async def test_a_handler_that_fails_after_it_has_replaced_itself(fake_app: Aether) -> None:
    app, ran = fake_app, []

    @app.handler("Again")
    async def handler(args: str) -> None:
        ran.append(args)
        if len(ran) == 1:
            await app.enqueue("Again", "job", "b", if_exists="replace")
            raise ValueError

    async with app:
        job_id = await app.enqueue("Again", "job", "a")
        await app.drain()
        assert ran == ["a", "b"]
        assert [run.outcome for run in await app.store.history(job_id)] == [RunOutcome.COMPLETED, RunOutcome.FAILED]


async def test_the_running_job_of_another_handler_is_not_touched(app: Aether) -> None:
    begun, go, got = anyio.Event(), anyio.Event(), []

    @app.handler("Slow")
    async def slow(args: str) -> None:
        begun.set()
        await go.wait()

    @app.handler("Other")
    async def other() -> None:
        got.append(await app.enqueue("Slow", "job", "a"))
        with pytest.raises(JobConflict, match="running"):
            await app.enqueue("Slow", "job", "b", if_exists="replace")

    async with app:
        job_id = await app.enqueue("Slow", "job", "a")
        await begun.wait()
        assert (await app.wait(await app.enqueue("Other"), 10)).status is JobStatus.COMPLETED
        assert got == [job_id], "identical"
        go.set()
        await app.wait(job_id, 10)
