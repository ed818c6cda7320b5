"""Callers of the batcher: each waits for its own write, and one that is cancelled leaves the others alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from aether_bg import NotStarted, StoreBusy, StoreContended, StoreRefused, StoreUnsure
from aether_bg._kernel.batcher import Batcher
from aether_bg.model import Insert, Write
from aether_bg.testing.contracts.values import a_job

pytestmark = pytest.mark.anyio


class Store:
    """Keeps what is committed; the first transaction waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.refuse: dict[str, Exception] = {}
        self.whole: Exception | None = None
        self.free = anyio.Event()

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        names = [write.job.job_name for write in writes if isinstance(write, Insert)]
        self.batches.append(names)
        await self.free.wait()
        if self.whole is not None and len(writes) > 1:
            raise self.whole
        for name in names:
            if name in self.refuse:
                raise self.refuse[name]
        return [None] * len(writes)


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[Batcher]:
    batcher = Batcher(store.transact)
    async with anyio.create_task_group() as group:
        group.start_soon(batcher.run)
        yield batcher
        group.cancel_scope.cancel()


async def write(batcher: Batcher, names: Sequence[str], store: Store) -> dict[str, str]:
    """Write all of them at once; the name of the error of each that was refused."""
    errors: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            await batcher.write(Insert(a_job(name)))
        except Exception as error:
            errors[name] = type(error).__name__

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(one, name)
        await anyio.sleep(0.02)
        store.free.set()
    return errors


async def test_writes_of_one_moment_share_a_batch() -> None:
    store = Store()
    async with running(store) as batcher:
        assert await write(batcher, ["a", "b", "c", "d"], store) == {}
        assert batcher.idle
    assert sorted(map(len, store.batches)) == [1, 3]


async def test_a_refused_write_fails_alone() -> None:
    store = Store()
    store.refuse["b"] = StoreRefused("a write", "it is refused")
    async with running(store) as batcher:
        assert await write(batcher, ["a", "b", "c", "d"], store) == {"b": "StoreRefused"}


@pytest.mark.parametrize(("trouble", "failed"), [(StoreContended, 0), (StoreBusy, 3)])
async def test_a_contended_batch_goes_one_by_one_and_a_busy_store_fails_it(
    trouble: type[Exception], failed: int
) -> None:
    store = Store()
    store.whole = trouble("the store", "another program holds a lock")
    async with running(store) as batcher:
        assert len(await write(batcher, ["a", "b", "c", "d"], store)) == failed


async def test_a_cancelled_caller_leaves_the_others_their_answers() -> None:
    store = Store()
    async with running(store) as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.write, Insert(a_job("first")))
        await anyio.sleep(0.02)
        with anyio.move_on_after(0.02) as gone:
            await batcher.write(Insert(a_job("cancelled")))
        assert gone.cancelled_caught
        assert await write(batcher, ["last"], store) == {}


async def test_after_the_end_a_write_gets_an_error() -> None:
    store = Store()
    store.free.set()
    async with running(store) as batcher:
        batcher.close()
        with pytest.raises(NotStarted):
            await batcher.write(Insert(a_job("late")))


async def test_a_stop_during_a_commit_leaves_it_unsure_and_what_waits_unstored() -> None:
    store, answers = Store(), dict[str, BaseException | None]()
    batcher = Batcher(store.transact)
    async with anyio.create_task_group() as group:
        group.start_soon(batcher.run)
        for name in ("first", "second"):
            batcher.put(Insert(a_job(name)), answers.__setitem__, name)
        await anyio.wait_all_tasks_blocked()
        batcher.put(Insert(a_job("third")), answers.__setitem__, "third")
        group.cancel_scope.cancel()
    assert store.batches == [["first", "second"]]
    assert {name: type(error) for name, error in answers.items()} == {
        "first": StoreUnsure, "second": StoreUnsure, "third": NotStarted,
    }  # fmt: skip
