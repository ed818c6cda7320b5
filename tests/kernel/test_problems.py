"""Errors without a caller: logged, kept for a while, and passed to the observers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from kernel.conftest import World, eventually

from aether_bg.errors import NotStarted, StoreBusy
from aether_bg.model import Problem

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

Make = Callable[..., World]
BUSY = StoreBusy("a file", "it is busy")


async def test_a_problem_is_logged_and_kept_for_a_while(make_world: Make, caplog: pytest.LogCaptureFixture) -> None:
    world = make_world()
    problems, job = world.shared.problems, world.job()
    problems.report("claiming", BUSY, job)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.WARNING, None), "the traceback is for DEBUG"
    assert record.getMessage() == f"claiming: {problems.current['claiming']}"
    problems.report("claiming", "the last one\nof its \x1b[31mpart" + "x" * 5000)
    (text,) = problems.current.values()
    assert text.startswith("the last one")
    assert not {"\n", "\x1b"} & set(text)
    assert len(text) < 2100
    world.clock.advance(seconds=59)
    assert problems.current
    world.clock.advance(seconds=2)
    assert problems.current == {}


async def test_every_error_of_a_group_is_named(make_world: Make) -> None:
    problems = make_world().shared.problems
    problems.report("a part", ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [KeyError("two")])]))
    assert problems.current == {"a part": "ValueError: one; KeyError: 'two'"}


async def test_observers_get_it(make_world: Make, running: Any) -> None:
    world = make_world()
    shared = world.shared
    async with running(shared.observers.run):
        shared.problems.report("a part", BUSY)
        await eventually(lambda: world.events == [Problem("a part", BUSY)])


async def test_during_the_stop_each_kind_is_reported_once(make_world: Make, caplog: pytest.LogCaptureFixture) -> None:
    world = make_world()
    world.shared.identity.stopping = True
    for problem in (BUSY, BUSY, "a text", "a text", ValueError(), NotStarted("the app", "it stopped", "Start it.")):
        world.shared.problems.report("a part", problem)
    world.shared.problems.report("another", BUSY)
    assert len(caplog.records) == 4
