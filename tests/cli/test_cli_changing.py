"""`retry`, `delete`, `pause`, `resume`, `trigger`, `purge`: alone on a database, and what they refuse."""

from __future__ import annotations

import fcntl
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from aether_bg.cli import output
from aether_bg.plugins.sqlite import inspection

Run = Callable[..., Result]


def row(run: Run, db: Path, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("show", db, job, "--json").stdout)
    return found


def test_pause_and_resume(run: Run, db: Path) -> None:
    assert run("pause", db, "later").stdout == "pause later: SCHEDULED and paused\n"
    paused = row(run, db, "later")
    assert paused["paused"] is True
    assert paused["modified_by"].startswith("aether-bg")
    assert run("pause", db, "later").stdout == "pause later: it was so already; SCHEDULED and paused\n"
    assert run("resume", db, "later").stdout.startswith("resume later: SCHEDULED, due 20")
    resumed = row(run, db, "later")
    assert (resumed["paused"], resumed["due_at"]) == (False, paused["due_at"])
    assert resumed["seq"] > paused["seq"]


def test_trigger(run: Run, db: Path) -> None:
    before = row(run, db, "hourly")
    (done,) = map(json.loads, run("trigger", db, "hourly", "--json").stdout.splitlines())
    assert list(done) == ["verb", "asked", "ok", "changed", "job", "error"]
    assert (done["verb"], done["asked"], done["ok"], done["changed"]) == ("trigger", "hourly", True, True)
    assert (done["job"]["manual"], done["job"]["off_schedule"]) == (True, True)
    assert done["job"]["due_at"] < before["due_at"]
    assert json.loads(run("trigger", db, "hourly", "--json").stdout)["changed"] is False


def test_retry(run: Run, db: Path) -> None:
    assert run("retry", db, "broken", "gone").exit_code == 0
    back = row(run, db, "broken")
    assert (back["status"], back["last_error"], back["crash_count"]) == ("scheduled", None, 0)
    assert row(run, db, "gone")["holds_name"] is True
    refused = run("retry", db, "ok-0")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == (
        "aether-bg: retry of job 'ok-0': it is COMPLETED. Only FAILED and CANCELLED jobs can be retried; to run "
        "this one again, purge it, or enqueue it under another name.\n"
    )


def test_delete(run: Run, db: Path) -> None:
    assert run("delete", db, "later").stdout == "delete later: CANCELLED\n"
    assert row(run, db, "later")["holds_name"] is False
    again = run("delete", db, "later", "--json")
    assert again.exit_code == 1
    told = json.loads(again.stdout)
    assert (told["ok"], told["changed"]) == (False, False)
    assert "it is CANCELLED: nothing is left to delete" in told["error"]


def test_one_that_refuses_does_not_keep_the_others(run: Run, db: Path) -> None:
    result = run("pause", db, "later", "nope", "ok-0", "hourly")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["pause later: SCHEDULED and paused", "pause hourly: SCHEDULED and paused"]
    missing, ended = result.stderr.splitlines()
    assert missing.startswith("aether-bg: job 'nope': there is no job with that id or name.")
    assert ended.startswith("aether-bg: pause of job 'ok-0': it is COMPLETED.")


def test_a_name_that_looks_like_an_id_is_still_a_name(run: Run, db: Path) -> None:
    name = "018f0000-0000-7000-8000-000000000000"
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE aether_jobs SET job_name = ? WHERE job_name = 'later'", [name])
    assert run("pause", db, name).exit_code == 0
    assert row(run, db, name)["paused"] is True


def test_a_write_lock_that_hangs_is_an_error(run: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "LOCKED", 0.2)
    with open(f"{db}-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run("pause", db, "later")
    assert result.exit_code == 1
    assert "another program has held its write lock past the deadline" in result.stderr
    assert row(run, db, "later")["paused"] is False


# -- purge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], []),
        (["--status", "completed"], ["broken", "gone"]),
        (["-s", "failed", "-s", "CANCELLED"], ["ok-0", "ok-1", "ok-2"]),
        (["--keep", "1"], ["broken", "gone", "ok-2"]),
        (["--keep", "2", "--status", "completed"], ["broken", "gone", "ok-1", "ok-2"]),
        (["--older-than", "1d12h"], ["broken", "gone", "ok-0", "ok-1", "ok-2"]),
        (["--older-than", "0s"], []),
        (["--older-than", "0s", "--keep", "1"], ["broken", "gone", "ok-2"]),
    ],
)
def test_purge(run: Run, db: Path, options: list[str], left: list[str]) -> None:
    told = json.loads(run("purge", db, *options, "--dry-run", "--json").stdout)
    assert list(told) == ["matching", "purged", "dry_run", "status", "before", "keep"]
    assert (told["matching"], told["purged"]) == (5 - len(left), 0)
    done = json.loads(run("purge", db, *options, "--yes", "--json").stdout)
    assert (done["matching"], done["purged"]) == (5 - len(left), 5 - len(left))
    ended = ["-s", "completed", "-s", "failed", "-s", "cancelled"]
    found = [json.loads(line)["job_name"] for line in run("list", db, *ended, "--json").stdout.splitlines()]
    assert sorted(found) == left
    assert json.loads(run("stats", db, "--json").stdout)["scheduled"] == 4  # live jobs are never touched


@pytest.mark.parametrize("length", ["7", "d", "-1d", "1y", "1.5h", "99999999w", "٧d", ""])
def test_purge_refuses_a_length(run: Run, db: Path, length: str) -> None:
    result = run("purge", db, f"--older-than={length}", "--yes")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a length of time" in result.stderr
    assert json.loads(run("stats", db, "--json").stdout)["completed"] == 3


def test_purge_needs_yes_without_a_terminal(run: Run, db: Path) -> None:
    result = run("purge", db)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert run("purge", db, "--yes").stdout == "5 jobs purged.\n"
    assert run("purge", db, "--dry-run").stdout == "0 jobs would be purged.\n"


def test_purge_asks_on_a_terminal(db: Path, on_a_terminal: Callable[..., tuple[str, str]]) -> None:
    purge, count = ["purge", db], ["purge", db, "--dry-run"]
    said, out = on_a_terminal(purge, count, purge, count, typed="n\ny\n", piped=True)
    assert said.count("Delete 5 ended jobs and their history?") == 2
    assert re.findall(r"\[exit (\d)\]", said) == ["1", "0", "0", "0"]
    assert out.splitlines() == ["5 jobs would be purged.", "5 jobs purged.", "0 jobs would be purged."]


class Terminal:
    """A stderr that says it is one."""

    def __init__(self, tty: bool) -> None:
        self.tty, self.text = tty, ""

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


@pytest.mark.parametrize("tty", [True, False])
def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
    terminal = Terminal(tty)
    monkeypatch.setattr(sys, "stderr", terminal)
    with output.progress_bar("purging", 12_000) as bar:
        bar.update(3_000)
    if not tty:
        assert terminal.text == ""
        return
    assert "purging" in terminal.text
    assert "25%" in terminal.text
    assert terminal.text.count("\n") == 1
