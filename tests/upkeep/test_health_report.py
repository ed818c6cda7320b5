"""What `health` reports, from the rows and from what the parts know: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import attrs
import pytest
from kernel.conftest import World
from kernel.parts import machinery

from aether_bg import StoreBusy
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.supervisor import Supervisor
from aether_bg._upkeep.health import Health
from aether_bg._upkeep.waiting import Waiting
from aether_bg.model import Alive, JobContext

pytestmark = pytest.mark.anyio

STORE = UUID(int=7)


@attrs.define
class Beats:
    """Stands for the heartbeat: only its last answer counts here."""

    alive: Alive | None = None


@attrs.define
class Ward:
    world: World
    health: Health
    beats: Beats
    claimer: Claimer
    supervisor: Supervisor

    async def report(self, **lasting: str | None) -> dict[str, Any]:
        return await self.health.report(lasting)

    async def overdue(self, name: str = "job", **fields: Any) -> None:
        await self.world.journal.insert(self.world.job(name, **fields))
        self.world.clock.advance(seconds=12)


@pytest.fixture
def ward(make_world: Callable[..., World]) -> Callable[[], Ward]:
    def make() -> Ward:
        world, beats = make_world(), Beats()
        shared, claimer = world.shared, machinery(world).claimer
        supervisor = Supervisor(shared=shared, on_loop=lambda fn: fn() and None)
        health = Health(
            shared=shared, dependencies=world.registration.dependencies, claimer=claimer, heartbeats=beats,  # type: ignore[arg-type]
            waiting=Waiting(shared), supervisor=supervisor,
        )  # fmt: skip
        return Ward(world, health, beats, claimer, supervisor)

    return make


async def test_well(ward: Callable[[], Ward]) -> None:
    here = ward()
    report = await here.report()
    assert report["ok"]
    assert report["problems"] == report["dependencies"] == {}
    assert report["owner"] == str(here.world.shared.identity.owner)
    assert report["running"] == []
    assert report["scheduler"].endswith("Never")


async def test_what_runs_is_named(ward: Callable[[], Ward]) -> None:
    here = ward()
    job = here.world.job("nightly")
    here.world.shared.slots.begin(Attempt(job, JobContext(job)))
    (running,) = (await here.report())["running"]
    assert "nightly" in running


async def test_an_overdue_job_makes_it_bad_and_names_the_cause(ward: Callable[[], Ward]) -> None:
    here = ward()
    await here.overdue("late")
    report = await here.report()
    assert not report["ok"]
    said = report["problems"]["overdue"]
    assert "1 job is overdue by more than 10 s; the first, 'late', has been due for 12 s" in said
    assert "the scheduler does not call" in said
    here.claimer.error = StoreBusy("a file", "it is busy")
    assert "the store refuses claims" in (await here.report())["problems"]["overdue"]
    for name in "ab":
        job = here.world.job(name)
        here.world.shared.slots.begin(Attempt(job, JobContext(job)))
    assert "all 2 slots of this process are taken" in (await here.report())["problems"]["overdue"]


async def test_a_paused_or_early_job_is_not_overdue(ward: Callable[[], Ward]) -> None:
    here = ward()
    await here.overdue("paused", paused=True)
    assert (await here.report())["ok"]


async def test_a_handler_that_no_process_has_is_a_problem_but_this_process_is_well(ward: Callable[[], Ward]) -> None:
    here = ward()
    await here.overdue("theirs", handler_name="Elsewhere")
    here.beats.alive = Alive(store_id=STORE, due=frozenset({"Elsewhere"}), advertised=frozenset({"Work"}))
    report = await here.report()
    assert report["ok"]
    assert "'Elsewhere'" in report["problems"]["handlers"]


async def test_a_schedule_that_cannot_be_read_is_a_problem_and_not_overdue(ward: Callable[[], Ward]) -> None:
    here = ward()
    job = here.world.job("moon", expression_value="@fullmoon")
    assert here.world.shared.schedules.plan_or_none(job) is None
    await here.overdue("moon", expression_value="@fullmoon")
    here.beats.alive = Alive(store_id=STORE, due=frozenset({"Work"}), advertised=frozenset({"Work"}))
    report = await here.report()
    assert report["ok"]
    assert "@fullmoon" in report["problems"]["schedules"]


async def test_a_store_that_does_not_answer(ward: Callable[[], Ward]) -> None:
    here = ward()

    async def fails() -> Any:
        raise StoreBusy("a file", "it is busy")

    here.world.shared.calls.stats = fails  # type: ignore[method-assign]
    report = await here.report()
    assert (report["ok"], report["stats"]) == (False, None)
    assert report["problems"]["store"].startswith("StoreBusy: ")


async def test_a_dependency_that_does_not_answer(ward: Callable[[], Ward]) -> None:
    def fails(_: Beats) -> None:
        raise OSError("refused")

    here = ward()
    here.world.registration.provide(Beats, None, fails, lasts=False)
    here.world.registration.resolve()
    report = await here.report()
    assert not report["ok"]
    assert "refused" in str(report["dependencies"])


@pytest.mark.parametrize("said", ["no line", lambda: "no line"])
async def test_what_the_scheduler_says_about_itself(ward: Callable[[], Ward], said: Any) -> None:
    here = ward()
    scheduler = here.world.shared.calls.scheduler
    scheduler.health = said
    report = await here.report()
    assert (report["ok"], report["problems"]["scheduler"]) == (False, "no line")
    del scheduler.health
    scheduler.notice = said
    report = await here.report()
    assert (report["ok"], report["problems"]["notice"]) == (True, "no line")


async def test_lasting_problems_replace_recent_reports(ward: Callable[[], Ward]) -> None:
    here = ward()
    here.world.shared.problems.report("declarations", "an old one")
    assert (await here.report())["problems"]["declarations"] == "an old one"
    assert "declarations" not in (await here.report(declarations=None))["problems"]
    assert (await here.report(declarations="a new one"))["problems"]["declarations"] == "a new one"
