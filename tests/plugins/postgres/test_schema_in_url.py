"""`?aether_schema=jobs`: the schema of the tables, in a URL. libpq does not get to see it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from aether_bg import Aether, InvalidOption, JobStatus, PostgresStore
from aether_bg.cli.app import cli

pytestmark = pytest.mark.anyio
BASE = "postgresql://ada:s3cr3t@db.example.org/jobs"


@pytest.mark.parametrize(
    ("url", "schema", "rest"),
    [
        (f"{BASE}?aether_schema=mail", "mail", BASE),
        (f"{BASE}?aether_schema=mail&sslmode=require", "mail", f"{BASE}?sslmode=require"),
        (f"{BASE}?sslmode=require&aether_schema=mail&port=1", "mail", f"{BASE}?sslmode=require&port=1"),
        (f"{BASE}?aether%5Fschema=%6dail", "mail", BASE),
        ("postgres://?aether_schema=mail", "mail", "postgres://"),
        ("postgresql:///jobs?host=/run/pg&aether_schema=mail", "mail", "postgresql:///jobs?host=/run/pg"),
        ("postgresql://a,[::1]:5433/jobs?aether_schema=mail", "mail", "postgresql://a,[::1]:5433/jobs"),
        ("postgresql://ada:a?aether_schema=x@host/jobs", "aether_bg", "postgresql://ada:a?aether_schema=x@host/jobs"),
        ("postgresql://ada:a?b@host/jobs?aether_schema=mail", "mail", "postgresql://ada:a?b@host/jobs"),
        (BASE, "aether_bg", BASE),
        ("host=db.example.org dbname=jobs", "aether_bg", "host=db.example.org dbname=jobs"),
    ],
)
def test_it_is_taken_off(url: str, schema: str, rest: str) -> None:
    store = PostgresStore(url)
    assert (store.schema, store._options.place.conninfo) == (schema, rest)


def test_it_is_shown_and_outlives_a_pickle() -> None:
    store = PostgresStore(f"{BASE}?aether_schema=mail")
    assert repr(store) == "<PostgresStore jobs on db.example.org:5432 schema 'mail'>"
    assert repr(pickle.loads(pickle.dumps(store))) == repr(store)
    assert b"s3cr3t" not in pickle.dumps(store)


def test_as_an_argument_too() -> None:
    url = f"{BASE}?aether_schema=mail"
    assert PostgresStore(url, schema="mail", session=url).schema == "mail"
    assert PostgresStore(BASE, session=url).schema == "mail"


@pytest.mark.parametrize(
    "name", ["", "Mail", "pg_mail", 'a"b', "%00", "a%20b", "mail@x", "mail%40x", "mail&aether_schema=mail"]
)
def test_what_no_schema_may_be_called(name: str) -> None:
    with pytest.raises(InvalidOption, match="schema") as raised:
        Aether(f"{BASE}?aether_schema={name}", scheduler="timer")
    assert "s3cr3t" not in str(raised.value)


def test_a_part_of_the_password_is_not_shown() -> None:
    with pytest.raises(InvalidOption) as raised:
        PostgresStore("postgresql://ada:a/b?aether_schema=9@s3cr3t@db.example.org/jobs")
    assert "s3cr3t" not in str(raised.value)


def test_two_that_differ_are_refused() -> None:
    for options in ({"schema": "other"}, {"session": f"{BASE}?aether_schema=other"}):
        with pytest.raises(InvalidOption, match="must be the same") as raised:
            PostgresStore(f"{BASE}?aether_schema=mail", **options)  # type: ignore[arg-type]
        assert "s3cr3t" not in str(raised.value)


async def test_two_schemas_of_one_database_are_two_stores(url: str) -> None:
    apps = [Aether(f"{url}?aether_schema={name}", scheduler="timer") for name in ("one", "two")]
    for app in apps:
        app.handler("Work")(lambda: None)
    async with apps[0], apps[1]:
        assert (await apps[0].wait(await apps[0].enqueue("Work", "job"), 10)).status is JobStatus.COMPLETED
        assert await apps[1].store.get_by_job_name("job") is None
    with psycopg.connect(url) as conn:
        made = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname IN ('one', 'two', 'aether_bg')").fetchall()
    assert sorted(made) == [("one",), ("two",)]


def test_on_the_command_line(url: str, tmp_path: Path) -> None:
    password = url.split(":")[2].split("@")[0]

    def run(*args: object) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="aether-bg", catch_exceptions=False)
        assert password not in result.stdout + result.stderr
        assert result.exit_code == 0, result.stderr
        return result

    mine, copied = f"{url}?aether_schema=mine", f"{url}?aether_schema=copied"
    assert "applied" in run("migrate", mine).stdout
    with Aether(mine, scheduler="timer").blocking(client=True) as jobs:
        jobs.enqueue("Later", "job", schedule="@daily")
    assert [json.loads(line)["job_name"] for line in run("list", mine, "--json").stdout.splitlines()] == ["job"]
    assert "1 jobs copied" in run("copy", mine, copied).stdout
    assert "job" in run("list", copied).stdout
    assert run("check", copied, "--quick").exit_code == 0
    assert '"mine".' in run("migrate", "postgresql://?aether_schema=mine", "--sql").stdout
