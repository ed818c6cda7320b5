"""Options at and beyond their limits: a clear error at the call or a value that works; other libraries' datetimes."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, Backoff, InvalidOption, InvalidSchedule, JobStatus, Snooze, SQLiteStore
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
FOREVER: list[Any] = [
    timedelta.max, 1e14, 1e300, sys.maxsize, sys.float_info.max, 2**63, 10**400, -(10**400), timedelta.min,
    float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
EDGES: list[Any] = [
    datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), datetime.max, datetime.min,
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
]  # fmt: skip


class Broken(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise RuntimeError("no offset")

    def dst(self, when: datetime | None) -> timedelta:
        return timedelta(0)


async def _runs(app: Aether) -> None:
    job = await app.wait(await app.enqueue("Work"), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error


@pytest.mark.parametrize("value", FOREVER, ids=str)
@pytest.mark.parametrize("option", ["timeout", "retries", "backoff first", "backoff factor", "backoff max", "jitter"])
async def test_a_handlers_bounds(app: Aether, option: str, value: Any) -> None:
    ran: list[int] = []

    def work() -> None:
        ran.append(1)
        if option != "timeout" and len(ran) == 1:
            raise ValueError("again")

    try:
        if option in ("timeout", "retries"):
            bounds = {option: value}
        else:
            bounds = {"backoff": Backoff(**{"first": 0.01, option.removeprefix("backoff "): value}), "retries": 1}
        app.handler("Work", **bounds)(work)
    except InvalidOption:
        return
    async with app:
        job_id = await app.enqueue("Work")
        with anyio.fail_after(10):
            while not ran:
                await anyio.sleep(0.01)
            while (job := await app.store.get(job_id)) is not None and job.status is JobStatus.RUNNING:
                await anyio.sleep(0.01)
    assert job is not None
    assert "Overflow" not in str(job.last_error)
    assert job.status is not JobStatus.FAILED


@pytest.mark.parametrize("value", FOREVER, ids=str)
@pytest.mark.parametrize("option", ["grace", "lease", "concurrency", "retention", "max_payload"])
async def test_an_apps_settings(make_app: Any, option: str, value: Any) -> None:
    try:
        app = make_app(**{option: value})
    except InvalidOption:
        return
    app.handler("Work")(lambda: None)
    async with app:
        await _runs(app)
        await anyio.sleep(0.05)
        assert (await app.health())["ok"]
        assert len(await app.store.find()) == 1, "nothing is purged that is kept for ever"


CENTURY = timedelta(days=36_600)
BEYOND: list[Any] = [timedelta.max, CENTURY + timedelta(seconds=1), 1e14, 1e300, sys.maxsize, 2**63, 10**400]
SECONDS: dict[str, Any] = {
    "timeout": lambda value: Aether(":memory:").handler("Work", timeout=value),
    "grace": lambda value: Aether(":memory:", grace=value),
    "lease": lambda value: Aether(":memory:", lease=value),
    "misfire_grace": lambda value: _declared(misfire_grace=value),
    "first": lambda value: Backoff(first=value),
    "max": lambda value: Backoff(max=value),
    "busy": lambda value: SQLiteStore(":memory:", busy=value),
    "unit_timeout": lambda value: SQLiteStore(":memory:", unit_timeout=value),
}
COUNTS: dict[str, Any] = {
    "retries": lambda value: Aether(":memory:").handler("Work", retries=value),
    "concurrency": lambda value: Aether(":memory:", concurrency=value),
    "max_payload": lambda value: Aether(":memory:", max_payload=value),
    "repeats": lambda value: _declared(repeats=value),
}


def _declared(**options: Any) -> None:
    Aether(":memory:").declare("Work", "job", schedule="@daily", **options)


@pytest.mark.parametrize("option", SECONDS)
def test_more_than_a_century_is_refused_wherever_seconds_are_asked_for(option: str) -> None:
    for value in BEYOND:
        with pytest.raises(InvalidOption, match=rf"{option}\b.* must .*at most 3162240000.*100 years.*, got "):
            SECONDS[option](value)
    SECONDS[option](CENTURY)


@pytest.mark.parametrize("option", COUNTS)
def test_more_than_a_column_holds_is_refused_wherever_a_count_is_asked_for(option: str) -> None:
    for value in (2**63, 10**400):
        with pytest.raises(InvalidOption, match=rf"{option} must be at most {2**63 - 1}, got "):
            COUNTS[option](value)
    COUNTS[option](2**63 - 1)


async def test_a_century_works(path: Path) -> None:
    app = Aether(SQLiteStore(path, busy=CENTURY, unit_timeout=CENTURY), scheduler="timer", grace=CENTURY, lease=CENTURY)
    app.handler("Work", timeout=CENTURY, retries=2**63 - 1)(lambda: None)
    app.handler("Fails", retries=1, backoff=Backoff(first=CENTURY, max=CENTURY))(lambda: 1 / 0)
    async with app:
        job = await app.wait(await app.enqueue("Work", "job", misfire_grace=CENTURY), CENTURY)
        assert job.status is JobStatus.COMPLETED
        assert await app.enqueue("Work", "job", misfire_grace=CENTURY.total_seconds()) == job.id
        failed = await app.enqueue("Fails")
        with anyio.fail_after(10):
            while (row := await app.store.get(failed)) is None or not row.retry_count:
                await anyio.sleep(0.01)
        assert row.due_at is not None
        assert row.due_at - row.created_at > timedelta(days=20_000)
        async with app.unit_of_work() as uow:
            uow.execute("CREATE TABLE mine (n INTEGER)")
        assert (await app.health())["ok"]


@pytest.mark.parametrize("option", ["busy", "unit_timeout"])
def test_the_seconds_of_the_store(path: Path, option: str) -> None:
    wrong: list[Any] = [0, -1, True, "5", None, float("inf"), float("nan"), -(10**400)]
    for value in wrong:
        with pytest.raises(InvalidOption, match=option):
            SQLiteStore(path, **{option: value})


@pytest.mark.parametrize("length", [{"days": 10**10}, {"days": 9e6}, {"seconds": 1e300}], ids=str)
def test_a_clock_that_leads_out_of_the_calendar(length: Any) -> None:
    with pytest.raises(InvalidOption, match="calendar"):
        FakeClock().advance(**length)


@pytest.mark.parametrize("rule", [timedelta.max, 10**400, sys.maxsize])
async def test_a_retention_for_ever_is_taken(make_app: Any, rule: Any) -> None:
    app = make_app(retention={"completed": rule})
    app.handler("Work")(lambda: None)
    async with app:
        await _runs(app)


@pytest.mark.parametrize("option", ["misfire_grace", "repeats", "start", "until", "schedule"])
async def test_what_an_enqueue_is_given(app: Aether, option: str) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        for value in (*FOREVER, *EDGES):
            before = len(await app.store.find())
            try:
                job_id = await app.enqueue("Work", **{"schedule": "@every 1h", option: value})
            except (InvalidOption, InvalidSchedule):
                assert len(await app.store.find()) == before, value
                continue
            await app.trigger(job_id)
            job = await app.store.get(job_id)
            assert job is not None
            assert type(job.start) in (datetime, type(None)), value
            assert "Work" in await app.explain(job_id)


async def test_until_and_start_at_the_edges_mean_for_ever(app: Aether) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        for number, bounds in enumerate(
            ({"until": EDGES[0]}, {"start": EDGES[1]}, {"start": EDGES[1], "until": EDGES[0]})
        ):
            job = await app.store.get(await app.enqueue("Work", f"job-{number}", schedule="@daily", **bounds))
            again = await app.enqueue("Work", f"job-{number}", schedule="@daily", **bounds)
            assert job is not None
            assert job.id == again
            assert job.due_at is not None


async def test_a_misfire_grace_below_a_second_is_refused(app: Aether) -> None:
    app.handler("Work")(lambda: None)
    wrong: list[Any] = [0, 0.0, 0.5, 0.999, timedelta(0), timedelta(milliseconds=1), -1]
    for grace in wrong:
        with pytest.raises(InvalidOption, match="misfire_grace"):
            app.declare("Work", "job", schedule="@daily", misfire_grace=grace)
    async with app:
        for grace in wrong:
            with pytest.raises(InvalidOption, match="misfire_grace"):
                await app.enqueue("Work", schedule="@daily", misfire_grace=grace)
        await app.enqueue("Work", schedule="@daily", misfire_grace=1)


@pytest.mark.parametrize("until", [timedelta.max, timedelta.min, *EDGES[:2]], ids=str)
async def test_a_snooze_to_the_edge_of_time(fake_app: Aether, until: Any) -> None:
    tries: list[int] = []

    @fake_app.handler("Work")
    async def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Snooze(until)

    async with fake_app:
        job_id = await fake_app.enqueue("Work")
        await fake_app.drain()
        job = await fake_app.store.get(job_id)
    assert job is not None
    assert job.status in (JobStatus.SCHEDULED, JobStatus.COMPLETED)


def test_a_backoff_is_bounded_for_every_count() -> None:
    for backoff in (Backoff(first=1e9, factor=1e9, max=3e9), Backoff(factor=10**9), Backoff(factor=1e6, max=1)):
        for failures in (1, 2, 64, 65, 10**9):
            assert 0 < backoff.delay(failures, 1) <= backoff.max


# -- datetimes of other libraries ------------------------------------------------------------------


def _foreign() -> list[Any]:
    values: list[Any] = [pytest.param(None, id="none installed", marks=pytest.mark.skip)]
    try:
        import pendulum

        values += [pytest.param(pendulum.datetime(2090, 1, 2, 3, tz="Europe/Berlin"), id="pendulum")]
    except ImportError:
        pass
    try:
        import pandas

        values += [
            pytest.param(pandas.Timestamp("2090-01-02T03:00:00.123456789", tz="Europe/Berlin"), id="pandas"),
            pytest.param(pandas.Timestamp("2090-01-02T03:00:00"), id="pandas without zone"),
            pytest.param(pandas.NaT, id="NaT"),
        ]
    except ImportError:
        pass
    return values


class Moment(datetime):
    """As such libraries have it: arithmetic gives its own class again."""


class Never(datetime):
    """As pandas has NaT: a datetime that is none."""

    def utcoffset(self) -> Any:
        raise ValueError("Never does not support utcoffset")


class Length(timedelta):
    @property
    def days(self) -> int:
        return 0


MOMENTS = [
    pytest.param(Moment(2090, 1, 2, 3, tzinfo=UTC), id="subclass"), pytest.param(Never(2090, 1, 1), id="none"),
    pytest.param(Moment(2090, 1, 2), id="naive"), pytest.param(Moment(2090, 1, 1, tzinfo=Broken()), id="broken"),
    *_foreign(),
]  # fmt: skip


@pytest.mark.parametrize("value", MOMENTS)
@pytest.mark.parametrize("option", ["schedule", "start", "until"])
async def test_datetimes_of_other_libraries(app: Aether, option: str, value: Any) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        try:
            job_id = await app.enqueue("Work", **{"schedule": "@hourly", option: value})
        except (InvalidOption, InvalidSchedule):
            return
        job = await app.store.get(job_id)
        assert job is not None
        for when in (job.due_at, job.start, job.until, job.occurrence):
            assert when is None or (type(when) is datetime and when.tzinfo is UTC)
        if option == "schedule":
            assert job.due_at == datetime.fromisoformat(datetime.isoformat(value)).astimezone(UTC)
    async with app:
        assert "Work" in await app.explain(job_id), "it is read again"


async def test_lengths_of_other_libraries(fake_app: Aether, clock: FakeClock) -> None:
    fake_app.handler("Work")(lambda: None)
    lengths: list[Any] = [Length(days=2, seconds=5)]
    try:
        import pendulum

        lengths += [pendulum.duration(days=2, seconds=5)]
    except ImportError:
        pass
    try:
        import pandas

        lengths += [pandas.Timedelta(days=2, seconds=5)]
    except ImportError:
        pass
    async with fake_app:
        for length in lengths:
            job = await fake_app.store.get(await fake_app.enqueue("Work", schedule=length))
            assert job is not None
            assert (job.due_at, type(job.due_at)) == (clock.now() + timedelta(days=2, seconds=5), datetime)
