"""What is wrong with the command, the file or the job: one line on stderr, an exit code, and nothing touched."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from aether_bg.plugins.sqlite import inspection
from aether_bg.plugins.sqlite.schema import STEPS

Run = Callable[..., Result]

COMMANDS: list[list[str]] = [
    ["list"], ["show", "x"], ["history", "x"], ["explain", "x"], ["stats"], ["check"], ["purge", "--yes"],
    ["purge", "--dry-run"], ["retry", "x"], ["delete", "x"], ["pause", "x"], ["resume", "x"], ["trigger", "x"],
]  # fmt: skip
every_command = pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command) for command in COMMANDS])
machine_or_not = pytest.mark.parametrize("machine", [[], ["--json"]], ids=["text", "json"])


def refused(result: Result, code: int, said: str) -> None:
    assert result.exit_code == code
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.startswith("aether-bg")
    assert result.stderr.count("\n") == 1
    assert result.stderr[:-1].isprintable()


@every_command
@machine_or_not
def test_a_missing_database_is_not_made(run: Run, tmp_path: Path, command: list[str], machine: list[str]) -> None:
    refused(run(command[0], tmp_path / "no.db", *command[1:], *machine), 1, "there is no such file")
    refused(run(command[0], tmp_path / "no" / "no.db", *command[1:], *machine), 1, "there is no such file")
    assert list(tmp_path.iterdir()) == []


@every_command
def test_another_programs_database_is_left_alone(run: Run, tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    refused(run(command[0], path, *command[1:]), 1, "it is not one of aether_bg")
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["other.db"]


@every_command
def test_a_file_that_is_not_a_database(run: Run, tmp_path: Path, db: Path, command: list[str]) -> None:
    text, link = tmp_path / "a\x1b[1m.txt", tmp_path / "link.db"
    text.write_text("hello, I am no database")
    link.symlink_to(db)
    refused(run(command[0], text, *command[1:]), 1, "it is not a SQLite database")
    refused(run(command[0], link, *command[1:]), 1, "it is a link")
    refused(run(command[0], tmp_path, *command[1:]), 1, "it is a folder")


@pytest.mark.parametrize("command", [*(c for c in COMMANDS if c[1:] == ["x"]), ["list", "--handler"]], ids=" ".join)
def test_a_name_that_is_not_text(run: Run, db: Path, command: list[str]) -> None:
    """Python passes the bytes of an argument that are not UTF-8 on as surrogates."""
    options = command[1:] if command[0] == "list" else []
    code = 2 if command[0] in ("list", "show", "history", "explain") else 1  # the others go on with the next job
    refused(run(command[0], db, *options, os.fsdecode(b"caf\xe9")), code, "surrogates")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("INSERT INTO aether_migrations (migration_set, name, applied_at) VALUES ('aether_bg', 'm999_new', '')",
         "it was written by a newer aether_bg (schema step m999_new)"),
        ("UPDATE aether_migrations SET name = 'm000_old' WHERE migration_set = 'aether_bg'", "m000_old"),
        ("DELETE FROM aether_migrations", "it is not one of aether_bg"),
    ],
)  # fmt: skip
@every_command
def test_another_versions_database(run: Run, db: Path, command: list[str], sql: str, said: str) -> None:
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute(sql)
    refused(run(command[0], db, *command[1:]), 1, said)


def test_an_older_database_is_not_brought_up_to_date_in_passing(
    run: Run, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "STEPS", (*STEPS, "m998_coming"))
    for command in COMMANDS:
        refused(run(command[0], db, *command[1:]), 1, "it was written by an older aether_bg (schema step m998_coming")


@pytest.mark.parametrize("command", ["show", "history", "explain"])
@machine_or_not
def test_a_job_that_is_not_there(run: Run, db: Path, command: str, machine: list[str]) -> None:
    for job in ("nope", "018f0000-0000-7000-8000-000000000000", "a\nb\x1b"):
        refused(run(command, db, job, *machine), 1, "there is no job with that id or name")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lst"], "No such command 'lst'"),
        (["list"], "aether-bg list: Missing argument 'DB'"),
        (["list", "x.db", "--stauts", "failed"], "Did you mean '--status'? See aether-bg list --help."),
        (["list", "x.db", "--status", "done"], "'done' is not one of"),
        (["list", "x.db", "--limit", "0"], "Invalid value for '--limit'"),
        (["list", "x.db", "--after", "7"], "is not a job's id"),
        (["list", "x.db", "--metadata", "OrderId"], "is not KEY=VALUE"),
        (["pause", "x.db"], "pause takes one of the two"),
        (["list", "x.db", "a\x1b[1m\r\nb"], "unexpected extra argument"),
    ],
)
def test_usage(run: Run, args: list[str], said: str) -> None:
    refused(run(*args), 2, said)


def test_a_page_after_a_job_that_was_purged(run: Run, db: Path) -> None:
    gone = "018f0000-0000-7000-8000-000000000000"
    refused(run("list", db, "--after", gone), 1, "there is no such job, so no page after it")


def test_a_row_that_cannot_be_read_is_listed_with_what_is_wrong(run: Run, db: Path) -> None:
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE aether_jobs SET created_at = 'yesterday' WHERE job_name = 'later'")
    result = run("list", db, "--json")
    assert result.exit_code == 0
    (row,) = [job for line in result.stdout.splitlines() if (job := json.loads(line))["job_name"] == "later"]
    assert "created_at is 'yesterday'" in row["last_error"]


def test_a_database_that_may_not_be_read(run: Run, db: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    db.chmod(0)
    refused(run("list", db), 1, "it cannot be read")


# -- as a process --------------------------------------------------------------------------------


def test_as_a_process(db: Path) -> None:
    """And where the encoding does not have our characters."""
    command = [sys.executable, "-m", "aether_bg.cli"]
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    ok = subprocess.run([*command, "list", str(db)], capture_output=True, check=False, env=latin)
    assert (ok.returncode, ok.stderr) == (0, b"")
    assert b"\x1b" not in ok.stdout  # no colour without a terminal
    assert rb"\u65e5\u672c" in ok.stdout
    no = subprocess.run([*command, "show", str(db), "x"], capture_output=True, check=False)
    assert (no.returncode, no.stdout) == (1, b"")
    assert no.stderr.startswith(b"aether-bg: job 'x': there is no job")


def test_colour_on_a_terminal_only(db: Path, on_a_terminal: Callable[..., tuple[str, str]]) -> None:
    failed = ["list", db, "-s", "failed"]
    said, _ = on_a_terminal(failed, [{"NO_COLOR": "1"}, *failed])
    with_colour, without, _ = said.split("[exit 0]")
    assert "\x1b[31mFAILED" in with_colour
    assert "FAILED" in without
    assert "\x1b" not in without


@pytest.mark.parametrize(
    ("redirected", "command", "code", "said"),
    [
        ("<&- >&-", "purge", 2, "needs --yes"),
        (">/dev/full", "list", 1, "the operating system refused it (OSError: [Errno 28] No space left on device)"),
    ],
    ids=["closed", "full"],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_streams_that_are_closed_or_full(db: Path, redirected: str, command: str, code: int, said: str) -> None:
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "aether_bg.cli", command, str(db)]
    ended = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1), ended.stderr
    assert said in ended.stderr
