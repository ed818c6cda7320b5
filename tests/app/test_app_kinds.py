"""What jobs of one kind share is remembered from one enqueue to the next; nothing else may be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aether_bg import Aether, InvalidOption, InvalidSchedule, NewJob
from aether_bg._app import admission
from aether_bg.model import JobInfo
from aether_bg.testing import sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


@pytest.fixture
def working(app: Aether) -> Aether:
    app.handler("Work")(lambda: None)
    app.handler("Take")(_take)
    return app


def _take(given: Any) -> None: ...


async def stored(app: Aether, **arguments: Any) -> JobInfo:
    job = await app.store.get(await app.enqueue("Work", **arguments))
    assert job is not None
    return job


async def test_each_job_has_its_own_id_name_payload_and_metadata(working: Aether) -> None:
    async with sandbox(working) as box:
        ids = [await box.app.enqueue("Take", payload=[n], metadata={"n": n}) for n in range(3)]
        jobs = [await box.app.store.get(job_id) for job_id in ids]
        assert [(job.payload, job.extra_properties, job.job_name) for job in jobs if job] == [
            ([n], {"n": n}, f"Take-{ids[n]}") for n in range(3)
        ]


async def test_each_moment_has_its_own_due_instant(working: Aether) -> None:
    async with sandbox(working) as box:
        for schedule in ("@once", timedelta(hours=1), "@every 90s", "0 5 * * *"):
            due = []
            for _ in range(2):
                due.append((await stored(box.app, schedule=schedule)).due_at)
                box.clock.advance(timedelta(days=1))
            assert due[1] == (due[0] or box.clock.now()) + timedelta(days=1), schedule


async def test_jitter_is_each_names_own(working: Aether) -> None:
    async with sandbox(working) as box:
        jobs = [await stored(box.app, job_name=f"job {n}", jitter=3600) for n in range(4)]
        assert len({job.occurrence for job in jobs}) == 1
        assert len({job.due_at for job in jobs}) == 4


@pytest.mark.parametrize(
    ("good", "equal"),
    [({"jitter": 1}, {"jitter": True}), ({"priority": 1}, {"priority": True}), ({}, {"jitter": False}),
     ({}, {"after_any": 0}), ({"repeats": 1, "schedule": "@daily"}, {"repeats": 1.0, "schedule": "@daily"})],
)  # fmt: skip
async def test_an_equal_value_of_a_wrong_type_is_still_refused(working: Aether, good: Any, equal: Any) -> None:
    async with sandbox(working) as box:
        for _ in range(2):
            await box.app.enqueue("Work", **good)
            with pytest.raises(InvalidOption):
                await box.app.enqueue("Work", **equal)


@pytest.mark.parametrize("schedule", [["@once"], {"@once"}, 5, None, "never"])
async def test_a_wrong_schedule_is_refused_each_time(working: Aether, schedule: Any) -> None:
    async with sandbox(working) as box:
        for _ in range(2):
            with pytest.raises(InvalidSchedule):
                await box.app.enqueue("Work", schedule=schedule)
            with pytest.raises(InvalidSchedule):
                await box.app.enqueue_many([NewJob("Work"), NewJob("Work", schedule=schedule)])


async def test_only_so_many_kinds_are_remembered(working: Aether, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_MOST_KINDS", 3)
    async with sandbox(working) as box:
        for seconds in range(1, 9):
            job = await stored(box.app, schedule=timedelta(seconds=seconds))
            assert job.due_at == box.clock.now() + timedelta(seconds=seconds)
        assert len(box.app._running.enqueuer.admission._kinds) <= 3
