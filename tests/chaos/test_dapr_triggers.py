"""Rows 27 to 29 under a real Dapr: handlers longer than their period, deploys, triggers that come again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest

from aether_bg import Aether, DaprScheduler, JobInfo
from aether_bg.plugins.dapr import door
from aether_bg.testing.sidecar import DaprRuntime, dapr_fixture
from chaos.harness import World
from chaos.history import History
from chaos.plugins import Observer
from chaos.sidecar import Engine, Trigger, beside, door_of, engine_of, trigger, until
from chaos.test_triggers import fails_once, longer_than_the_period

pytestmark = pytest.mark.dapr

PATIENCE = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def dapr() -> Iterator[DaprRuntime]:
    yield from dapr_fixture()


# -- row 27 --------------------------------------------------------------------------------------


@pytest.mark.row(27, small=4, full=50)
def test_a_handler_longer_than_its_period_under_dapr(
    dapr: DaprRuntime, world: World, count: int, fallback: float | None
) -> None:
    """Sooner than what would mend a broken chain: comparing with Dapr, and the search for overdue jobs each minute."""
    longer_than_the_period(world, count, "dapr", within=25, dapr={**beside(dapr.sidecar, fallback), "reconcile": 3600})


# -- row 28 --------------------------------------------------------------------------------------


@pytest.mark.row(28, small=2, full=50)
def test_an_old_process_leaves_new_work_to_the_new_one_under_dapr(
    dapr: DaprRuntime, worlds: Callable[[str], World], count: int, fallback: float | None
) -> None:
    """Each beside a sidecar of its own, which take turns: the old process refuses what Dapr brings it of the new."""
    sides = [beside(dapr.sidecar, fallback), beside(dapr.replica(), fallback)]
    for number in range(count):
        deploy(worlds(f"deploy-{number}").create(), *(sides if number % 2 else sides[::-1]))


def deploy(world: World, here: dict[str, Any], there: dict[str, Any]) -> None:
    old = world.start("until_signal", without=["effect"], dapr=here)
    jobs = [{"handler": kind, "name": f"{kind}-{n}"} for n in range(4) for kind in ("effect", "quick")]
    assert world.start("put", enqueue=jobs).wait() == 0
    world.until(lambda: len(world.find("end", handler="quick")) == 4, PATIENCE)
    time.sleep(0.3)
    assert world.sql("SELECT count(*) FROM aether_jobs WHERE handler_name = 'effect' AND status = 0") == [(4,)]
    new = world.start("until_signal", dapr=there)
    world.until(lambda: not world.sql("SELECT 1 FROM aether_jobs WHERE status < 2"), PATIENCE)
    assert {e["pid"] for e in world.find("end", handler="effect")} == {new.pid}
    for process in (old, new):
        process.end()
    world.check(overlaps=False)


@pytest.mark.row(28, small=1, full=20)
def test_work_without_a_handler_waits_and_is_reported_under_dapr(
    dapr: DaprRuntime, worlds: Callable[[str], World], count: int, fallback: float | None
) -> None:
    """Its triggers are handed back, again and again, for as long as no process has the handler."""
    for number in range(count):
        world = worlds(f"unknown-{number}").create()
        old = world.ready(without=["effect"], dapr=beside(dapr.sidecar, fallback))
        jobs = [
            {"handler": "effect", "name": "once", "payload": {"ms": 1}},
            {"handler": "effect", "name": "again", "payload": {"ms": 1}, "schedule": "@every 200ms", "repeats": 5},
        ]
        assert world.start("put", enqueue=jobs).wait() == 0
        world.until(lambda old=old: "wait for a process that has their handler: 'effect' since" in old.tail(), PATIENCE)
        time.sleep(3)
        assert world.sql("SELECT DISTINCT status FROM aether_jobs") == [(0,)]
        assert world.sql("SELECT count(*) FROM aether_runs") == [(0,)]
        old.end()
        new = world.ready(dapr=beside(dapr.sidecar, fallback))
        world.until(lambda w=world: w.sql("SELECT DISTINCT status FROM aether_jobs") == [(2,)], PATIENCE)
        new.end()
        world.check()


# -- row 29 --------------------------------------------------------------------------------------


@pytest.fixture
def consumed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a trigger of this name was taken."""
    taken: Counter[str] = Counter()
    consumes = door.Door.consumes

    async def counting(here: door.Door, name: str, body: bytes) -> bool:
        answer = await consumes(here, name, body)
        taken[name] += answer
        return answer

    monkeypatch.setattr(door.Door, "consumes", counting)
    return taken


class Again:
    """Delivers old triggers: over the app's own door, and by Dapr, which holds them once more."""

    def __init__(self, app: Aether, store_id: UUID, deliver: Trigger, engine: Engine, consumed: Counter[str]) -> None:
        self.app, self.store_id, self.deliver, self.engine, self.consumed = app, store_id, deliver, engine, consumed
        self.delivered = 0

    async def __call__(self, job: JobInfo, seqs: Iterable[int]) -> None:
        """Returns once both ways have been taken."""
        for seq in seqs:
            told = trigger(self.store_id, job, seq, datetime.now(UTC))
            twice = self.consumed[told.name] + 2
            await self.engine.hold(told)
            await self.deliver(told)
            await until(partial(self.taken, told.name, twice), PATIENCE)
            self.delivered += 2

    def taken(self, name: str, times: int) -> bool:
        return self.consumed[name] >= times

    async def armed(self, job: UUID, seq: int) -> JobInfo:
        """The row as it waits with this seq, once Dapr holds it."""
        with anyio.fail_after(PATIENCE):
            while (row := await self.app.store.get(job)) is None or row.seq < seq or row.armed_seq < seq:
                await anyio.sleep(0.01)
        return row


@pytest.mark.row(29, small=8, full=200)
@pytest.mark.anyio
async def test_old_triggers_delivered_again_under_dapr(
    dapr: DaprRuntime,
    world: World,
    count: int,
    consumed: Counter[str],
    note: Callable[[str], None],
    fallback: float | None,
) -> None:
    """During a retry's backoff, and after an update there and back: no early and no extra run (C1)."""
    history = History(world.history)
    starts: dict[UUID, list[int]] = {}
    scheduler = DaprScheduler(**beside(dapr.sidecar, fallback), reconcile=3600)  # it would delete old names
    app = Aether(str(world.db), scheduler=scheduler, plugins=[Observer(history)], concurrency=200)

    fails_once(app, history, starts, wait=2)

    async def put(name: str, schedule: timedelta | str = "@once") -> UUID:
        job = await app.enqueue("fails-once", name, {}, schedule)
        history.write("ack", job=str(job), name=name, handler="fails-once", not_before=0)
        return job

    early = 0

    async def while_it_waits(again: Again, job: UUID, seq: int) -> None:
        """Old triggers, all taken before its time, start nothing."""
        nonlocal early
        row = await again.armed(job, seq)
        known = list(starts.get(job, ()))
        await again(row, range(seq))
        assert row.due_at is not None
        if datetime.now(UTC) < row.due_at:
            early += 1
            assert starts.get(job, []) == known

    async def ended(again: Again, job: UUID, tokens: list[int]) -> None:
        """Nor do they afterwards."""
        row = await app.wait(job, PATIENCE)
        await again(row, range(row.seq + 2))
        assert starts[job] == tokens

    async def retried(again: Again, number: int) -> None:
        job = await put(f"retried-{number}")
        await while_it_waits(again, job, 2)
        await ended(again, job, [1, 3])

    async def there_and_back(again: Again, number: int) -> None:
        job = await put(f"moved-{number}", timedelta(hours=1))
        await app.update(job, timedelta(hours=2))
        await app.update(job, timedelta(seconds=2))
        await while_it_waits(again, job, 2)
        await while_it_waits(again, job, 4)
        await ended(again, job, [3, 5])

    async with app, door_of(dapr.sidecar) as deliver, engine_of(dapr.sidecar) as engine:
        again = Again(app, (await app.store.stats()).store_id, deliver, engine, consumed)
        await app.wait(await put("first"), PATIENCE)
        for start in range(0, count, 20):
            async with anyio.create_task_group() as group:
                for number in range(start, min(start + 20, count)):
                    group.start_soon(retried if number % 2 else there_and_back, again, number)
    note(f"{again.delivered} old triggers, {early} times all of them before the job was due")
    assert early
    found = world.check(overlaps=False)
    assert found["completed"] == count + 1
