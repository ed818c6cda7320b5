"""Our tables and the user's in one file: docs/protocol.md, W11."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aether_bg import Aether, DeniedSQL, JobStatus, NotADatabase, TablesTaken, UnitOfWork
from aether_bg.plugins.sqlite import SQLiteStore, retention, schema

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]

COMMON_NAMES = ("jobs", "runs", "meta", "owners", "job_status", "_sqlite_migrations", "migrations")


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as conn:
        sql = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND type IN ('table', 'index', 'view')"
        return {name for (name,) in conn.execute(sql)}


async def test_every_name_of_ours_begins_alike(app: Aether, path: Path) -> None:
    async with app:
        await app.store.find()
    assert tables(path)
    assert [name for name in tables(path) if not name.removeprefix("idx_").startswith("aether_")] == []


async def test_tables_of_common_names_are_the_users(make_app: Make, path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        for name in COMMON_NAMES:
            conn.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, status TEXT)")
            conn.execute(f"INSERT INTO {name} (status) VALUES ('mine')")
        conn.commit()
    app = make_app()

    @app.handler("Clear")
    def clear(uow: UnitOfWork) -> None:
        uow.execute("CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, status TEXT)")
        uow.execute("DELETE FROM runs")

    async with app:
        job = await app.enqueue(clear)
        assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
        assert [run.outcome for run in await app.store.history(job)] == ["completed"]
    with closing(sqlite3.connect(path)) as conn:
        assert [conn.execute(f"SELECT status FROM {name}").fetchall() for name in COMMON_NAMES if name != "runs"] == [
            [("mine",)]
        ] * (len(COMMON_NAMES) - 1)
        assert conn.execute("SELECT * FROM runs").fetchall() == []


CHANGES = [
        "DELETE FROM aether_jobs", "DELETE FROM main.aether_runs WHERE outcome IS NULL", 'DELETE FROM "aether_owners"',
        "UPDATE aether_jobs SET status = 2", "UPDATE AETHER_META SET value = 'other'",
        "INSERT INTO aether_meta VALUES ('mine', '')", "REPLACE INTO aether_meta VALUES ('store_id', '')",
        "INSERT OR IGNORE INTO aether_runs SELECT * FROM aether_runs",
        "WITH one AS (SELECT 1) DELETE FROM [aether_runs]",
        "DROP TABLE aether_runs", "DROP TABLE IF EXISTS aether_migrations", "DROP INDEX aether_jobs_ready",
        "ALTER TABLE aether_jobs ADD COLUMN mine TEXT", "ALTER TABLE aether_jobs RENAME TO jobs",
        "ALTER TABLE aether_jobs RENAME COLUMN off_schedule TO x", "ALTER TABLE aether_jobs DROP COLUMN off_schedule",
        "CREATE INDEX mine ON aether_jobs (payload)", "CREATE TABLE aether_mine (id)",
        "CREATE TRIGGER mine AFTER INSERT ON aether_jobs BEGIN SELECT 1; END",
        "DELETE FROM orders WHERE fires", "REINDEX aether_jobs",
]  # fmt: skip


async def test_user_sql_does_not_change_our_tables(app: Aether, path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE orders (fires)")
        conn.execute("INSERT INTO orders VALUES (1)")
        conn.execute("CREATE TRIGGER far AFTER DELETE ON orders BEGIN DELETE FROM aether_jobs; END")
        conn.commit()
    app.handler("Work")(lambda: None)
    async with app:
        job = await app.enqueue("Work")
        await app.wait(job, 10)
        before = tables(path)
        for sql in CHANGES:
            with pytest.raises(
                DeniedSQL, match=r"^a change of (?i:aether_\w+) in a unit .* may only be read\. Use its verbs"
            ):
                async with app.unit_of_work() as uow:
                    uow.execute(sql)
            with pytest.raises(DeniedSQL):
                async with app.unit_of_work() as uow:
                    uow.run(lambda tx, sql=sql: tx.execute(sql))
            assert tables(path) == before, sql
            assert len(await app.store.history(job)) == 1, sql


async def test_user_sql_reads_our_tables(app: Aether, path: Path) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        await app.enqueue("Work", "job")
        async with app.unit_of_work() as uow:
            names = uow.execute("SELECT job_name, s.name FROM aether_jobs JOIN aether_job_status s ON s.id = status")
            uow.execute("CREATE TABLE mine AS SELECT job_name FROM aether_jobs")
            uow.execute("ALTER TABLE mine ADD COLUMN aether_column")
            uow.execute("UPDATE mine SET aether_column = 1")
            uow.execute("ALTER TABLE mine RENAME TO yours")
            uow.execute("CREATE INDEX by_name ON yours (job_name)")
            uow.execute("CREATE TABLE linked (job REFERENCES aether_jobs(id) ON DELETE CASCADE)")
            uow.execute("INSERT INTO linked SELECT id FROM aether_jobs")
            uow.execute("DROP TABLE yours")
    assert names.result[0][0] == "job"


async def test_our_own_text_does_not_bypass_the_check(app: Aether, path: Path) -> None:
    """What the store has compiled for itself is not what the user's same text finds in the cache."""
    app.handler("Work")(lambda: None)
    async with app:
        job = await app.enqueue("Work")
        await app.wait(job, 10)
        with pytest.raises(DeniedSQL):
            async with app.unit_of_work() as uow:
                uow.run(lambda tx: tx.execute(retention.TRIM_HISTORY, {"job": str(job), "history": 0}))
        for text in ("COMMIT", "ROLLBACK", "BEGIN IMMEDIATE", "SAVEPOINT one", "RELEASE one", "ROLLBACK TO one"):
            with pytest.raises(DeniedSQL):
                async with app.unit_of_work() as uow:
                    uow.execute(text)
        assert len(await app.store.history(job)) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE aether_jobs (id)", "CREATE TABLE Aether_Runs (id)", "CREATE VIEW aether_meta AS SELECT 1",
        "CREATE TABLE mine (id); CREATE INDEX aether_jobs_ready ON mine (id)", "CREATE TABLE aether_migrations (id)",
        "CREATE TABLE aether_migrations (id, migration_set, name, applied_at); CREATE TABLE aether_owners (id)",
        "CREATE TABLE mine (id); CREATE INDEX aether_jobs_unarmed ON mine (id)",
    ],
)  # fmt: skip
async def test_a_file_with_foreign_tables_of_our_names_is_refused_unchanged(
    make_app: Make, path: Path, sql: str
) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(sql)
    before = tables(path)
    for _ in range(2):
        with pytest.raises(
            TablesTaken, match=r"it (already )?has (table|view|index) (?i:aether)_.*(Rename it, or|Remove that)"
        ):
            async with make_app():
                pass
    assert tables(path) == before


async def test_a_start_interrupted_before_the_first_step_continues(make_app: Make, path: Path) -> None:
    from sqlite_utils import Database

    with closing(sqlite3.connect(path)) as conn:
        schema.migrations().ensure_migrations_table(Database(conn))
        conn.commit()
    async with make_app() as app:
        assert await app.store.find() == []


async def test_inspection_reports_foreign_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE aether_migrations (id)")
    with pytest.raises(NotADatabase, match="not one of aether_bg"):
        async with SQLiteStore(path).inspect():
            pass
