"""Processes die anywhere: rows 1, 2, 3, 7 and 10 of the table."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from chaos.harness import World, stamp
from chaos.plugins import MOMENTS

MS, FEW = 900, {"concurrency": 4}
"""Row 1: the longest job in milliseconds, and few at once in each worker, so that most kills hit a running attempt."""


@pytest.mark.alone  # the load must be heavy enough
@pytest.mark.row(1, small=30, full=200)
def test_workers_and_a_producer_killed_at_random(world: World, count: int, note: Callable[[str], None]) -> None:
    chance = random.Random(1)
    workers = [world.start(seed=n, options=FEW) for n in range(4)]
    producer = world.start("produce", ms=MS, pause=0.005)
    killed_workers: list[int] = []
    world.until(lambda: len(world.find("ready")) >= 5)
    world.until(lambda: len({e["pid"] for e in world.find("start")}) == 4, what="work for all")
    for killed in range(count):
        time.sleep(chance.uniform(0.05, 0.25))
        if killed % 10 == 9:
            producer.kill()
            producer = world.start("produce", seed=1000 + killed, ms=MS, pause=0.005)
        else:
            at_work = [n for n in range(4) if world.find("start", pid=workers[n].pid)]  # others still open the file
            victim = chance.choice(at_work if at_work and chance.random() < 0.9 else range(4))
            workers[victim].kill()
            killed_workers.append(workers[victim].pid)
            workers[victim] = world.start(seed=100 + killed, options=FEW)
    producer.kill()
    for worker in workers:
        worker.kill()
    for process in world.processes:
        process.wait()
    world.settle(120)
    found = world.check()
    left = [path.name for path in world.folder.glob("jobs.db-owner-*")]
    ended = {(e["job"], e["token"]) for e in world.find("end")}
    hit = {e["pid"] for e in world.find("start") if (e["job"], e["token"]) not in ended}.intersection(killed_workers)
    note(
        f"{found['acks']} jobs, {found['restarted']} attempts died, {found['failed']} at the cap; "
        f"{len(hit)} of {len(killed_workers)} kills hit a running attempt"
    )
    assert len(hit) > len(killed_workers) / 2, "the load is too light"
    assert found["restarted"] >= len(hit) / 2
    assert found["completed"] > found["acks"] * 0.9
    assert len(left) <= 5, f"{len(left)} lock files of owners are left"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.row(2, small=8, full=50)
def test_killed_at_a_failpoint(world: World, count: int, moment: str) -> None:
    options = {"lease": 0.3} if moment == "renewing" else {}
    passes = 6 if "commit" in moment else 4  # a start alone commits three times
    for number in range(count):
        process = world.start(
            count=5, prefix=f"w{number}", moment=moment, nth=1 + number % passes, seed=number, options=options
        )
        assert process.wait(20) == -9, process.tail()
    world.settle(60)
    found = world.check(overlaps=False)
    assert len({e["pid"] for e in world.find("killed")}) == count
    assert found["completed"] > 0


@pytest.mark.parametrize("scheduler", ["timer", "push"])
@pytest.mark.row(3, small=12, full=100)
def test_killed_between_claim_and_arming_the_next(world: World, count: int, scheduler: str) -> None:
    """A recurring job whose process dies each time before the next occurrence is armed."""
    jobs: list[dict[str, Any]] = [
        {"handler": "tick", "name": f"tick-{n}", "schedule": "@every 200ms", "misfire": "all", "if_exists": "keep"}
        for n in range(3)
    ]
    moments = ("after claim", "before commit", "in commit", "after commit", "before ack")
    for number in range(count):
        process = world.start(
            scheduler=scheduler, enqueue=jobs, moment=moments[number % len(moments)], nth=1 + number % 3, seed=number
        )
        assert process.wait(20) == -9, process.tail()
    alone = stamp(time.time())
    last = world.ready(scheduler=scheduler)
    before = dict(world.sql("SELECT id, occurrences FROM aether_jobs"))
    world.until(
        lambda: all(n >= before[job] + 3 for job, n in world.sql("SELECT id, occurrences FROM aether_jobs")),
        what="three more occurrences of each",
    )
    world.until(  # misfire="all": what was missed between the processes is made up for
        lambda: not world.sql("SELECT 1 FROM aether_jobs WHERE occurrence < ?", alone),
        timeout=120,
        what="the end of the backlog",
    )
    last.end()
    world.settle()
    world.check(overlaps=False)
    assert len({e["pid"] for e in world.find("killed")}) == count
    for (job,) in world.sql("SELECT id FROM aether_jobs"):
        done = world.sql("SELECT occurrence FROM aether_runs WHERE job_id = ? AND outcome = 'completed'", job)
        assert len({when for (when,) in done}) == len(done) > 0


@pytest.mark.parametrize("scheduler", ["timer", "push"])
@pytest.mark.row(7, small=2, full=20)
def test_a_handler_that_always_kills(worlds: Callable[[str], World], count: int, scheduler: str) -> None:
    for number in range(count):
        world = worlds(f"poison-{number}").create()
        poison: list[dict[str, Any]] = [{"handler": "poison", "name": "poison", "if_exists": "keep"}]
        others: list[dict[str, Any]] = [
            {"handler": "quick", "name": f"other-{n}", "payload": {"ms": 30}, "if_exists": "keep"} for n in range(20)
        ]
        deaths = 0
        process = world.start(scheduler=scheduler, enqueue=[*others[:10], *poison, *others[10:]])
        deadline = time.monotonic() + 30
        while world.sql("SELECT count(*), sum(status < 2) FROM aether_jobs") != [(21, 0)]:
            assert time.monotonic() < deadline, world.sql("SELECT job_name, status, crash_count FROM aether_jobs")
            if not process.alive:
                assert process.code == -9, process.tail()
                deaths += 1
                process = world.start(scheduler=scheduler, enqueue=[*others, *poison])
            time.sleep(0.005)
        process.end()
        assert world.sql("SELECT status, crash_count FROM aether_jobs WHERE job_name = 'poison'") == [(3, 5)]
        assert world.sql("SELECT count(*) FROM aether_jobs WHERE status = 2") == [(20,)]
        assert deaths == 5
        assert world.sql("SELECT max(crash_count) FROM aether_jobs WHERE job_name <> 'poison'")[0][0] <= 2
        world.check()


@pytest.mark.row(7, small=1, full=20)
def test_a_recurring_handler_that_always_kills(worlds: Callable[[str], World], count: int) -> None:
    """Each occurrence from the fifth crash on ends as crashed; at twice the cap the job has failed (R3)."""
    for number in range(count):
        world = worlds(f"recurring-{number}").create()
        poison = {"handler": "poison", "name": "poison", "schedule": "@every 100ms", "if_exists": "keep"}
        deaths = 0
        process = world.start(enqueue=[poison])
        deadline = time.monotonic() + 30
        while not world.sql("SELECT 1 FROM aether_jobs WHERE status = 3"):
            assert time.monotonic() < deadline, world.sql("SELECT job_name, status, crash_count FROM aether_jobs")
            if not process.alive:
                assert process.code == -9, process.tail()
                deaths += 1
                process = world.start()
            time.sleep(0.005)
        process.end()
        assert deaths == 10
        assert world.sql("SELECT crash_count, holds_name FROM aether_jobs") == [(10, 1)]
        occurrences = world.sql("SELECT count(DISTINCT occurrence) FROM aether_runs WHERE outcome = 'crashed'")
        assert occurrences == [(6,)], "five crashes of the first, then one of each"
        world.check()
