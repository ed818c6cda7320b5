"""A database read and checked from outside, while an app uses it and while none does."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aether_bg import Aether, JobStatus, StoreError
from aether_bg.model import Purge, Query
from aether_bg.plugins.sqlite import SQLiteStore

pytestmark = pytest.mark.anyio
Make = Callable[..., Aether]


async def test_inspection_sees_an_app_at_work_and_leaves_nothing_behind(make_app: Make, path: Path) -> None:
    app = make_app()
    app.handler("Work")(lambda: None)
    async with app:
        await app.wait(await app.enqueue("Work", "done"), 10)
        await app.enqueue("Work", "later", schedule="@daily")
        async with SQLiteStore(path).inspect() as inspection:
            assert [job.job_name for job in await inspection.store_find(Query())] == ["done", "later"]
            (done,) = await inspection.store_find(Query(job_name="done"))
            assert [run.outcome for run in await inspection.store_history(done.id, 10)] == ["completed"]
            assert (await inspection.store_stats()).completed == 1
            (process,) = await inspection.processes()
            assert (process.state, process.pid, process.handlers) == ("alive", os.getpid(), {"Work"})
            assert await inspection.purgeable(Purge(status=JobStatus.COMPLETED, keep=0)) == 1
            await inspection.writable()
    async with SQLiteStore(path).inspect() as inspection:
        assert await inspection.processes() == []
        assert (await inspection.store_stats()).total == 2


async def test_inspection_writes_nothing(make_app: Make, path: Path) -> None:
    async with make_app():
        pass
    async with SQLiteStore(path).inspect() as inspection:
        with pytest.raises(StoreError):
            await inspection.ask(lambda conn: conn.execute("DELETE FROM aether_meta").fetchall())


async def test_check_reports_findings_as_values(make_app: Make, path: Path) -> None:
    ticks: list[int] = []
    store = SQLiteStore(path)
    app = make_app()
    app.handler("Work")(lambda: None)
    async with app:
        await app.enqueue("Work", "later", schedule="@daily")
        report = await store.check(quick=True, progress=lambda: ticks.append(1))
        assert (report.ok, report.schema, report.findings) == (True, "m001_initial", ())
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE aether_jobs SET due_at = NULL")
    report = await store.check()
    assert not report.ok
    (finding,) = report.findings
    assert (finding.level, finding.code, finding.count) == ("problem", "not_due", 1)


async def test_check_of_a_file_that_is_not_a_database(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such file"):
        await SQLiteStore(path).check()
    assert not path.exists()
