"""Creating the tables: once, by a role that may; and roles with no more rights than they need."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from aether_bg import Aether, JobStatus, PostgresStore, SchemaMissing, SchemaTooNew, StoreDenied, TablesTaken
from aether_bg.plugins.postgres import schema
from aether_bg.plugins.postgres.connections import Link
from aether_bg.plugins.postgres.places import Place
from aether_bg.testing.postgres import PostgresCluster, require_pgbouncer

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

GRANTS = """
GRANT USAGE ON SCHEMA {s} TO {app};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s} TO {app};
REVOKE INSERT, UPDATE, DELETE ON {s}.meta FROM {app};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {s} TO {app};
"""


async def run_one(store: Any) -> None:
    app = Aether(store, scheduler="timer", grace=1)

    @app.handler("Work")
    async def work() -> None: ...

    async with app:
        assert (await app.wait(await app.enqueue("Work"), timeout=10)).status is JobStatus.COMPLETED
        await app.enqueue("Work", schedule=timedelta(days=1))
        assert (await app.store.stats()).oldest_due is not None
        async with app.unit_of_work() as unit:
            rows = unit.execute("SELECT current_user::text, clock_timestamp()")
        assert isinstance(rows.result[0][1], datetime)


async def test_roles(aether_postgres: PostgresCluster, url: str) -> None:
    """One role owns the tables; the app's only reads and writes rows."""
    database = url.rsplit("/", 1)[1]
    owner, app = f"owner_{database}", f"app_{database}"
    with psycopg.connect(url, autocommit=True) as conn:
        for role in (owner, app):
            conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        conn.execute(sql.SQL("CREATE SCHEMA jobs AUTHORIZATION {}").format(sql.Identifier(owner)))
        as_owner = aether_postgres.server.url(database, role=owner, password="x")
        as_app = aether_postgres.server.url(database, role=app, password="x")
        with pytest.raises(StoreDenied):
            await run_one(PostgresStore(as_app, schema="jobs"))
        with pytest.raises(StoreDenied):
            await run_one(PostgresStore(as_owner, schema="elsewhere"))  # may not make schemas
        assert await PostgresStore(as_owner, schema="jobs").migrate() == ["m001_initial"]
        assert await PostgresStore(as_owner, schema="jobs").migrate() == []
        with pytest.raises(StoreDenied):
            await run_one(PostgresStore(as_app, schema="jobs", migrate="check"))
        with psycopg.connect(as_owner, autocommit=True) as granting:
            granting.execute(sql.SQL(GRANTS).format(s=sql.Identifier("jobs"), app=sql.Identifier(app)))
        for migrate in ("auto", "check", "off"):
            await run_one(PostgresStore(as_app, schema="jobs", migrate=migrate))  # type: ignore[arg-type]
        with psycopg.connect(as_app, autocommit=True) as conn_app:
            for statement in (
                "DROP TABLE jobs.jobs",
                "TRUNCATE jobs.jobs",
                "CREATE TABLE jobs.x ()",
                "DELETE FROM jobs.meta",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn_app.execute(statement.encode())


async def test_the_statements_can_be_run_by_hand(url: str) -> None:
    text = await PostgresStore(url, schema="by_hand").migrate(sql=True)
    assert isinstance(text, str)
    with psycopg.connect(url) as conn:
        conn.execute(text.encode())
    await run_one(PostgresStore(url, schema="by_hand", migrate="check"))


async def test_two_schemas_are_two_stores(url: str) -> None:
    async with Aether(PostgresStore(url, schema="one")) as one, Aether(PostgresStore(url, schema="user")) as two:
        assert (await one.store.stats()).store_id != (await two.store.stats()).store_id
        assert (await two.store.stats()).owners == 1


async def test_a_schema_of_somebody_else(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA taken; CREATE TABLE taken.jobs (id int)")
        with pytest.raises(TablesTaken, match="jobs"):
            await run_one(PostgresStore(url, schema="taken"))
        await PostgresStore(url).migrate()
        conn.execute("INSERT INTO aether_bg.meta VALUES ('step m999_later', '')")
        for migrate in ("auto", "check"):
            with pytest.raises(SchemaTooNew, match="m999_later"):
                await run_one(PostgresStore(url, migrate=migrate))  # type: ignore[arg-type]
        conn.execute("DROP SCHEMA aether_bg CASCADE")
        with pytest.raises(SchemaMissing):
            await run_one(PostgresStore(url, migrate="check"))


MIGRATE = """
import sys, anyio
from aether_bg import PostgresStore
print(anyio.run(PostgresStore(sys.argv[1]).migrate))
"""


def test_eight_processes_make_the_tables_at_once(url: str) -> None:
    command = [sys.executable, "-c", MIGRATE, url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    said = [process.communicate(timeout=60) for process in processes]
    assert sorted(out.strip() for out, _ in said) == sorted(["['m001_initial']", *["[]"] * 7])
    assert [err for _, err in said] == [""] * 8


@pytest.mark.parametrize(
    "settings",
    [
        {"default_transaction_isolation": "serializable"},
        {"default_transaction_isolation": "repeatable read", "TimeZone": "Asia/Tokyo"},
        {"default_transaction_read_only": "on", "DateStyle": "German", "IntervalStyle": "iso_8601"},
        {"statement_timeout": "1s", "search_path": "hostile", "idle_session_timeout": "500ms", "jit": "on"},
        {"standard_conforming_strings": "off", "bytea_output": "escape", "lc_messages": "C"},
    ],
)
async def test_defaults_of_the_database(aether_postgres: PostgresCluster, settings: dict[str, str]) -> None:
    with aether_postgres.database(**settings) as url:
        with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as conn:
            conn.execute("CREATE SCHEMA hostile")
            conn.execute("CREATE FUNCTION hostile.clock_timestamp() RETURNS int LANGUAGE sql AS 'SELECT 1'")
            conn.execute("CREATE FUNCTION hostile.unnest(anyarray) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        await run_one(url)


async def test_defaults_of_the_database_behind_a_pooler(aether_postgres: PostgresCluster) -> None:
    require_pgbouncer()
    with aether_postgres.database(TimeZone="Asia/Tokyo", DateStyle="German") as url:
        pooler = aether_postgres.pgbouncer("transaction")
        await run_one(pooler.url(url.rpartition("/")[2]))
        pooler.kill()


@pytest.mark.parametrize("before", [True, False])
async def test_another_process_makes_the_tables_between_two_looks(
    url: str, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    look = schema.applied

    def applied(conn: Any, name: Any) -> list[str]:
        found = look(conn, name)
        monkeypatch.setattr(schema, "applied", look)
        with Link(Place(url)).connect("schema") as other:
            schema.migrate(other, name, "elsewhere", 5)
        return look(conn, name) if before else found

    monkeypatch.setattr(schema, "applied", applied)
    assert await PostgresStore(url).migrate() == []
    await run_one(PostgresStore(url))
