"""Transactions, and what is announced after them: the part alone, over answers that the test gives or holds back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest
from kernel.conftest import World, eventually

from aether_bg._kernel.commits import Commits
from aether_bg._rules.commands import cancel
from aether_bg.errors import StoreBusy
from aether_bg.model import Altered, Call, Hold, Insert, JobStatus, Query, Settled, Update, Write

pytestmark = pytest.mark.anyio

Make = Callable[..., World]


@attrs.define(eq=False)
class Desk:
    world: World
    announced: list[bool] = attrs.field(factory=list)
    kept_back: bool = False
    """Answers of the store are kept back once it has committed."""
    answers: Sequence[object] | None = None
    """What the store answers, instead of carrying anything out."""
    stored: Callable[[Sequence[Write]], Awaitable[Sequence[object]]] = attrs.field(init=False)
    """The store, at once."""

    def __attrs_post_init__(self) -> None:
        self.stored = self.world.shared.calls.transact
        self.world.shared.calls.transact = self.transact  # type: ignore[method-assign]

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        if self.answers is not None:
            return self.answers
        results = await self.stored(writes)
        if self.kept_back:
            await anyio.sleep_forever()
        return results

    @property
    def commits(self) -> Commits:
        shared = self.world.shared
        return Commits(shared, self.world.alarm)

    async def family(self) -> tuple[Insert, Insert, Insert]:
        """A parent, its child, and a child of that, all stored."""
        parent, child, grandchild = (self.world.job(name) for name in ("parent", "child", "grandchild"))
        inserts = Insert(parent), Insert(child, (parent.id,)), Insert(grandchild, (child.id,))
        await self.stored(inserts)
        return inserts

    def cancelling(self, insert: Insert) -> Update:
        change = cancel(insert.job, self.world.shared.clock.moment())
        assert change is not None
        return Update(change)


async def woken(world: World, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the scheduler is woken by the call."""
    woken = world.alarm.roused.next()
    await call()
    return woken.is_set()


async def test_the_scheduler_is_woken_for_released_children(make_world: Make) -> None:
    desk = Desk(make_world())
    write, child = Insert(desk.world.job()), desk.world.job("child")
    for answers, expected in (([None], False), ([()], False), ([child], False), ([(Settled(child.id, 1),)], True)):
        desk.answers = answers
        assert await woken(desk.world, lambda: desk.commits.transact([write])) is expected, answers


async def test_cancelled_children_are_logged_and_shown(
    make_world: Make, running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(make_world())
    parent, *children = await desk.family()
    async with running(desk.world.shared.observers.run):
        assert await woken(desk.world, lambda: desk.commits.transact([desk.cancelling(parent)]))
        await eventually(lambda: len(desk.world.events) == 2)
    shown = {(e.job.id, e.verb, e.job.status) for e in desk.world.events if isinstance(e, Altered)}
    assert shown == {(child.job.id, "delete", JobStatus.CANCELLED) for child in children}
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "CANCELLED: 2, the first is" in record.getMessage()


async def test_cancelled_children_that_cannot_be_read_are_reported(make_world: Make) -> None:
    desk = Desk(make_world())
    parent, *_ = await desk.family()

    async def fails(query: Query) -> Any:
        raise StoreBusy("a file", "it is busy")

    desk.world.shared.calls.find = fails  # type: ignore[method-assign]
    await desk.commits.transact([desk.cancelling(parent)])
    await eventually(lambda: "observers of cancelled jobs" in desk.world.shared.problems.current)


class Undecided:
    """As an array of numpy: it is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


@pytest.mark.parametrize("returned", [Undecided(), [Settled(UUID(int=1), 1)], "text"], ids=["bool", "settled", "text"])
async def test_what_a_function_in_the_transaction_returns_is_its_own(make_world: Make, returned: object) -> None:
    """It is committed by now: nothing that the value does may turn that into an error."""
    desk = Desk(make_world())
    desk.answers = [None, returned]
    assert not await woken(
        desk.world, lambda: desk.commits.transact([Insert(desk.world.job()), Call(lambda tx: returned)])
    )


async def cancelled(desk: Desk, write: Write) -> None:
    """A caller that goes away while the store commits."""
    desk.kept_back = True
    with anyio.move_on_after(0.01):
        await desk.commits.transact([write])
    desk.kept_back = False


async def test_the_scheduler_is_woken_where_the_answer_is_lost_with_the_caller(make_world: Make) -> None:
    desk = Desk(make_world())
    write = Hold(handler="Work", held=False, at=desk.world.clock.now())
    assert await woken(desk.world, lambda: cancelled(desk, write))


async def test_children_cancelled_by_a_write_whose_caller_was_cancelled(
    make_world: Make, running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(make_world())
    parent, *children = await desk.family()
    write = desk.cancelling(parent)
    async with running(desk.world.shared.observers.run):
        await cancelled(desk, write)
        desk.commits.follow(write, lambda: None)
        await eventually(lambda: len(desk.world.events) == 2)
    shown = {(e.job.id, e.verb, e.job.status) for e in desk.world.events if isinstance(e, Altered)}
    assert shown == {(child.job.id, "delete", JobStatus.CANCELLED) for child in children}
    assert "CANCELLED: 2, the first is" in caplog.text


@pytest.mark.parametrize("how", ["insert", "update", "async"])
async def test_a_write_whose_caller_was_cancelled_is_announced(make_world: Make, how: str) -> None:
    desk = Desk(make_world())
    write: Insert | Update = Insert(desk.world.job())
    if how == "update":
        await desk.stored([write])
        write = desk.cancelling(write)

    async def later() -> None:
        await anyio.sleep(0)
        desk.announced.append(True)

    await cancelled(desk, write)
    desk.commits.follow(write, later if how == "async" else lambda: desk.announced.append(True))
    await eventually(lambda: desk.announced)
    assert desk.announced == [True]


async def test_a_job_that_was_not_stored_is_not_announced(make_world: Make) -> None:
    desk = Desk(make_world())
    desk.commits.follow(Insert(desk.world.job()), lambda: desk.announced.append(True))
    await anyio.sleep(0.02)
    assert desk.announced == []


@pytest.mark.parametrize("field", ["next_seq", "next_rev", "modified_at"])
async def test_an_update_is_not_announced_for_a_row_that_another_one_changed(make_world: Make, field: str) -> None:
    desk = Desk(make_world())
    insert = Insert(desk.world.job())
    stored = desk.cancelling(insert)
    await desk.stored([insert])
    await desk.stored([stored])
    other = {"next_seq": 7, "next_rev": 7, "modified_at": desk.world.clock.now() + timedelta(seconds=1)}[field]
    desk.commits.follow(Update(attrs.evolve(stored.change, **{field: other})), lambda: desk.announced.append(True))
    await anyio.sleep(0.02)
    assert desk.announced == []


async def test_an_error_while_it_looks_is_reported(make_world: Make) -> None:
    desk = Desk(make_world())

    async def fails(job_id: Any) -> Any:
        raise StoreBusy("a file", "it is busy")

    desk.world.shared.calls.get = fails  # type: ignore[method-assign]
    desk.commits.follow(Insert(desk.world.job()), lambda: desk.announced.append(True))
    await eventually(lambda: "announcing" in desk.world.shared.problems.current)
    assert desk.announced == []
