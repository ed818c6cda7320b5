"""The rules of a zone change under a job that waits: it runs once, at the instant that the new rules name."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobContext, JobInfo, RunOutcome
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

NINE = datetime(2030, 1, 2, 15, tzinfo=UTC)
"""09:00 in Mexico."""
HOUR = timedelta(hours=1)


def stored_by_other_rules(path: Path, shift: timedelta) -> None:
    """As if the rules had put it there."""
    with closing(sqlite3.connect(path)) as db, db:
        at = f"{NINE + shift:%Y-%m-%dT%H:%M:%S.%fZ}"
        assert db.execute("UPDATE aether_jobs SET due_at = ?, occurrence = ?", (at, at)).rowcount == 1


@pytest.mark.parametrize("restarted", [True, False], ids=["at the start", "at the claim"])
@pytest.mark.parametrize("shift", [-HOUR, HOUR, -HOUR / 2], ids=["later", "earlier", "half an hour"])
async def test_it_moves_to_the_occurrence_that_takes_its_place(
    make_app: Callable[..., Aether], clock: FakeClock, step: Any, path: Path, shift: timedelta, restarted: bool
) -> None:
    ran: list[tuple[datetime, datetime]] = []

    def make() -> Aether:
        app = make_app(clock=clock, scheduler=step)

        @app.handler("nine")
        async def nine(ctx: JobContext) -> None:
            ran.append((ctx.occurrence, clock.now()))

        return app

    async def row(app: Aether) -> JobInfo:
        job = await app.store.get_by_job_name("nine")
        assert job is not None
        return job

    clock.set(NINE - 5 * HOUR)
    async with make() as app:
        await app.enqueue("nine", "nine", schedule="0 9 * * *", timezone="America/Mexico_City")
        assert (await row(app)).due_at == NINE
        if not restarted:
            await anyio.sleep(0.3)  # the look at the start is over
            stored_by_other_rules(path, shift)
            await live(app, clock)
    if restarted:
        stored_by_other_rules(path, shift)
        async with make() as app:
            with anyio.fail_after(20):
                while (await row(app)).due_at != NINE:
                    await anyio.sleep(0.01)
            await live(app, clock)
    late = not restarted and shift > timedelta(0)  # seen at the claim only: later than it should be
    assert ran == [(NINE, NINE + shift if late else NINE)]
    async with make() as app:
        job = await row(app)
        assert job.due_at == NINE + 24 * HOUR
        runs = await app.store.history(job.id)
        assert sorted(run.outcome or "" for run in runs) == [RunOutcome.COMPLETED, RunOutcome.SUPERSEDED]
        assert "America/Mexico_City" in (runs[-1].error or "")


async def live(app: Aether, clock: FakeClock) -> None:
    """Through the morning, half an hour at a time."""
    for _ in range(14):
        clock.advance(minutes=30)
        await app.drain()


async def test_a_schedule_whose_zone_stays_as_it_is_is_left_alone(fake_app: Aether, clock: FakeClock) -> None:
    """Also where it goes through a change of the clock."""
    fake_app.handler("often")(lambda: None)
    clock.set(datetime(2030, 3, 30, 22, 59, tzinfo=UTC))
    async with fake_app as app:
        often = await app.enqueue("often", "often", schedule="CRON_TZ=Europe/Berlin */20 * * * *")
        fixed = await app.enqueue("often", "fixed", schedule="CRON_TZ=Europe/Berlin 30 2 * * *")
        for _ in range(24):
            clock.advance(minutes=20)
            await app.drain()
        for job in (often, fixed):
            assert {run.outcome for run in await app.store.history(job)} == {RunOutcome.COMPLETED}
