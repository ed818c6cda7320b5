"""The command line on a URL: it reads, acts, checks, copies and migrates; no password in what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aether_bg import Aether, JobStatus
from aether_bg.cli.app import cli
from aether_bg.testing.postgres import PostgresCluster

Run = Callable[..., Result]


@pytest.fixture
def run(url: str) -> Iterator[Run]:
    password, said = url.split(":")[2].split("@")[0], list[str]()

    def invoke(*args: object) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="aether-bg", catch_exceptions=False)
        said.append(result.stdout + result.stderr)
        assert "Traceback" not in result.stderr
        return result

    yield invoke
    assert len(password) == 24
    assert not any(password in text for text in said)


@pytest.fixture
def jobs(url: str) -> str:
    """Two COMPLETED, one FAILED, one paused, one that waits."""
    app = Aether(url, scheduler="timer")

    @app.handler("Ok")
    def ok(args: Any = None) -> None: ...

    @app.handler("Fails")
    def fails(args: Any = None) -> None:
        raise ValueError("no \0 way")

    with app.blocking() as verbs:
        for number in range(2):
            verbs.wait(verbs.enqueue("Ok", f"ok-{number}", {"text": "\0"}), 20)
        verbs.wait(verbs.enqueue("Fails", "broken", metadata={"OrderId": 1}), 20)
        verbs.enqueue("Ok", "later", schedule=timedelta(days=1))
        verbs.enqueue("Ok", "held", schedule="@daily")
        verbs.pause("held")
    return url


def test_reading(run: Run, jobs: str) -> None:
    listed = [json.loads(line) for line in run("list", jobs, "--json").stdout.splitlines()]
    assert [job["job_name"] for job in listed] == ["ok-0", "ok-1", "broken", "later", "held"]
    assert json.loads(run("show", jobs, "broken", "--json").stdout)["status"] == "failed"
    assert json.loads(run("list", jobs, "--metadata", "OrderId=1", "--json").stdout)["job_name"] == "broken"
    assert json.loads(run("stats", jobs, "--json").stdout)["completed"] == 2
    assert len(json.loads(run("history", jobs, "broken", "--json").stdout.splitlines()[0])) > 5
    assert "failed" in run("explain", jobs, "broken").stdout


def test_acting(run: Run, jobs: str) -> None:
    assert run("retry", jobs, "broken").exit_code == 0
    assert run("resume", jobs, "held").exit_code == 0
    assert run("delete", jobs, "later").exit_code == 0
    assert "2 jobs purged" in run("purge", jobs, "--status", "completed", "--yes").stdout
    states = {
        job["job_name"]: job["status"] for job in map(json.loads, run("list", jobs, "--json").stdout.splitlines())
    }
    assert states == {"broken": "scheduled", "held": "scheduled", "later": "cancelled"}


def codes(result: Result) -> dict[str, str]:
    return {finding["code"]: finding["level"] for finding in json.loads(result.stdout)["findings"]}


def test_check(run: Run, jobs: str) -> None:
    sound = run("check", jobs, "--json")
    assert (sound.exit_code, codes(sound)) == (0, {})
    now = datetime.now(UTC) - timedelta(seconds=10)
    with psycopg.connect(jobs, autocommit=True) as conn:
        conn.execute("UPDATE aether_bg.jobs SET due_at = NULL WHERE job_name = 'later'")
        conn.execute("UPDATE aether_bg.jobs SET due_at = %s, paused = false WHERE job_name = 'held'", [now])
        conn.execute("UPDATE aether_bg.jobs SET status = 1, owner = gen_random_uuid() WHERE job_name = 'ok-0'")
    broken = run("check", jobs, "--json")
    assert broken.exit_code == 1
    assert codes(broken) == {
        "not_due": "problem", "no_attempt": "problem", "orphaned": "problem", "no_process": "problem",
    }  # fmt: skip
    assert "no live process" in run("check", jobs).stdout


def test_migrate(run: Run, url: str) -> None:
    missing = run("list", url)
    assert missing.exit_code == 1
    assert "aether-bg migrate" in missing.stderr
    sql = run("migrate", url, "--sql")
    assert "CREATE TABLE" in sql.stdout
    assert run("list", url).exit_code == 1  # nothing was made
    assert "m001_initial" in run("migrate", url).stdout
    assert "nothing to do" in run("migrate", url).stdout
    assert run("list", url).exit_code == 0


def test_sql_of_migrate_is_enough(run: Run, url: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute(run("migrate", "postgresql://", "--sql").stdout.encode())
    assert json.loads(run("stats", url, "--json").stdout)["scheduled"] == 0
    assert "nothing to do" in run("migrate", url).stdout


def test_backup_says_what_to_use_instead(run: Run, jobs: str, tmp_path: Path) -> None:
    result = run("backup", jobs, tmp_path / "copy.db")
    assert result.exit_code == 1
    assert "pg_dump" in result.stderr
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("wrong", ["port", "password", "database", "url"])
def test_wrong_urls_are_one_line(run: Run, url: str, aether_postgres: PostgresCluster, wrong: str) -> None:
    given = {
        "port": url.replace(str(aether_postgres.server.port), "1"),
        "password": aether_postgres.server.url(password="s3cret-and-wrong"),
        "database": f"{url}_none", "url": "postgresql://u:s3cret-and-wrong@[::",
    }[wrong]  # fmt: skip
    for command in (["list", given], ["check", given], ["migrate", given], ["retry", given, "x"]):
        result = run(*command)
        assert result.exit_code in (1, 2)
        assert result.stderr.count("\n") == 1
        assert "s3cret" not in result.stderr


def test_copy_from_a_file_and_back(run: Run, url: str, tmp_path: Path) -> None:
    source, back = tmp_path / "jobs.db", tmp_path / "back.db"
    app = Aether(source, scheduler="timer")

    @app.handler("Work")
    def work(args: Any = None) -> None:
        if args == {"fail": True}:
            raise ValueError("no \0 way")

    with app.blocking() as verbs:
        verbs.wait(verbs.enqueue("Work", "done", {"text": 'a"b\\{}\0é', "float": 1e308}), 20)
        verbs.wait(verbs.enqueue("Work", "failed", {"fail": True}), 20)
        for number in range(450):
            verbs.enqueue("Work", f"n{number}", schedule=timedelta(days=1))
        verbs.enqueue("Work", "hourly", schedule="30 2 * * *", timezone="Europe/Berlin", metadata={"k": 1})
        verbs.pause("hourly")
        verbs.delete("n0")
        verbs.enqueue("Work", "n0", schedule=timedelta(days=2))  # its name once more
    result = json.loads(run("copy", source, url, "--json").stdout)
    assert (result["copied"], result["runs"], result["verified"]) == (454, 2, True)
    assert json.loads(run("copy", source, url, "--json").stdout)["copied"] == 0
    assert json.loads(run("copy", url, back, "--json").stdout)["copied"] == 454

    def all_of(store: object) -> list[dict[str, Any]]:
        lines = run("list", store, "--limit", 1000, "--json").stdout.splitlines()
        return [{key: value for key, value in json.loads(line).items() if key != "armed_seq"} for line in lines]

    assert all_of(source) == all_of(url) == all_of(back)
    for job in ("done", "failed"):
        assert run("history", source, job, "--json").stdout == run("history", url, job, "--json").stdout
    moved = Aether(url, scheduler="timer")
    moved.handler("Work")(work)
    with moved.blocking() as verbs:
        verbs.trigger("n7")
        assert verbs.wait("n7", 20).status is JobStatus.COMPLETED
        assert (
            verbs.enqueue("Work", "done", {"text": 'a"b\\{}\0é', "float": 1e308})
            == verbs.store.find(job_name="done")[0].id
        )
