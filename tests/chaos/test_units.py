"""Rows 14, 15 and 26: units of work, raced verbs, batches that break."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aether_bg.errors import StoreError, StoreTrouble
from aether_bg.plugins.sqlite import guard
from chaos.harness import World
from chaos.worker import Worker


@pytest.mark.row(14, small=150, full=1000)
def test_units_of_work_with_exceptions_and_kills(world: World, count: int, note: Callable[[str], None]) -> None:
    chance = random.Random(14)
    processes = [world.start("units") for _ in range(2)]
    deaths = 0
    while len(world.find("unit")) < count:
        time.sleep(chance.uniform(0.05, 0.25))
        victim = chance.randrange(2)
        assert processes[victim].alive, processes[victim].tail()
        processes[victim].kill()
        processes[victim] = world.start("units")
        deaths += 1
    for process in processes:
        process.end()
    world.settle(120)
    found = world.check(failures=True)
    orders = {name for (name,) in world.sql("SELECT name FROM orders")}
    jobs = {name for (name,) in world.sql("SELECT job_name FROM aether_jobs")}
    assert orders == jobs
    assert len(world.sql("SELECT name FROM orders")) == len(orders)
    assert {e["name"] for e in world.find("unit")} <= orders
    assert not {e["name"] for e in world.find("refused")} & orders
    assert found["refuseds"] > count / 10
    note(f"{found['units']} units, {found['refuseds']} refused, {deaths} kills")


@pytest.mark.alone  # a race that each side must win sometimes
@pytest.mark.row(15, small=200, full=1000)
def test_verbs_race_with_claims_and_outcomes(world: World, count: int, note: Callable[[str], None]) -> None:
    racers = [world.start("race", count=count // 2) for _ in range(2)]
    for racer in racers:
        assert racer.wait(120) == 0, racer.tail()
    found = world.check(failures=True)
    status = dict(world.sql("SELECT id, status FROM aether_jobs"))
    assert len(status) == count
    winners: dict[str, list[str]] = {job: [] for job in status}
    moved = {e["job"] for e in world.find("raced") if e["verb"] == "update" and e["result"] is None}
    for event in world.find("raced"):
        if event["verb"] == "delete" and event["result"] is True:
            winners[event["job"]].append("cancelled")
        elif event["verb"] in ("fail", "cancel") and event["result"] is None:
            winners[event["job"]].append({"fail": "failed", "cancel": "cancelled"}[event["verb"]])
    for (job,) in world.sql("SELECT job_id FROM aether_runs WHERE outcome = 'completed'"):
        winners[job].append("completed")
    names = {2: "completed", 3: "failed", 4: "cancelled"}
    for job in moved:  # given another instant while it ran, it ran again then: the earlier run is no end
        if names[status[job]] != "completed" or len(winners[job]) > 1:
            winners[job] = [won for won in winners[job] if won != "completed" or names[status[job]] == won][:1]
    wrong = {job: (won, status[job]) for job, won in winners.items() if won != [names.get(status[job])]}
    assert not wrong
    note(", ".join(f"{found[name]} {name}" for name in names.values()))
    assert min(found[name] for name in names.values()) > 0


BREAKERS = ("or rollback", "swallowed rollback", "interrupt", "full")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LONGEST", 0.03)


@pytest.mark.row(26, small=40, full=200)
def test_a_batch_that_breaks_among_good_ones(world: World, count: int, note: Callable[[str], None]) -> None:
    note(break_batches(world, count))


def break_batches(world: World, count: int, mutant: str | None = None) -> str:
    """None acknowledged and gone, none refused and there (W1)."""
    worker = Worker({"db": str(world.db), "history": str(world.history), "seed": 26, "mutant": mutant})
    chance = worker.random
    done: dict[str, str] = {}
    refused: dict[str, BaseException] = {}

    async def outcome(name: str, what: Callable[[], Any]) -> None:
        await anyio.sleep(chance.random() * 0.004)
        try:
            await what()
        except Exception as error:
            refused[name] = error
        else:
            done[name] = "acknowledged"

    async def main() -> None:
        async with worker.app.client() as jobs:
            async with jobs.unit_of_work() as uow:
                uow.execute("CREATE TABLE only_one (value INTEGER PRIMARY KEY)")
                uow.execute("INSERT INTO only_one VALUES (1)")

            async def good(name: str) -> None:
                await jobs.enqueue("quick", name, {})

            async def unit(name: str) -> None:
                async with jobs.unit_of_work() as uow:
                    uow.execute("INSERT INTO orders VALUES (?, 'job')", [name])
                    await jobs.enqueue("quick", name, {})

            async def bad(name: str, kind: str) -> None:
                async with jobs.unit_of_work() as uow:
                    uow.execute("INSERT INTO orders VALUES (?, 'job')", [name])
                    uow.run(lambda tx: breaks(tx, kind))
                    await jobs.enqueue("quick", name, {})
                    uow.execute("INSERT INTO orders VALUES (?, 'job')", [name])

            async def pause() -> None:
                async with jobs.unit_of_work() as uow:
                    uow.run(lambda tx: time.sleep(0.008))

            for number in range(count):
                kind = BREAKERS[number % len(BREAKERS)]
                if kind == "full":
                    await worker.store._open().write(limit, 2)
                calls = [(f"{number}-good-{n}", good) for n in range(8)]
                calls += [(f"{number}-unit-{n}", unit) for n in range(4)]
                async with anyio.create_task_group() as group:
                    group.start_soon(outcome, f"{number}-pause", pause)
                    for name, call in calls:
                        group.start_soon(outcome, name, lambda name=name, call=call: call(name))
                    group.start_soon(outcome, f"{number}-bad", lambda n=number, kind=kind: bad(f"{n}-bad", kind))
                if kind == "full":
                    await worker.store._open().write(lambda conn: conn.execute("PRAGMA max_page_count = 1000000"), 2)

    anyio.run(main)
    orders = [name for (name,) in world.sql("SELECT name FROM orders")]
    jobs = {name for (name,) in world.sql("SELECT job_name FROM aether_jobs")}
    acknowledged = {name for name in done if "pause" not in name}
    assert acknowledged - jobs == set(), "acknowledged and gone"
    assert jobs - acknowledged == set(), "refused and there"
    assert sorted(name for name in orders if "unit" in name) == sorted(name for name in jobs if "unit" in name)
    bad = {name for name in orders if "bad" in name}  # what was to break one may be too late: then it is all there
    assert bad == {name for name in jobs if "bad" in name}
    assert [name for name in acknowledged if "bad" in name] == []
    wrong = {
        name: error for name, error in refused.items() if "bad" not in name and not isinstance(error, StoreTrouble)
    }
    assert not wrong
    assert not [name for name in wrong if int(name.split("-")[0]) % 4 != 3], "only a full disk hurts the others"
    innocent = [name for name in refused if "bad" not in name and int(name.split("-")[0]) % len(BREAKERS) != 3]
    assert not innocent
    raised = {type(error).__name__ for name, error in refused.items() if "bad" in name}
    assert all(isinstance(error, StoreError | sqlite3.Error) for error in refused.values()), refused
    return f"{len(acknowledged)} acknowledged, {len(refused)} refused ({', '.join(sorted(raised))})"


def limit(conn: sqlite3.Connection) -> None:
    pages = conn.execute("PRAGMA page_count").fetchone()[0]
    conn.execute(f"PRAGMA max_page_count = {pages + 2}")


def breaks(tx: Any, kind: str) -> None:
    match kind:
        case "or rollback":
            tx.execute("INSERT OR ROLLBACK INTO only_one VALUES (1)")
        case "swallowed rollback":
            try:
                tx.execute("INSERT OR ROLLBACK INTO only_one VALUES (1)")
            except sqlite3.IntegrityError:
                return
        case "interrupt":
            tx.execute(
                "INSERT INTO orders WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT i, 'none' FROM n"
            )
        case "full":
            tx.execute("INSERT INTO orders VALUES ('big', zeroblob(2000000))")
