"""An outcome that the handler writes in its own transaction: the part alone, over a store that only this stands for.

Real connections: tests/plugins/postgres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import attrs
import pytest
from kernel.conftest import World
from kernel.parts import claimed

from aether_bg import StoreContended, TokenLost, UsageError
from aether_bg._handlers.work import UnitOfWork
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.inside import Inside
from aether_bg._kernel.notes import Notes
from aether_bg.errors import InsideUnitOfWork
from aether_bg.model import JobInfo, JobStatus, Update

pytestmark = pytest.mark.anyio


@attrs.define(eq=False)
class Desk:
    world: World
    inside: Inside
    attempt: Attempt
    notes: Notes
    misses: int = 0
    """How many writes find that the row has changed."""
    settled: list[bool] = attrs.field(factory=list)

    async def write_on(self, connection: list[Update], write: Update, *, notify: bool, settle: bool) -> JobInfo | None:
        """`connection`: the writes of an open transaction."""
        self.misses -= 1
        if self.misses >= 0:
            return None
        connection.append(write)
        self.settled.append(settle)
        return self.attempt.job

    async def complete(self, connection: list[Update]) -> None:
        await self.inside.complete(self.attempt.context, connection)


@pytest.fixture
def make(make_world: Callable[..., World]) -> Callable[..., Any]:
    async def made(**bounds: Any) -> Desk:
        world = make_world(**bounds)
        await world.join()
        notes = Notes(shared=world.shared, on_loop=lambda fn: fn(), across=world.across, limit=1000)
        desk = Desk(world, Inside(world.shared, world.across, notes), await claimed(world), notes)
        world.shared.calls.write_on = desk.write_on  # type: ignore[method-assign,assignment]
        return desk

    return made


async def test_the_commit_is_the_outcome(make: Any) -> None:
    desk, connection = await make(), list[Update]()
    desk.misses = 3
    await desk.complete(connection)
    assert desk.settled == [True]
    await desk.world.shared.calls.transact(connection)  # the handler commits
    await desk.inside.check(desk.attempt)
    assert (await desk.world.row(desk.attempt.job)).status is JobStatus.COMPLETED
    with pytest.raises(UsageError, match="it was completed before"):
        await desk.complete(connection)


async def test_the_last_progress_is_part_of_it(make: Any) -> None:
    """docs/protocol.md, G1: also where it waits for its second."""
    desk, connection = await make(), list[Update]()
    desk.notes.progress(desk.attempt.context, 7, 7, "all")
    await desk.complete(connection)
    await desk.world.shared.calls.transact(connection)
    progress = (await desk.world.row(desk.attempt.job)).progress
    assert progress is not None
    assert (progress.done, progress.note) == (7, "all")


async def test_without_a_commit_it_has_failed(make: Any) -> None:
    desk = await make()
    desk.notes.progress(desk.attempt.context, 7, 7, "all")
    await desk.complete([])
    assert desk.notes.last(desk.attempt.context) is not None, "the outcome that is recorded instead has it"
    with pytest.raises(UsageError, match="its transaction was not committed"):
        await desk.inside.check(desk.attempt)
    assert desk.attempt.written is None


async def test_a_row_that_changes_all_the_time(make: Any) -> None:
    desk = await make()
    desk.misses = 100
    with pytest.raises(StoreContended):
        await desk.complete([])
    assert desk.attempt.written is None


async def test_where_it_cannot_be_called(make: Any) -> None:
    desk = await make()
    desk.attempt.work = UnitOfWork(lambda tx, made: None, UUID(int=0))  # type: ignore[arg-type,return-value]
    with pytest.raises(InsideUnitOfWork):
        await desk.complete([])
    desk.attempt.work = None
    await desk.world.store.write(lambda rows: rows.delete_job(desk.attempt.job))
    with pytest.raises(TokenLost):
        await desk.complete([])
    desk.world.shared.slots.end(desk.attempt)
    with pytest.raises(UsageError, match="its attempt has ended"):
        await desk.complete([])
