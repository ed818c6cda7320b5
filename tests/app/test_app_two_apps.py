"""Two apps in one process, each on its own store: neither joins the other's units of work (docs/protocol.md, W6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from aether_bg import Aether, InsideUnitOfWork, UnitOfWork

pytestmark = pytest.mark.anyio


@pytest.fixture
async def apps(tmp_path: Path) -> AsyncIterator[tuple[Aether, Aether]]:
    one, other = Aether(tmp_path / "one.db"), Aether(tmp_path / "other.db")
    for app in (one, other):
        app.handler("Work")(lambda: None)

    @one.handler("Both")
    async def both(uow: UnitOfWork) -> None:
        await one.enqueue("Work", "mine")
        await other.enqueue("Work", "theirs")
        raise RuntimeError("nothing of mine happens")

    async with one, other:
        yield one, other


async def names(app: Aether) -> set[str]:
    return {job.job_name for job in await app.store.find()}


async def test_an_enqueue_goes_to_the_store_of_its_own_app(apps: tuple[Aether, Aether]) -> None:
    one, other = apps
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with one.unit_of_work():
            await one.enqueue("Work", "mine")
            await other.enqueue("Work", "theirs")
            await other.enqueue_many([{"handler": "Work", "job_name": "many"}])
            assert await names(other) == {"theirs", "many"}
            raise ZeroDivisionError
    assert await names(one) == set()
    assert await names(other) == {"theirs", "many"}


async def test_verbs_of_the_other_app_are_not_inside(apps: tuple[Aether, Aether]) -> None:
    one, other = apps
    async with one.unit_of_work():
        job_id = await other.enqueue("Work", "theirs", schedule="@daily")
        await other.pause(job_id)
        await other.delete(job_id)
        with pytest.raises(InsideUnitOfWork):
            await one.delete(job_id)


async def test_blocks_of_both_nest_and_each_enqueue_finds_its_own(apps: tuple[Aether, Aether]) -> None:
    one, other = apps
    async with one.unit_of_work() as outer:
        async with other.unit_of_work() as inner:
            assert inner is not outer
            await one.enqueue("Work", "mine")
            await other.enqueue("Work", "theirs")
            async with one.unit_of_work() as again:
                assert again is outer
            assert await names(one) == await names(other) == set()
        assert await names(other) == {"theirs"}
        assert await names(one) == set()
        await one.enqueue("Work", "later")
    assert await names(one) == {"mine", "later"}


async def test_from_a_thread(apps: tuple[Aether, Aether]) -> None:
    one, other = apps

    def work() -> None:
        with one.sync.unit_of_work() as outer, other.sync.unit_of_work() as inner:
            assert inner is not outer
            one.sync.enqueue("Work", "mine")
            other.sync.enqueue("Work", "theirs")
            with one.sync.unit_of_work() as again:
                assert again is outer

    await anyio.to_thread.run_sync(work)
    assert (await names(one), await names(other)) == ({"mine"}, {"theirs"})


async def test_in_a_handler(apps: tuple[Aether, Aether]) -> None:
    one, other = apps
    await one.enqueue("Both", "both")
    await one.wait("both", 20)
    await other.wait("theirs", 20)
    assert await names(one) == {"both"}
