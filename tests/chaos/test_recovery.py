"""Row 10, and how long recovery takes: a survivor, a restart, and where locks prove nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

from chaos.harness import Process, World

LEASE = 1.0


def second_start(world: World, name: str) -> float:
    """When the second attempt of a job began, by the monotonic clock that all processes share."""
    found = world.until(lambda: world.find("start", name=name, attempt=2), 30, f"the second attempt of {name}")
    return float(found[0]["mono"])


def told(what: str, took: list[float]) -> str:
    return f"{what}: p50 {statistics.median(took) * 1000:.0f} ms, max {max(took) * 1000:.0f} ms of {len(took)}"


@pytest.mark.parametrize("locks", [True, False], ids=["lock", "lease"])
@pytest.mark.alone
@pytest.mark.row(10, small=6, full=50)
def test_a_survivor_takes_over(world: World, count: int, locks: bool, note: Callable[[str], None]) -> None:
    options = {"lease": 15 if locks else LEASE}
    living: dict[int, Process] = {}

    def start(**spec: object) -> None:
        process = world.ready(options=options, locks=locks, **spec)
        living[process.pid] = process

    start()
    took = []
    for number in range(count):
        name = f"hold-{number}"
        start(enqueue=[{"handler": "hold", "name": name}])
        first = world.until(lambda name=name: world.find("start", name=name, attempt=1))[0]
        if number % 2 and not locks:
            time.sleep(0.5)
        killed = time.monotonic()
        living.pop(first["pid"]).kill()
        took.append(second_start(world, name) - killed)
    for process in living.values():
        process.end()
    note(told("survivor by lock" if locks else f"survivor by a lease of {LEASE:g} s", took))
    world.settle()
    world.check(overlaps=False)
    assert max(took) < (1.0 if locks else LEASE + 1.0), took


@pytest.mark.alone
@pytest.mark.row(10, small=6, full=50)
def test_a_restart_takes_over(world: World, count: int, note: Callable[[str], None]) -> None:
    took = []
    for number in range(count):
        name = f"hold-{number}"
        process = world.start(enqueue=[{"handler": "hold", "name": name}])
        world.until(lambda name=name: world.find("start", name=name, attempt=1))
        process.end()
        began = time.monotonic()
        process = world.start()
        took.append(second_start(world, name) - began)
        process.end()
    note(told("restart, without the interpreter's own", took))
    world.settle()
    world.check(overlaps=False)
    assert max(took) < 1.0, took
