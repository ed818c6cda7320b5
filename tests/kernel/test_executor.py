"""One attempt from its claim to its result: the executor alone. No store is asked, and nothing is recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from kernel.conftest import World, eventually
from kernel.parts import Attempts

from aether_bg import GiveUp, Snooze, UnitOfWork, hookimpl
from aether_bg._kernel.attempt import Attempt
from aether_bg._rules.results import COMPLETED, Completed, Failed, Released, Snoozed
from aether_bg.errors import InvalidPayload
from aether_bg.model import Backoff, RunOutcome

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(make_world: Callable[..., World]) -> Callable[..., Attempts]:
    return lambda handler=lambda: None, *, parts=None, **bounds: Attempts(make_world(handler, **bounds), **parts or {})


Make = Callable[..., Attempts]


# -- one result for each way of ending -------------------------------------------------------------


async def test_it_completes(make: Make) -> None:
    async def work() -> None: ...

    assert await make(work).result() is COMPLETED


@pytest.mark.parametrize(
    ("raised", "again"),
    [
        (ValueError("boom"), True),
        (asyncio.CancelledError("not by the kernel"), True),  # docs/protocol.md, S5
        (SystemExit(3), True),
        (GiveUp("enough"), False),
        (InvalidPayload("a payload", "it is wrong", "Mend it."), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_it_fails_with_what_it_raises(make: Make, raised: BaseException, again: bool) -> None:
    """`again`: it is tried again while retries are left."""

    async def work() -> None:
        raise raised

    desk = make(work, retries=1, backoff=Backoff(first=60, jitter=0))
    result = await desk.result()
    assert isinstance(result, Failed)
    assert str(raised).split(":")[0] in result.error
    assert result.retry_at == (desk.world.clock.now() + timedelta(minutes=1) if again else None)


async def test_it_snoozes(make: Make) -> None:
    async def work() -> None:
        raise Snooze(timedelta(hours=1))

    desk = make(work)
    assert await desk.result() == Snoozed(desk.world.clock.now() + timedelta(hours=1))


async def test_it_takes_longer_than_its_timeout(make: Make) -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    result = await make(work, timeout=0.01).result()
    assert (result.outcome, result.error) == (RunOutcome.TIMED_OUT, "TimedOut: the attempt took longer than 0.01 s")


async def test_a_thread_that_returns_after_its_timeout_is_late(make: Make) -> None:
    """And its slot is taken until then (docs/protocol.md, S4)."""
    go, desk = threading.Event(), make(lambda: go.wait(10) and None, timeout=0.01)
    (job,) = desk.claimed()
    desk.executor.start([job])
    await eventually(lambda: desk.running(job).scope is not None and desk.running(job).scope.cancel_called)
    await anyio.sleep(0.02)
    assert desk.running(job).in_thread
    go.set()
    await desk.end()
    assert desk.results[0].outcome is RunOutcome.TIMED_OUT


@pytest.mark.parametrize(("ends", "expected"), [("returns", COMPLETED), ("raises", None), ("hangs", None)])
async def test_the_stop_cancels_it(make: Make, ends: str, expected: Completed | None) -> None:
    """Where it returns all the same it has completed (docs/protocol.md, S2)."""

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if ends == "raises":
                raise ValueError("while it was cancelled")
            if ends == "returns":
                return  # noqa: B012

    desk = make(work)
    (job,) = desk.claimed()
    desk.executor.start([job])
    await eventually(lambda: desk.running(job).begun)
    await anyio.sleep(0.01)
    desk.running(job).releasing = True
    desk.running(job).scope.cancel()
    await desk.end()
    assert desk.results == [expected or Released(begun=True)]


async def test_one_that_lost_its_token_records_nothing(make: Make) -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    desk = make(work)
    (job,) = desk.claimed(crash_count=2)
    desk.executor.start([job])
    assert desk.world.shared.slots.suspect
    await eventually(lambda: desk.running(job).begun)
    desk.running(job).revoke()
    await desk.end()
    assert desk.results == []
    assert not desk.world.shared.slots.suspect, "the next one may run"


# -- what never begins -----------------------------------------------------------------------------


async def test_a_payload_that_cannot_be_read_fails_it(make: Make) -> None:
    ran = []

    class NoKey:
        @hookimpl
        def dispatch_codec(self) -> Any:
            return self

        def encode(self, value: Any, about: Any) -> Any:
            return value

        def decode(self, value: Any, about: Any) -> Any:
            raise ValueError("its key is gone")

    async def work(payload: Any) -> None:
        ran.append(payload)

    result = await make(work, plugins=[NoKey()], retries=3).result(payload={"sealed": 1})
    assert (type(result), result.retry_at, ran) == (Failed, None, [])
    assert "InvalidPayload" in result.error


async def test_a_handler_or_a_schedule_that_is_not_known_here_puts_it_back(make: Make) -> None:
    """For a process that has it (docs/protocol.md, C7 and C8)."""
    assert await make().result(handler_name="Elsewhere") == Released(begun=False)
    assert await make().result(expression_value="@word-of-a-plugin") == Released(begun=False)


async def test_after_the_stop_has_begun_it_does_not_begin(make: Make) -> None:
    ran: list[bool] = []

    async def work() -> None:
        ran.append(True)

    desk = make(work)
    desk.world.shared.identity.stopping = True
    assert await desk.result() == Released(begun=False)
    assert ran == []


async def test_a_fault_of_the_kernel_fails_the_job_visibly(make: Make) -> None:
    class Broken:
        def runs(self, attempt: Attempt, plan: Any) -> bool:
            raise RuntimeError("of the kernel")

    desk = make(parts={"decider": Broken()})
    assert isinstance(await desk.result(), Failed)
    assert "of the kernel" in desk.world.shared.problems.current["attempt of Work (job)"]


# -- what a handler is given, and what it returns --------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_its_unit_of_work_is_closed_where_it_fails(make: Make, fails: bool) -> None:
    """Else what its tasks add later would be lost with it; the commit closes the others."""
    units: list[UnitOfWork] = []

    async def work(uow: UnitOfWork) -> None:
        units.append(uow)
        if fails:
            raise ValueError("boom")

    await make(work).result()
    assert units[0].is_open is not fails


async def test_the_result_that_it_keeps(make: Make) -> None:
    async def work() -> list[int]:
        return [1, 2]

    assert await make(work, keep_result=True).result() == Completed(result=[1, 2], has_result=True)
    large = make(lambda: "x" * 2000, keep_result=True)
    result = await large.result()
    assert (type(result), result.has_result) == (Completed, False), "docs/protocol.md, K2"
    assert "is not kept" in result.error
