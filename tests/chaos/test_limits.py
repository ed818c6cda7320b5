"""Limits of handlers over several processes, also while these die. Rows 41 and 42."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from chaos.harness import World

LIMIT = 2
"""Of the handler "limited", in `chaos.worker`."""


def running(world: World) -> int:
    return int(world.sql("SELECT count(*) FROM aether_jobs WHERE handler_name = 'limited' AND status = 1")[0][0])


def inside(world: World, died: dict[int, float]) -> int:
    """The most attempts that were inside the handler at a time, by what they wrote; `died`: when processes did."""
    changes: list[tuple[float, int]] = []
    for event in world.find("start", handler="limited"):
        ends = [e["at"] for e in world.find("end", job=event["job"], token=event["token"])]
        changes += [(event["at"], 1), (min([*ends, died.get(event["pid"], float("inf"))]), -1)]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.row(41, small=8, full=20)
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_limit(world: World, count: int, processes: int, note: Callable[[str], None]) -> None:
    jobs = [{"handler": "limited", "name": f"limited-{n}", "payload": {"ms": 15}} for n in range(25 * count)]
    workers = [world.ready() for _ in range(processes)]
    assert world.start("put", enqueue=jobs).wait(60) == 0
    most, ended = 0, "SELECT count(*) FROM aether_jobs WHERE status = 2"
    while world.sql(ended)[0][0] < len(jobs):
        most = max(most, running(world))
        assert most <= LIMIT
        time.sleep(0.002)
    assert inside(world, {}) == LIMIT
    shares = sorted(len(world.find("start", handler="limited", pid=worker.pid)) for worker in workers)
    assert shares[0] > 0, f"a process got none: {shares}"
    world.end_all()
    world.settle()
    world.check()
    note(f"{len(jobs)} jobs, shares {shares}")


@pytest.mark.row(42, small=4, full=50)
def test_owners_that_die_give_their_share_of_a_limit_back(
    world: World, count: int, note: Callable[[str], None]
) -> None:
    chance, died, slowest = random.Random(42), dict[int, float](), 0.0
    steady = world.ready()
    for number in range(count):
        victim = world.ready()
        jobs = [{"handler": "limited", "name": f"l-{number}-{n}", "payload": {"ms": 40}} for n in range(40)]
        assert world.start("put", enqueue=jobs).wait(60) == 0
        world.until(
            lambda pid=victim.pid: world.find("start", handler="limited", pid=pid), what="a start by the victim"
        )
        time.sleep(chance.uniform(0, 0.05))
        victim.kill()
        victim.wait()
        killed = died[victim.pid] = time.time()
        assert running(world) <= LIMIT
        left = "SELECT count(*) FROM aether_jobs WHERE handler_name = 'limited' AND status < 2"
        while world.sql(left)[0][0]:
            assert running(world) <= LIMIT
            assert time.time() < killed + 30, "what a dead owner held was never given back"
            time.sleep(0.002)
        slowest = max(slowest, time.time() - killed)
    assert inside(world, died) <= LIMIT
    assert steady.alive
    world.end_all()
    world.settle()
    found = world.check()
    note(f"{count} kills, {found['restarted']} attempts died, all ended after {slowest:.1f} s at most")
