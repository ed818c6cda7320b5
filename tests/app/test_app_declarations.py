"""Declared jobs: a mistake in the code raises where it is written, and no stored job or passed time keeps the app from
starting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner

from aether_bg import Aether, InvalidHandler, JobContext, JobStatus, errors
from aether_bg.cli.app import cli
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

Make = Callable[..., Aether]
HOUR = timedelta(hours=1)


@pytest.fixture
def declaring(make_app: Make, clock: FakeClock, step: Any) -> Callable[..., Aether]:
    """An app that declares "Work" under the name "job", with these arguments, and another job beside it."""

    def make(payload: str = "a", schedule: Any = "@every 1h", **options: Any) -> Aether:
        app = make_app(clock=clock, scheduler=step)

        @app.handler("Work", retries=1)
        async def work(args: str, ctx: JobContext) -> None:
            ran.append((ctx.job.job_name, args))
            if args.startswith("fails"):
                raise ValueError(args)

        app.declare("Work", "job", payload, schedule, **options)
        app.declare("Work", "other", "beside", "@every 1h")
        return app

    ran: list[tuple[str, str]] = []
    make.ran = ran  # type: ignore[attr-defined]
    return make


async def job_of(app: Aether, name: str = "job") -> Any:
    found = await app.store.get_by_job_name(name)
    assert found is not None
    return found


async def check(path: Path) -> str:
    """`aether-bg check`, which finds nothing wrong."""
    done = await anyio.to_thread.run_sync(CliRunner().invoke, cli, ["check", str(path)])
    assert done.exit_code == 0, done.output
    return str(done.stdout)


# -- what time and the store have done --------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["@every 1h", "0 * * * *", datetime(2030, 1, 1, tzinfo=UTC)])
async def test_an_end_that_has_passed_is_reported_and_the_rest_starts(
    declaring: Callable[..., Aether], clock: FakeClock, schedule: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "aether_bg"):
        async with declaring(schedule=schedule, until=clock.now() - 10 * 365 * 24 * HOUR) as app:
            assert await app.store.get_by_job_name("job") is None
            assert (await job_of(app, "other")).status is JobStatus.SCHEDULED
            health = await app.health()
            assert "'job'" in health["problems"]["declarations"]
            assert health["ok"], "a restart would not help"
            clock.advance(hours=3)
            assert "'job'" in (await app.health())["problems"]["declarations"], "for as long as it is so"
    assert "'job'" in caplog.text


@pytest.mark.parametrize("ran", [0, 3])
async def test_an_unchanged_declaration_whose_end_has_passed_is_the_same_job(
    declaring: Callable[..., Aether], clock: FakeClock, ran: int
) -> None:
    until = clock.now() + 3 * HOUR
    async with declaring(until=until) as app:
        first = await job_of(app)
        for _ in range(ran):
            clock.advance(hours=1)
            await app.drain()
    clock.advance(hours=48)
    async with declaring(until=until) as app:
        assert (await job_of(app)).id == first.id
        assert "declarations" not in (await app.health())["problems"]
        await app.drain()
        job = await job_of(app)
        assert (job.id, job.status, job.last_occurrence) == (first.id, JobStatus.COMPLETED, until)
    async with declaring(until=until) as app:
        assert (await job_of(app)).id == first.id, "and in every later start"
        assert "declarations" not in (await app.health())["problems"]


async def test_a_changed_declaration_keeps_the_last_occurrence_that_was_missed(
    declaring: Callable[..., Aether], clock: FakeClock
) -> None:
    """Only the payload is another: what was due before the end is made up for."""
    until = clock.now() + HOUR
    async with declaring(until=until) as app:
        first = await job_of(app)
    clock.advance(hours=48)
    async with declaring("b", until=until) as app:
        assert "declarations" not in (await app.health())["problems"]
        await app.drain()
        job = await job_of(app)
        assert (job.id, job.status, job.last_occurrence) == (first.id, JobStatus.COMPLETED, until)
    assert ("job", "b") in declaring.ran  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [{"repeats": 1}, {"repeats": 2}, {"until": timedelta(minutes=30)}])
async def test_bounds_that_leave_nothing_are_reported_and_the_job_stays_as_it_was(
    declaring: Callable[..., Aether], clock: FakeClock, change: dict[str, Any]
) -> None:
    async with declaring(repeats=9) as app:
        for _ in range(2):
            clock.advance(hours=1)
            await app.drain()
        before = await job_of(app)
    if "until" in change:
        change = {"until": clock.now() + change["until"]}
    async with declaring(**change) as app:
        after = await job_of(app)
        assert (after.id, after.status, after.repeats, after.seq) == (
            before.id, JobStatus.SCHEDULED, before.repeats, before.seq,
        )  # fmt: skip
        assert "'job'" in (await app.health())["problems"]["declarations"]
        clock.advance(hours=1)
        await app.drain()
        assert (await job_of(app, "other")).occurrences == 3


async def test_repeats_that_leave_something_are_applied(declaring: Callable[..., Aether], clock: FakeClock) -> None:
    async with declaring(repeats=9) as app:
        for _ in range(2):
            clock.advance(hours=1)
            await app.drain()
    async with declaring(repeats=3) as app:
        assert "declarations" not in (await app.health())["problems"]
        clock.advance(hours=1)
        await app.drain()
        assert (await job_of(app)).status is JobStatus.COMPLETED


async def test_a_one_shot_that_an_old_process_runs_is_redeclared_when_it_has_ended(
    make_app: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rolling deploy."""
    begun, go, ran = anyio.Event(), anyio.Event(), []

    def version(payload: str) -> Aether:
        app = make_app()

        @app.handler("Migrate")
        async def migrate(args: str) -> None:
            begun.set()
            await go.wait()
            ran.append(args)

        app.declare("Migrate", "migration", payload)
        return app

    async with version("old") as old:
        await begun.wait()
        async with version("new") as new:
            assert "'migration'" in (await new.health())["problems"]["declarations"]
            said = await check(path)
            assert "declarations" in said
            assert "'migration'" in said
            assert (await job_of(old, "migration")).status is JobStatus.RUNNING
            go.set()
            with anyio.fail_after(15):
                while ran != ["old", "new"]:
                    await anyio.sleep(0.02)
                while "declarations" in (await new.health())["problems"]:
                    await anyio.sleep(0.02)
            assert "declarations" not in await check(path)
    assert "'migration'" in caplog.text


async def test_a_declared_job_that_has_failed_does_not_keep_the_app_from_starting(
    declaring: Callable[..., Aether], clock: FakeClock
) -> None:
    async with declaring("fails", "@once", if_exists="raise") as app:
        await app.drain()
        clock.advance(hours=1)
        await app.drain()
        failed = await job_of(app)
        assert failed.status is JobStatus.FAILED
    async with declaring("fails", "@once", if_exists="raise") as app:
        assert (await job_of(app)).id == failed.id
        assert "declarations" not in (await app.health())["problems"]
    async with declaring("fails too", "@once", if_exists="raise") as app:
        assert "'job'" in (await app.health())["problems"]["declarations"], "a conflict is no reason not to start"


# -- mistakes of the code ---------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"schedule": "sometimes"}, errors.InvalidSchedule, "sometimes"),
    ({"schedule": "0 9 * * *", "timezone": "Mars/Phobos"}, errors.InvalidSchedule, "Mars"),
    ({"schedule": datetime(2030, 1, 1)}, errors.InvalidSchedule, "zone"),
    ({"schedule": 5}, errors.InvalidSchedule, "int"),
    ({"until": datetime(2030, 1, 1)}, errors.InvalidOption, "until"),
    ({"start": "tomorrow"}, errors.InvalidOption, "start"),
    ({"repeats": 0}, errors.InvalidOption, "repeats"),
    ({"repeats": 2, "schedule": "@once"}, errors.InvalidOption, "repeats"),
    ({"misfire": "never"}, errors.InvalidOption, "misfire"),
    ({"misfire_grace": -1}, errors.InvalidOption, "misfire_grace"),
    ({"if_exists": "update"}, errors.InvalidOption, "if_exists"),
    ({"metadata": {1: 2}}, errors.InvalidMetadata, "string"),
    ({"payload": 5}, errors.InvalidPayload, "str"),
    ({"payload": None}, errors.InvalidPayload, "missing"),
    ({"repeat": 2}, errors.InvalidOption, "repeats"),
    ({"job_name": "a/b"}, errors.InvalidName, "job name"),
    ({"job_name": None}, errors.InvalidName, "job name"),
    ({"handler": 7}, errors.UnknownHandler, "7"),
    ({"job_name": "taken"}, errors.JobConflict, "'taken'.*declared"),
]


@pytest.mark.parametrize(("wrong", "kind", "said"), MISTAKES, ids=[str(wrong)[:40] for wrong, *_ in MISTAKES])
def test_what_is_wrong_in_a_declaration_raises_there(
    app: Aether, wrong: dict[str, Any], kind: type[Exception], said: str
) -> None:
    app.handler("Work")(lambda args: None)
    app.handler("Typed")(typed)
    app.declare("Typed", "taken", "a")
    good: dict[str, Any] = {"handler": "Typed", "job_name": "job", "payload": "a", "schedule": "@daily"}
    with pytest.raises(kind, match=said):
        app.declare(**good | wrong)
    assert len(app.registration.declared) == 1


def typed(args: str) -> None: ...


def test_two_schedules_of_one_name_raise_at_the_second(app: Aether) -> None:
    app.declare("Backup", "Backup", schedule="@daily")
    with pytest.raises(errors.JobConflict, match=r"'Backup'.*declared"):
        app.handler("Backup", schedule="@daily")(lambda: None)


def test_a_schedule_for_a_handler_that_needs_a_payload_raises_at_the_handler(app: Aether) -> None:
    with pytest.raises(errors.InvalidPayload, match=r"missing.*'Backup'"):
        app.handler("Backup", schedule="@daily")(typed)


class TestKnownOnlyLater:
    """What the code can still put right after the declaration is looked at when the app starts."""

    async def test_a_handler_registered_afterwards(self, app: Aether) -> None:
        app.declare("Typed", "job", "a", "@daily")
        app.handler("Typed")(typed)
        async with app:
            assert (await job_of(app)).payload == "a"

    async def test_a_type_defined_afterwards(self, app: Aether) -> None:
        def later(args: Later | None = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821

        app.handler("Later", schedule="@daily")(later)
        globals()["Later"] = str
        try:
            async with app:
                assert (await job_of(app, "Later")).payload is None
        finally:
            del globals()["Later"]

    async def test_a_handler_that_is_never_registered(self, app: Aether, path: Path) -> None:
        app.handler("Typed")(typed)
        app.declare("Typd", "job", "a", "@daily")
        with pytest.raises(errors.UnknownHandler, match="'Typed'"):
            await app.__aenter__()
        assert not path.exists(), "before anything is opened"

    async def test_a_payload_that_does_not_fit(self, app: Aether, path: Path) -> None:
        app.declare("Typed", "job", 5, "@daily")
        app.handler("Typed")(typed)
        with pytest.raises(errors.InvalidPayload, match="str"):
            await app.__aenter__()
        assert not path.exists()

    async def test_a_type_that_is_never_defined(self, app: Aether) -> None:
        def never(args: Never_ | None = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821

        app.handler("Never", schedule="@daily")(never)
        with pytest.raises(InvalidHandler, match="Never_"):
            await app.__aenter__()
