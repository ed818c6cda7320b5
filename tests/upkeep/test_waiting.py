"""Which due jobs do not start, and why: the part alone."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from kernel.conftest import World

from aether_bg._upkeep.waiting import Waiting, sentences
from aether_bg.model import Alive, JobStatus

pytestmark = pytest.mark.anyio

DUE = frozenset({"Work", "Elsewhere"})
MINE = frozenset({"Work"})


async def test_a_handler_that_no_process_has_and_a_schedule_that_this_one_cannot_read(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    waiting, alive = Waiting(world.shared), Alive(store_id=uuid4(), due=DUE, advertised=MINE)
    moon = world.job("moon", expression_value="@fullmoon", timezone="Asia/Tokyo")
    await world.journal.insert(moon)
    await world.journal.insert(world.job("theirs", handler_name="Elsewhere"))
    missing = await waiting.missing(alive)
    assert (set(missing["handlers"]), set(missing["schedules"])) == ({"Elsewhere"}, set())
    assert set(sentences(missing)) == {"handlers"}
    assert world.shared.schedules.plan_or_none(moon) is None
    missing = await waiting.missing(alive)
    assert missing["schedules"] == {"@fullmoon (Asia/Tokyo)": moon.due_at}
    assert "can read their schedule: '@fullmoon (Asia/Tokyo)' since 20" in sentences(missing)["schedules"]


async def test_overdue_is_what_this_process_could_have_run(make_world: Callable[..., World]) -> None:
    world = make_world(concurrency=1)
    waiting, alive = Waiting(world.shared), Alive(store_id=uuid4(), due=DUE, advertised=MINE)
    moon = world.job("moon", expression_value="@fullmoon")
    assert world.shared.schedules.plan_or_none(moon) is None
    for job in (
        moon, late := world.job("late"), world.job("paused", paused=True), world.job("theirs", handler_name="Elsewhere")
    ):  # fmt: skip
        await world.journal.insert(job)
    world.clock.advance(seconds=30)
    await world.journal.insert(world.job("new", due_at=world.clock.now()))
    assert [job.id for job in await waiting.overdue(alive, 10)] == [late.id]
    assert [job.id for job in await waiting.overdue(None, 10)] == [late.id]
    assert await waiting.overdue(alive, 40) == []
    assert await waiting.overdue(Alive(store_id=uuid4()), 10) == []
    await world.journal.insert(world.job("runs", status=JobStatus.RUNNING, owner=uuid4(), attempt=1, seq=1))
    assert await waiting.overdue(alive, 10) == [], "as many run as may"
