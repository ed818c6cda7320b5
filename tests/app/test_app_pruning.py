"""Declarations that are gone from the code. docs/protocol.md, N9."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, InvalidOption, JobStatus, SQLiteStore
from aether_bg.plugins.memory import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture
def release(make_app: Callable[..., Aether]) -> Callable[..., Aether]:
    def make(*names: str, **options: Any) -> Aether:
        app = make_app(options.pop("store", None), **options)

        @app.handler("Work")
        async def work() -> None: ...

        for name in names:
            app.declare("Work", name, schedule="@daily")
        return app

    return make


async def statuses(app: Aether) -> dict[str, JobStatus]:
    return {job.job_name: job.status for job in await app.store.find()}


async def test_named_at_the_start_and_left_alone(
    release: Callable[..., Aether], caplog: pytest.LogCaptureFixture
) -> None:
    async with release("one", "two", "three") as app:
        await app.enqueue("Work", "by hand", schedule="@daily")
    async with release("two") as app:
        assert set((await statuses(app)).values()) == {JobStatus.SCHEDULED}
        assert (await app.health())["ok"]
    lines = [record.message for record in caplog.records if "no code declares" in record.message]
    assert lines == [
        "no code declares these jobs any more: 'one', 'three'; delete them, or pass prune_declared=True",
    ]


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_pruned_with_the_reason(release: Callable[..., Aether], kind: str) -> None:
    options: dict[str, Any] = {"store": MemoryStore()} if kind == "memory" else {}
    async with release("one", "two", **options) as app:
        await app.enqueue("Work", "by hand", schedule="@daily")
    async with release("two", prune_declared=True, **options) as app:
        assert await statuses(app) == {
            "one": JobStatus.CANCELLED, "two": JobStatus.SCHEDULED, "by hand": JobStatus.SCHEDULED,
        }  # fmt: skip
        one = await app.store.get_by_job_name("one")
        assert one is not None
        assert one.last_error == "its declaration is gone from the code"
        assert "its declaration is gone from the code" in await app.explain("one")
    async with release("one", "two", **options) as app:  # a rollback
        assert len([job for job in await app.store.find(job_name="one") if not job.status.terminal]) == 1


async def test_what_another_living_process_declares_stays(release: Callable[..., Aether]) -> None:
    async with release("one") as old:
        async with release("two", prune_declared=True) as new:
            assert (await statuses(new))["one"] is JobStatus.SCHEDULED
        async with release("one", "two", prune_declared=True):
            pass
        async with release("two", prune_declared=True), release("one"):
            assert (await statuses(old))["one"] is JobStatus.SCHEDULED
    async with release("two", prune_declared=True) as new:
        assert (await statuses(new))["one"] is JobStatus.CANCELLED


async def test_marks(release: Callable[..., Aether]) -> None:
    async with release() as app:
        await app.enqueue("Work", "first by hand", schedule="@daily")
    async with release("first by hand", "then by hand") as app:
        assert all(job.declared for job in await app.store.find())
        before = {job.job_name: job.due_at for job in await app.store.find()}
        await app.enqueue("Work", "then by hand", schedule="@hourly", if_exists="replace")
    async with release(prune_declared=True) as app:
        assert await statuses(app) == {
            "first by hand": JobStatus.CANCELLED, "then by hand": JobStatus.SCHEDULED,
        }  # fmt: skip
    assert before["first by hand"] is not None


async def test_check_names_them(release: Callable[..., Aether], path: Path) -> None:
    async with release("one", "two"):
        pass
    async with release("two"):
        report = await SQLiteStore(path).check(quick=True, progress=lambda: None)
        (finding,) = [finding for finding in report.findings if finding.code == "undeclared"]
        assert (finding.level, finding.count, finding.examples) == ("note", 1, ["one"])
    report = await SQLiteStore(path).check(quick=True, progress=lambda: None)
    assert not [finding for finding in report.findings if finding.code == "undeclared"]


async def test_a_handlers_schedule_is_a_declaration(make_app: Callable[..., Aether]) -> None:
    first, second = make_app(), make_app(prune_declared=True)

    @first.handler("Nightly", schedule="@daily")
    async def nightly() -> None: ...

    async with first:
        pass
    async with second:
        assert await statuses(second) == {"Nightly": JobStatus.CANCELLED}


def test_it_is_a_flag() -> None:
    with pytest.raises(InvalidOption, match="prune_declared must be True or False"):
        Aether(":memory:", prune_declared="yes")  # type: ignore[arg-type]
