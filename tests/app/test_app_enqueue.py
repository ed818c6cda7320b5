"""Enqueue, names and idempotency, wait. docs/protocol.md, N."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict
from uuid import UUID

import attrs
import pytest
from handlers.through import stored_and_through

from aether_bg import (
    Aether,
    InvalidOption,
    JobConflict,
    JobContext,
    JobNotFound,
    JobStatus,
    JobType,
    NeverEnds,
    UnknownHandler,
    WaitTimeout,
)
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


@attrs.define
class Mail:
    to: str
    count: int = 1


@dataclass
class Line:
    text: str
    at: datetime


class Shape(TypedDict):
    sides: int


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def mailing(app: Aether, seen: list[Any]) -> Aether:
    @app.handler("Mail")
    async def mail(args: Mail) -> None:
        seen.append(args)

    return app


async def test_by_name_by_reference_and_by_type(app: Aether, seen: list[Any]) -> None:
    @app.handler("Mail")
    async def mail(args: Mail) -> None:
        seen.append(args)

    assert callable(mail)
    async with app:
        ids = [
            await app.enqueue("Mail", "by-name", Mail("a")),
            await app.enqueue(mail, payload=Mail("b")),
            await app.enqueue(JobType("Mail", Mail), payload=Mail("c")),
            await app.enqueue("Mail", payload={"to": "d", "count": 4}),
        ]
        jobs = [await app.wait(job, 10) for job in ids]
    assert sorted(seen, key=lambda mail: mail.to) == [Mail("a"), Mail("b"), Mail("c"), Mail("d", 4)]
    assert all(isinstance(id_, UUID) and id_.version == 7 for id_ in ids)
    assert [job.status for job in jobs] == [JobStatus.COMPLETED] * 4
    assert jobs[0].job_name == "by-name"
    assert jobs[1].job_name.startswith("Mail-")
    assert jobs[1].payload == {"to": "b", "count": 1}
    assert len({job.job_name for job in jobs}) == 4


@pytest.mark.parametrize(
    ("kind", "payload", "stored"),
    [
        (Mail, Mail("x", 2), {"to": "x", "count": 2}),
        (Line, Line("t", datetime(2030, 1, 2, tzinfo=UTC)), {"text": "t", "at": "2030-01-02T00:00:00+00:00"}),
        (Shape, {"sides": 3}, {"sides": 3}),
        (dict, {"a": [1, None, True, 1.5, "é"]}, {"a": [1, None, True, 1.5, "é"]}),
        (list[Mail], [Mail("x")], [{"to": "x", "count": 1}]),
        (float, 3, 3),
        (str, "text", "text"),
        (UUID, UUID(int=5), str(UUID(int=5))),
        (timedelta, timedelta(seconds=90), 90.0),
        (Mail | None, None, None),
        (Any, {"free": 1}, {"free": 1}),
    ],
    ids=str,
)
async def test_payload_types_come_back_as_they_were(app: Aether, kind: Any, payload: Any, stored: Any) -> None:
    job, got = await stored_and_through(app, kind, payload)
    assert job.payload == stored
    assert got == payload


async def test_optional_payload_and_none(app: Aether, seen: list[Any]) -> None:
    @app.handler("Optional")
    async def optional(args: Mail = Mail("default")) -> None:  # noqa: B008 - a frozen default is the point
        seen.append(args)

    @app.handler("None")
    async def none() -> None:
        seen.append(None)

    async with app:
        for handler in ("Optional", "None"):
            job = await app.wait(await app.enqueue(handler), 10)
            assert job.status is JobStatus.COMPLETED, job.last_error
    assert seen == [Mail("default"), None]


async def test_all_of_a_row(make_app: Any, clock: FakeClock) -> None:
    app = make_app(clock=clock, actor=lambda: "tester")
    app.handler("Work")(lambda: None)
    async with app:
        start, until = clock.now() + timedelta(hours=2), clock.now() + timedelta(days=2)
        job_id = await app.enqueue(
            "Work", "all", schedule=" CRON_TZ=Europe/Berlin 30 2 * * * ", metadata={"OrderId": 123}, start=start,
            until=until, repeats=2, misfire="skip", misfire_grace=30,
        )  # fmt: skip
        job = await app.store.get(job_id)
        assert job is not None
        assert (job.id, job.handler_name, job.job_name) == (job_id, "Work", "all")
        assert (job.expression_value, job.schedule, job.timezone) == ("30 2 * * *", "30 2 * * *", "Europe/Berlin")
        assert job.extra_properties == job.metadata == {"OrderId": 123}
        assert (job.start, job.until, job.repeats) == (start, until, 2)
        assert (job.misfire, job.misfire_grace) == ("skip", 30.0)
        assert job.due_at == job.occurrence == datetime(2030, 1, 2, 1, 30, tzinfo=UTC)
        assert job.created_at == job.modified_at == clock.now()
        assert job.created_by == job.modified_by == "tester"
        assert (job.status, job.retry_count, job.last_error, job.handled_time) == (JobStatus.SCHEDULED, 0, None, None)
        assert job.anchor == clock.now()
        clock.advance(hours=1)
        await app.pause(job_id)
        paused = await app.store.get(job_id)
        assert paused is not None
        assert paused.paused
        assert (paused.created_at, paused.modified_at) == (job.created_at, clock.now())


async def test_datetime_and_timedelta_schedules(fake_app: Aether, clock: FakeClock, seen: list[Any]) -> None:
    app = fake_app
    app.handler("Work")(lambda ctx: seen.append(ctx.occurrence))
    app.handlers._infos["Work"].target.__annotations__["ctx"] = JobContext
    async with app:
        at = await app.enqueue("Work", "at", schedule=datetime(2030, 1, 1, 12, tzinfo=UTC))
        after = await app.enqueue("Work", "after", schedule=timedelta(hours=1))
        past = await app.enqueue("Work", "past", schedule=datetime(2020, 1, 1, tzinfo=UTC))
        rows = {job.job_name: job for job in await app.store.find()}
        assert rows["at"].expression_value == "@at 2030-01-01T12:00:00Z"
        assert rows["after"].expression_value == "@after PT1H"
        assert rows["after"].due_at == clock.now() + timedelta(hours=1)
        await app.drain()
        assert (await app.wait(past, 10)).status is JobStatus.COMPLETED
        assert seen == [datetime(2020, 1, 1, tzinfo=UTC)]
        clock.advance(hours=1)
        await app.drain()
        assert (await app.wait(after, 10)).status is JobStatus.COMPLETED
        clock.advance(hours=11)
        await app.drain()
        assert (await app.wait(at, 10)).status is JobStatus.COMPLETED
    assert len(seen) == 3


# -- names (docs/protocol.md, N) ----------------------------------------------------------------------------


async def test_an_identical_enqueue_answers_with_the_existing_id(fake_app: Aether, clock: FakeClock) -> None:
    app = fake_app

    @app.handler("Mail")
    async def mail(args: Mail) -> None: ...

    async with app:
        same: dict[str, Any] = {"payload": Mail("a"), "schedule": timedelta(minutes=60), "misfire_grace": 5}
        first = await app.enqueue("Mail", "job", **same)
        before = await app.store.get(first)
        clock.advance(seconds=7)
        for if_exists in ("raise", "keep", "replace"):
            again = await app.enqueue("Mail", "job", **same, if_exists=if_exists)
            assert again == first
        # the payload's canonical form decides, a timedelta counts by its length, metadata does not count
        assert first == await app.enqueue(
            mail, "job", {"count": 1, "to": "a"}, timedelta(hours=1), {"other": 1}, misfire_grace=5
        )
        after = await app.store.get(first)
        assert before is not None
        assert after is not None
        assert attrs.asdict(after) == attrs.asdict(before), "an identical enqueue changes nothing"
        clock.advance(hours=1)
        await app.drain()
        assert (await app.wait(first, 10)).status is JobStatus.COMPLETED
        for if_exists in ("raise", "keep", "replace"):
            assert await app.enqueue("Mail", "job", **same, if_exists=if_exists) == first, "COMPLETED holds its name"
        await app.drain()
        assert len(await app.store.history(first)) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"payload": Mail("b")}, "payload"),
        ({"schedule": timedelta(hours=2)}, "schedule"),
        ({"start": datetime(2031, 1, 1, tzinfo=UTC)}, "start"),
        ({"until": datetime(2031, 1, 1, tzinfo=UTC)}, "until"),
        ({"misfire": "all"}, "misfire"),
        ({"misfire_grace": 6}, "misfire_grace"),
        ({"timezone": "Europe/Berlin"}, "timezone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_differing_enqueue_says_what_differs(
    mailing: Aether, change: dict[str, Any], said: str, anyio_backend: str
) -> None:
    async with mailing as app:
        same: dict[str, Any] = {"payload": Mail("a"), "schedule": timedelta(hours=1), "misfire_grace": 5}
        first = await app.enqueue("Mail", "job", **same)
        with pytest.raises(JobConflict, match=rf"differs in {said}\b.*if_exists") as caught:
            await app.enqueue("Mail", "job", **{**same, **change})
        assert caught.value.differences == (said,)
        assert caught.value.existing is not None
        assert caught.value.existing.id == first
        assert await app.enqueue("Mail", "job", **{**same, **change}, if_exists="keep") == first
        job = await app.store.get(first)
        assert job is not None
        assert (job.seq, job.schedule_rev) == (0, 0)


async def test_another_handler_or_other_repeats_differ(app: Aether) -> None:
    app.handler("A")(lambda: None)
    app.handler("B")(lambda: None)
    async with app:
        await app.enqueue("A", "job", schedule="@daily", repeats=3)
        with pytest.raises(JobConflict, match=r"differs in handler, repeats\b"):
            await app.enqueue("B", "job", schedule="@daily", repeats=4)


async def test_replace_changes_an_active_job_in_place(fake_app: Aether, clock: FakeClock) -> None:
    app = fake_app

    @app.handler("Mail")
    async def mail(args: Mail) -> None: ...

    async with app:
        first = await app.enqueue("Mail", "job", Mail("a"), "@every 1h", {"v": 1})
        old = await app.store.get(first)
        assert old is not None
        clock.advance(minutes=30)
        assert await app.enqueue("Mail", "job", Mail("b"), "@every 2h", {"v": 2}, if_exists="replace") == first
        new = await app.store.get(first)
        assert new is not None
        assert (new.payload, new.expression_value, new.metadata) == ({"to": "b", "count": 1}, "@every 2h", {"v": 2})
        assert new.due_at == clock.now() + timedelta(hours=2)
        assert (new.seq, new.schedule_rev) == (old.seq + 1, old.schedule_rev + 1)
        assert new.created_at == old.created_at


async def test_replace_of_an_ended_job_makes_a_new_one(app: Aether) -> None:
    runs: list[str] = []

    @app.handler("Mail")
    async def mail(args: Mail) -> None:
        runs.append(args.to)
        if args.to == "bad":
            raise ValueError("bad")

    async with app:
        first = await app.enqueue("Mail", "job", Mail("a"))
        await app.wait(first, 10)
        second = await app.enqueue("Mail", "job", Mail("bad"), if_exists="replace")
        assert second != first
        assert (await app.wait("job", 10)).id == second
        old = await app.store.get(first)
        assert old is not None
        assert (old.status, old.holds_name, old.job_name) == (JobStatus.COMPLETED, False, "job")
        assert await app.enqueue("Mail", "job", Mail("bad")) == second
        assert await app.enqueue("Mail", "job", Mail("bad"), if_exists="keep") == second
        with pytest.raises(JobConflict, match=r"FAILED.*differs in payload.*replace"):
            await app.enqueue("Mail", "job", Mail("worse"))
        third = await app.enqueue("Mail", "job", Mail("bad"), if_exists="replace")
        assert third not in (first, second)
        await app.wait(third, 10)
    assert runs == ["a", "bad", "bad"]


async def test_a_running_one_shot_is_not_replaced(app: Aether) -> None:
    import anyio

    go = anyio.Event()

    @app.handler("Slow")
    async def slow(args: str) -> None:
        await go.wait()

    async with app:
        job = await app.enqueue("Slow", "job", "a")
        while (await app.store.stats()).running == 0:
            await anyio.sleep(0.005)
        with pytest.raises(JobConflict, match="running"):
            await app.enqueue("Slow", "job", "b", if_exists="replace")
        assert await app.enqueue("Slow", "job", "a") == job, "identical and RUNNING: the existing id"
        go.set()
        await app.wait(job, 10)


async def test_a_cancelled_or_purged_job_gives_its_name_up(app: Aether) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        first = await app.enqueue("Work", "job", schedule=timedelta(hours=1))
        assert await app.delete("job") is True
        assert await app.delete(first) is False
        assert await app.delete("job") is False
        second = await app.enqueue("Work", "job", schedule=timedelta(hours=2))
        assert second != first
        assert await app.store.update_status(second, JobStatus.COMPLETED) is None
        assert await app.enqueue("Work", "job", schedule=timedelta(hours=2)) == second
        assert await app.store.purge(JobStatus.COMPLETED) == 1
        assert await app.enqueue("Work", "job", schedule=timedelta(hours=2)) not in (first, second)


async def test_same_name_from_many_callers_is_one_job(mailing: Aether) -> None:
    import anyio

    ids: set[UUID] = set()

    async def one() -> None:
        ids.add(await mailing.enqueue("Mail", "job", Mail("a")))

    async with mailing as app:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(one)
        await app.wait("job", 10)
        assert len(ids) == 1
        assert len(await app.store.find()) == 1
        assert len(await app.store.history(ids.pop())) == 1


# -- nothing is stored on bad calls; wait --------------------------------------------------------


async def test_a_name_must_be_registered_and_a_type_need_not(app: Aether) -> None:
    @app.handler("SendEmail")
    async def send(args: Mail) -> None: ...

    async with app:
        with pytest.raises(UnknownHandler, match="Did you mean 'SendEmail'"):
            await app.enqueue("SendEmial", payload=Mail("a"))
        with pytest.raises(UnknownHandler, match="no registered handler"):
            await app.enqueue(print)
        assert await app.store.find() == []
        await app.enqueue(JobType("Elsewhere", Mail), "there", Mail("a"))
        job = await app.store.get_by_job_name("there")
        assert job is not None
        assert (job.handler_name, job.payload) == ("Elsewhere", {"to": "a", "count": 1})


async def test_wait_times_out_refuses_and_finds_nothing(app: Aether) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        later = await app.enqueue("Work", "later", schedule=timedelta(hours=1))
        with pytest.raises(WaitTimeout, match=r"'later'.*0\.01 s.*SCHEDULED"):
            await app.wait(later, 0.01)
        assert isinstance(WaitTimeout("a", "b"), TimeoutError)
        with pytest.raises(JobNotFound, match="no such job"):
            await app.wait("nothing", 1)
        await app.enqueue("Work", "ever", schedule="@every 1h")
        with pytest.raises(NeverEnds, match=r"'ever'.*repeats or until"):
            await app.wait("ever")
        with pytest.raises(InvalidOption, match="timeout"):
            await app.wait(later, -1)
        failed = await app.enqueue("Work", "twice", schedule="@every 100ms", repeats=2)
        assert (await app.wait(failed, 10)).status is JobStatus.COMPLETED


async def test_handler_added_while_a_client_is_open_gives_its_priority(path):
    app = Aether(path)
    async with app.client() as client:
        before = await client.enqueue("Mail")
        app.handler("Mail", priority=5)(_nothing)
        after = await client.enqueue("Mail")
        assert [job and job.priority for job in (await client.store.get(before), await client.store.get(after))] == [
            0,
            5,
        ]


async def _nothing() -> None: ...
