"""Writes of one moment share a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from kernel.conftest import World, eventually

from aether_bg.errors import NotStarted, StoreBusy, StoreContended, StoreRefused
from aether_bg.model import Insert

pytestmark = pytest.mark.anyio


async def put(world: World, names: str) -> dict[str, BaseException | None]:
    answers: dict[str, BaseException | None] = {}

    def note(name: str, error: BaseException | None) -> None:
        answers[name] = error

    for name in names:
        world.batcher.put(Insert(world.job(name)), note, name)
    await eventually(lambda: len(answers) == len(names))
    return answers


async def test_one_transaction_for_many(make_world: Callable[..., World], running: Any) -> None:
    world = make_world()
    async with running(world.batcher.run):
        assert set((await put(world, "abc")).values()) == {None}
    assert [len(batch) for batch in world.store.batches] == [3]


@pytest.mark.parametrize("error", [StoreContended("a row", "it is locked"), StoreRefused("a", "it is refused")])
async def test_a_batch_is_carried_out_one_by_one(make_world: Callable[..., World], running: Any, error: Any) -> None:
    """One write may be the cause: a row that another transaction holds, or a bad one."""
    world = make_world()
    world.store.trouble = [error, error]
    async with running(world.batcher.run):
        answers = await put(world, "abc")
    assert answers == {"a": error, "b": None, "c": None}


async def test_trouble_of_the_store_is_everyones(make_world: Callable[..., World], running: Any) -> None:
    world, busy = make_world(), StoreBusy("the database", "it is busy")
    world.store.trouble = [busy]
    async with running(world.batcher.run):
        assert set((await put(world, "abc")).values()) == {busy}
    assert len(world.store.batches) == 1


async def test_closed(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.batcher.close()
    with pytest.raises(NotStarted), anyio.fail_after(5):
        await world.batcher.write(Insert(world.job()))
