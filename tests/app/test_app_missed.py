"""Occurrences that nothing ran: found and counted without a walk through them, and never on the event loop."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aether_bg import Aether, JobContext, RunOutcome, hookimpl
from aether_bg._rules import transitions
from aether_bg.schedule._cron import Cron
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

JOBS = 20
TICKS = {"* * * * *": 60, "*/7 * * * * *": 60 * 9, "CRON_TZ=Europe/Berlin */5 * * * *": 12}
"""How many come in an hour."""


class Searches:
    """Counts the searches for one occurrence, by the thread they are made in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: Counter[int] = Counter()
        search = Cron.search

        def counted(schedule: Cron, *arguments: Any) -> Any:
            self.made[threading.get_ident()] += 1
            return search(schedule, *arguments)

        monkeypatch.setattr(Cron, "search", counted)

    @property
    def here(self) -> int:
        return self.made[threading.get_ident()]

    @property
    def all(self) -> int:
        return self.made.total()


async def names(app: Aether, schedule: str, **options: Any) -> None:
    for number in range(JOBS):
        await app.enqueue("tick", f"tick-{number}", schedule=schedule, **options)


@pytest.mark.parametrize("schedule", TICKS)
@pytest.mark.parametrize("misfire", ["once", "skip"])
async def test_many_jobs_after_two_weeks_down(
    make_app: Callable[..., Aether],
    clock: FakeClock,
    step: Any,
    monkeypatch: pytest.MonkeyPatch,
    misfire: str,
    schedule: str,
) -> None:
    ran: Counter[str] = Counter()

    def make() -> Aether:
        app = make_app(clock=clock, scheduler=step)

        @app.handler("tick")
        async def tick(ctx: JobContext) -> None:
            ran[ctx.job.job_name] += 1

        return app

    async with make() as app:
        await names(app, schedule, misfire=misfire)
    clock.advance(days=14, seconds=13)
    async with make() as app:
        searches = Searches(monkeypatch)
        await app.drain()
        assert searches.here <= 2 * JOBS, "the event loop searches for what comes next, and for nothing that passed"
        assert searches.all <= 30 * JOBS
        assert set(ran.values()) <= {1}
        assert len(ran) == (JOBS if misfire == "once" else 0) or schedule.startswith("*/7")
        rows = [run for run in await app.store.history((await app.store.get_by_job_name("tick-0")).id) if run.count > 1]
        assert [run.outcome for run in rows] == [RunOutcome.COALESCED if misfire == "once" else RunOutcome.SKIPPED]
        assert abs(rows[0].count - 24 * 14 * TICKS[schedule]) < 10, "counted, though not walked through"


async def test_resume_after_sixty_days(fake_app: Aether, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_app.handler("tick")(lambda: None)
    async with fake_app as app:
        await names(app, "* * * * *")
        for number in range(JOBS):
            await app.pause(f"tick-{number}")
        clock.advance(days=60)
        searches = Searches(monkeypatch)
        for number in range(JOBS):
            await app.resume(f"tick-{number}")
        assert searches.here == 0
        assert searches.all <= 20 * JOBS
        row = await app.store.get_by_job_name("tick-7")
        assert row.due_at == clock.now() + timedelta(minutes=1)
        (run,) = await app.store.history(row.id)
        assert (run.outcome, run.count) == (RunOutcome.SKIPPED, 60 * 24 * 60)


async def test_an_attempt_that_outlasts_weeks(
    fake_app: Aether, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was asleep: what passed meanwhile is closed when the attempt ends."""

    @fake_app.handler("tick")
    async def tick() -> None:
        if clock.now() < clock.began + timedelta(days=1):
            clock.advance(days=60, seconds=1)

    clock.began = clock.now()  # type: ignore[attr-defined]
    async with fake_app as app:
        id_ = await app.enqueue("tick", "tick", schedule="* * * * *")
        clock.advance(minutes=1)
        searches = Searches(monkeypatch)
        await app.drain()
        assert searches.here < 10
        assert searches.all < 50
        row = await app.store.get(id_)
        assert row.due_at == clock.now() + timedelta(seconds=59)
        assert max(run.count for run in await app.store.history(id_)) == 60 * 24 * 60 - 1


async def test_all_costs_the_same_for_six_fields(
    fake_app: Aether, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[datetime] = []

    @fake_app.handler("tick")
    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.occurrence)

    async with fake_app as app:
        await app.enqueue("tick", "tick", schedule="*/30 * * * * *", misfire="all")
        clock.advance(seconds=30 * 150)
        searches = Searches(monkeypatch)
        await app.drain()
        assert len(ran) == 150
        assert ran == sorted(set(ran))
        assert searches.all < 3 * 150


class Tens:
    """A plugin's schedule, that cannot count: every ten minutes."""

    text, timezone, recurring = "every-ten", None, True

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        ten = timedelta(minutes=10)
        return after + ten - (after - datetime(2000, 1, 1, tzinfo=UTC)) % ten

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor)

    def upcoming(self, n: int, after: Any = None, anchor: Any = None) -> list[Any]:
        return []

    def describe(self) -> str:
        return self.text


class Words:
    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> Any:
        return Tens() if text == "every-ten" else None


@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
async def test_a_schedule_that_cannot_count(
    make_app: Callable[..., Aether], clock: FakeClock, step: Any, misfire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "KEPT", 150)
    ran: list[datetime] = []
    app = make_app(clock=clock, scheduler=step, plugins=[Words()])

    @app.handler("tick")
    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.occurrence)

    async with app:
        id_ = await app.enqueue("tick", "tick", schedule="every-ten", misfire=misfire)
        clock.advance(days=30, seconds=30)
        await app.drain()
        row = await app.store.get(id_)
        assert row.due_at == clock.now() + timedelta(minutes=9, seconds=30)
        assert len(ran) == {"once": 1, "skip": 0, "all": 150}[misfire]
        gap = next(run for run in await app.store.history(id_, 2000) if run.outcome is not RunOutcome.COMPLETED)
        assert gap.count == 101
        assert gap.error == "at least 101"
