"""Several attempts at once: two of one job, and those that share a task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import attrs
import pytest
from kernel.conftest import World, eventually
from kernel.parts import Attempts

from aether_bg._rules.results import COMPLETED
from aether_bg.model import JobContext, JobInfo

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(make_world: Callable[..., World]) -> Callable[..., Attempts]:
    return lambda handler, **options: Attempts(make_world(handler, **options))


Make = Callable[..., Attempts]


# -- two attempts of one job (docs/protocol.md, P7) ------------------------------------------------


async def test_a_second_attempt_waits_for_the_first(make: Make) -> None:
    begun, go = list[JobInfo](), anyio.Event()

    async def work(ctx: JobContext) -> None:
        begun.append(ctx.job)
        with anyio.CancelScope(shield=True):
            await go.wait()

    desk = make(work)
    (job,) = desk.claimed()
    again = attrs.evolve(job, seq=3, attempt=2)
    desk.executor.start([job])
    await eventually(lambda: begun)
    first = desk.running(job)
    desk.executor.start([again])
    await anyio.sleep(0.02)
    assert (begun, first.revoked) == ([job], True)
    assert "was claimed again" in desk.world.shared.problems.current["attempts"]
    go.set()
    await desk.end()
    assert (begun, desk.results) == ([job, again], [COMPLETED])


async def test_the_one_before_is_left_alone_once_it_has_written_its_outcome(make: Make) -> None:
    """docs/protocol.md, W13."""
    go = anyio.Event()

    async def work() -> None:
        await go.wait()

    desk = make(work)
    (job,) = desk.claimed()
    desk.executor.start([job])
    await eventually(lambda: desk.running(job).begun)
    first: Any = desk.running(job)
    first.written = "written"
    desk.executor.start([attrs.evolve(job, seq=3)])
    assert not first.revoked
    first.written = None
    go.set()
    await desk.end()
    assert desk.results == [COMPLETED, COMPLETED]


# -- attempts in one task (docs/protocol.md, S11) --------------------------------------------------

mark: ContextVar[str] = ContextVar("mark", default="clean")


def leave_a_variable() -> None:
    mark.set("dirty")


def leave_a_name() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name("mine")


def leave_a_callback() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda task: None)


def leave_a_cancellation() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


TRACES = [leave_a_variable, leave_a_name, leave_a_callback, leave_a_cancellation]


@pytest.mark.parametrize("leave", [None, *TRACES], ids=lambda leave: getattr(leave, "__name__", "leave_nothing"))
async def test_an_attempt_that_leaves_traces_gets_no_company(
    make: Make, leave: Callable[[], None] | None, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio" or sys.version_info < (3, 12):
        pytest.skip("tasks that begin at once")
    names: list[tuple[str, str]] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append((task.get_name(), mark.get()))
        if leave is not None:
            leave()

    desk = make(work, slots=4)
    mark.set("of the caller")
    desk.executor.start(desk.claimed(*"abcd"))
    await desk.end()
    assert len(desk.results) == 4
    assert [seen for _, seen in names] == ["clean"] * 4, "each begins with an empty context"
    assert len({name for name, _ in names}) == (1 if leave is None else 4)


async def test_one_that_waits_leaves_the_others_to_a_task_of_their_own(make: Make) -> None:
    go, ran = anyio.Event(), list[str]()

    async def work(ctx: JobContext) -> None:
        if ctx.job.job_name in "bd":
            await go.wait()
        ran.append(ctx.job.job_name)

    desk = make(work, slots=4)
    desk.executor.start(desk.claimed(*"abcd"))
    await eventually(lambda: sorted(ran) == ["a", "c"])
    go.set()
    await desk.end()
    assert sorted(ran) == ["a", "b", "c", "d"]
