"""A look at a database from outside: `inspect`, `check`, and what is said instead of a backup."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from aether_bg import Aether, JobStatus, PostgresStore, SchemaMissing, StoreBusy, StoreError, Unsupported
from aether_bg.model import Finding, Purge, Query
from aether_bg.plugins.postgres import listing, queries

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


def app_on(url: str) -> Aether:
    app = Aether(url, scheduler="timer")

    @app.handler("Work", concurrency=3)
    async def work() -> None: ...

    return app


def codes(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.code for finding in findings}


async def test_looks_and_changes_nothing(url: str) -> None:
    store = PostgresStore(url)
    with pytest.raises(SchemaMissing, match=r"aether-bg migrate"):
        async with store.inspect():
            pass
    async with app_on(url) as app, store.inspect() as inspection:
        job = await app.enqueue("Work", "one")
        await app.wait(job, timeout=10)
        assert [row.job_name for row in await inspection.store_find(Query())] == ["one"]
        assert (await inspection.store_history(job, 10))[0].outcome == "completed"
        assert (await inspection.store_stats()).completed == 1
        (process,) = await inspection.processes()
        assert (process.state, process.handlers, process.limits) == ("alive", {"Work"}, {"Work": 3})
        assert await inspection.purgeable(Purge(status=JobStatus.COMPLETED)) == 1
        await inspection.writable()
        with pytest.raises(Unsupported, match=r"pg_dump --schema=aether_bg"):
            await inspection.backup(Path("x"), lambda done, total: None)
        with pytest.raises(Unsupported, match="pg_dump"):
            await app.store.backup(Path("x"))
        with pytest.raises(StoreError):
            await inspection.ask(lambda conn: conn.execute("DELETE FROM aether_bg.jobs"))


async def test_declarations_that_are_gone(url: str) -> None:
    for names in (["one", "two"], ["two"]):
        app = app_on(url)
        for name in names:
            app.declare("Work", name, schedule="@daily")
        async with app:
            found = [find for find in (await PostgresStore(url).check()).findings if find.code == "undeclared"]
            wanted = [] if len(names) == 2 else [("note", 1, ["one"])]
            assert [(find.level, find.count, find.examples) for find in found] == wanted
    assert "undeclared" not in codes((await PostgresStore(url).check()).findings)


async def test_check(url: str) -> None:
    store = PostgresStore(url)
    async with app_on(url) as app:
        await app.enqueue("Work", schedule=timedelta(hours=1))
        report = await store.check()
        assert report.ok
        assert not codes(report.findings)
        assert report.schema == "m001_initial"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("UPDATE aether_bg.jobs SET due_at = now() - interval '1 hour'")
        report = await store.check(quick=True)
        assert codes(report.findings) == {"no_process"}
        conn.execute("UPDATE aether_bg.jobs SET status = 1, due_at = NULL, owner = gen_random_uuid()")
        report = await store.check()
        assert codes(report.findings) == {"no_attempt", "orphaned"}
        assert not report.ok
        conn.execute(
            "UPDATE aether_bg.jobs SET status = 0, expression_value = '@lunch', due_at = now() - interval '9 s'"
        )
        assert "unreadable_schedule" in codes((await store.check()).findings)


async def test_what_nobody_can_read_is_refused_by_the_server(url: str) -> None:
    """A row that the store could not read would keep its neighbours from running."""
    async with app_on(url) as app:
        await app.enqueue("Work", schedule=timedelta(hours=1))
        with psycopg.connect(url, autocommit=True) as conn:
            for column, value in (
                ("status", "7"), ("due_at", "'infinity'"), ("anchor", "'0044-03-15 BC'"), ("misfire", "'maybe'"),
                ("extra_properties", "'[]'"), ("payload", "'{\"a\": NaN}'"), ("id", "'no uuid'"),
            ):  # fmt: skip
                with pytest.raises(psycopg.DatabaseError):
                    conn.execute(f"UPDATE aether_bg.jobs SET {column} = {value}")


async def test_names_that_are_no_names(url: str) -> None:
    """A NUL cannot be stored, so nothing has it."""
    store = PostgresStore(url)
    async with app_on(url), store.inspect() as inspection:
        for query in (
            Query(job_name="a\0b"),
            Query(handler_name="\0"),
            Query(name_prefix="\0"),
            Query(error_line="\0"),
        ):
            assert await inspection.store_find(query) == []
        assert await inspection.store_find(Query(metadata={"k": "a\0b"})) == []


async def test_slow_questions_leave_a_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page on a million jobs asks several; the heartbeat and short questions go on beside them."""
    stats, runs = queries.stats, listing.runs
    begun = list[str]()

    def slow(kind: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(conn: Any, *arguments: Any) -> Any:
            begun.append(kind)
            conn.execute("SELECT pg_sleep(3)")
            return ask(conn, *arguments)

        return asked

    monkeypatch.setattr(queries, "stats", slow("stats", stats))
    monkeypatch.setattr(listing, "runs", slow("runs", runs))
    async with app_on(url) as app, anyio.create_task_group() as tasks:
        for question in (app.store.stats, app.store.runs, app.store.stats):
            tasks.start_soon(question)
        with anyio.fail_after(30):
            while not begun:
                await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        assert len(begun) == 1
        assert list(await app.store.find(status=JobStatus.FAILED)) == []
        assert len(begun) == 1, "it did not wait for the slow one"


async def test_a_slow_question_has_a_deadline_while_another_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "stats", lambda conn, *arguments: conn.execute("SELECT pg_sleep(5)"))
    app = Aether(PostgresStore(url, busy=1.0), scheduler="timer")
    async with app.client() as jobs, anyio.create_task_group() as tasks:
        tasks.start_soon(jobs.store.stats)
        await anyio.sleep(0.5)
        with anyio.fail_after(4), pytest.raises(StoreBusy):
            await jobs.store.failures()
