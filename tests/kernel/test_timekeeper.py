"""Once the store tells its time, machines with different clocks agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aether_bg._kernel import timekeeper
from aether_bg._kernel.timekeeper import Timekeeper
from aether_bg._rules.settings import SystemClock
from aether_bg.testing import FakeClock

SERVER = datetime(2040, 1, 1, tzinfo=UTC)


class Machine(SystemClock):
    """Its clock as it shows the time, and what passes."""

    passed = 100.0

    def now(self) -> datetime:
        return datetime(2039, 12, 31, 23, 0, tzinfo=UTC) + timedelta(seconds=self.passed - 100)

    def monotonic(self) -> float:
        return self.passed


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_without_an_answer_it_is_the_apps_clock(clock: FakeClock) -> None:
    keeper = Timekeeper(clock, lambda: "me")
    assert keeper.moment() == (clock.now(), "me")
    assert keeper.adopt(None, keeper.monotonic()) == timedelta(0)
    assert keeper.now() == clock.now()


def test_a_clock_of_the_apps_own_is_left_alone(clock: FakeClock) -> None:
    keeper = Timekeeper(clock, lambda: None)
    keeper.adopt(SERVER, keeper.monotonic())
    assert keeper.now() == clock.now()


def test_the_stores_clock_goes_on_by_the_monotonic_one(machine: Machine) -> None:
    keeper = Timekeeper(machine, lambda: None)
    assert keeper.adopt(SERVER, keeper.monotonic()) == timedelta(hours=1)
    machine.passed += 2.5
    assert keeper.now() == SERVER + timedelta(seconds=2.5)


def test_jitter_of_the_way_moves_nothing(machine: Machine) -> None:
    keeper = Timekeeper(machine, lambda: None)
    keeper.adopt(SERVER, keeper.monotonic())
    asked = machine.passed
    machine.passed += 0.2
    keeper.adopt(SERVER + timedelta(seconds=0.05), asked)  # half of the way there and back is 0.1 s
    assert keeper.now() == SERVER + timedelta(seconds=0.2)
    keeper.adopt(SERVER + timedelta(seconds=5), machine.passed)
    assert keeper.now() == SERVER + timedelta(seconds=5)


def test_the_machines_clock_is_the_default() -> None:
    assert timekeeper.Timekeeper(SystemClock(), lambda: None).now().tzinfo is UTC
