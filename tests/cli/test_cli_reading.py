"""`list`, `show`, `history`, `stats`, `explain`, `next`: what they print, for people and for machines."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import Result

from aether_bg import JobInfo, JobRun, JobStatus
from aether_bg.cli.app import cli

Run = Callable[..., Result]


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def names(result: Result) -> list[str]:
    return [job["job_name"] for job in lines(result)]


# -- list ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], ["ok-0", "ok-1", "ok-2", "broken", "later", "hourly", "日本", "held", "gone"]),
        (["--status", "completed"], ["ok-0", "ok-1", "ok-2"]),
        (["-s", "FAILED", "-s", "cancelled"], ["broken", "gone"]),
        (["--handler", "Fails"], ["broken"]),
        (["--handler", "Nothing"], []),
        (["--metadata", "OrderId=123"], ["broken"]),
        (["-m", "OrderId=123", "-m", "tenant=a"], []),
        (["-m", 'OrderId="123"'], []),
        (["--status", "scheduled", "--limit", "2"], ["later", "hourly"]),
    ],
)
def test_list_filters(run: Run, db: Path, filters: list[str], found: list[str]) -> None:
    result = run("list", db, *filters, "--json")
    assert (result.exit_code, names(result)) == (0, found)


def test_list_by_pages(run: Run, db: Path) -> None:
    for order in ("created", "due"):
        seen: list[str] = []
        after: list[str] = []
        while page := lines(run("list", db, "--order", order, "--limit", 2, *after, "--json")):
            seen += [job["job_name"] for job in page]
            after = ["--after", page[-1]["id"]]
        assert sorted(seen) == sorted(names(run("list", db, "--json")))
    waiting = lines(run("list", db, "-s", "scheduled", "--order", "due", "--json"))
    assert [job["due_at"] for job in waiting] == sorted(job["due_at"] for job in waiting)


def test_list_for_people(run: Run, db: Path) -> None:
    result = run("list", db, "--limit", 5)
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["ID", "STATUS", "HANDLER", "NAME", "DUE", "HANDLED", "TRY", "ERROR"]
    assert len(rows) == 5
    column = header.index("NAME")
    assert [row[column:].split()[0] for row in rows] == ["ok-0", "ok-1", "ok-2", "broken", "later"]
    assert rows[3].endswith("ValueError: no")
    last = lines(run("list", db, "--limit", 5, "--json"))[-1]["id"]
    assert f"for the next page: --after {last}" in result.stderr
    assert "SCHEDULED*" in run("list", db, "-s", "scheduled").stdout
    nothing = run("list", db, "--handler", "Nothing")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "No job matches.\n")


def test_wide_characters_keep_the_columns(run: Run, db: Path) -> None:
    header, *rows = run("list", db, "-s", "scheduled").stdout.splitlines()
    wide = next(row for row in rows if "日本" in row)
    assert wide.index("  20") + 2 == header.index("DUE") - 2  # two characters, each two columns wide


# -- show, history, stats ------------------------------------------------------------------------


def test_json_keys_are_those_of_the_model(run: Run, db: Path) -> None:
    job = json.loads(run("show", db, "broken", "--json").stdout)
    assert list(job) == [field.name for field in attrs.fields(JobInfo)]
    assert job["status"] == "failed"
    assert job["extra_properties"] == {"OrderId": 123, "tenant": "a\x1b"}
    assert job["payload"]["é"] == 1
    assert datetime.fromisoformat(job["created_at"]).utcoffset() == timedelta(0)
    (run_,) = lines(run("history", db, "broken", "--json"))
    assert list(run_) == [field.name for field in attrs.fields(JobRun)]
    assert run_["outcome"] == "failed"
    assert lines(run("list", db, "-s", "failed", "--json")) == [job]


def test_show_for_people(run: Run, db: Path) -> None:
    text = run("show", db, "日本").stdout
    assert "job_name:      日本\n" in text
    assert "schedule:      30 2 * * MON (at 02:30 every Monday, Europe/Berlin)\n" in text
    assert "status:        SCHEDULED\n" in text
    assert "status:        SCHEDULED, paused\n" in run("show", db, "held").stdout
    job_id = json.loads(run("show", db, "later", "--json").stdout)["id"]
    assert run("show", db, job_id).stdout == run("show", db, "later").stdout
    assert '    "OrderId": 124' in run("show", db, job_id).stdout


def test_local_times(run: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        for command in (["list", db], ["show", db, "ok-0"], ["history", db, "ok-0"], ["explain", db, "ok-0"]):
            assert "+05:45" in run(*command, "--local").stdout
            assert "+05:45" not in run(*command).stdout
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_history_for_people(run: Run, db: Path) -> None:
    header, row = run("history", db, "broken").stdout.splitlines()
    assert header.split() == ["OCCURRENCE", "TRY", "OUTCOME", "STARTED", "FINISHED", "TOOK", "COUNT", "ERROR"]
    assert row.split()[1:3] == ["1", "failed"]
    assert row.endswith("ValueError: no")
    nothing = run("history", db, "later")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "It has no history yet.\n")


def test_stats(run: Run, db: Path) -> None:
    counts = json.loads(run("stats", db, "--json").stdout)
    expected = {"scheduled": 4, "running": 0, "completed": 3, "failed": 1, "cancelled": 1, "paused": 1, "total": 9}
    assert {name: counts[name] for name in expected} == expected
    assert counts["by_handler"]["Fails"] == {"failed": 1}
    assert counts["processes"] == []
    text = run("stats", db).stdout
    assert "completed:    3\n" in text
    assert [line.split() for line in text.splitlines() if line.startswith("Fails")] == [["Fails", *"00010--"]]


def test_explain(run: Run, db: Path) -> None:
    told = json.loads(run("explain", db, "later", "--json").stdout)
    assert list(told) == ["job", "waiting_for", "sentences", "runs"]
    assert told["waiting_for"] == "time"
    assert "No live process runs jobs on this store now: start the app by then." in told["sentences"]
    assert json.loads(run("explain", db, "held", "--json").stdout)["waiting_for"] == "resume"
    failed = json.loads(run("explain", db, "broken", "--json").stdout)
    assert (failed["waiting_for"], failed["runs"][0]["outcome"]) == (None, "failed")
    assert run("explain", db, "broken").stdout.splitlines()[2].startswith("It failed for good at ")


def test_reading_leaves_the_file_as_it_is(run: Run, db: Path) -> None:
    before = hashlib.sha256(db.read_bytes()).hexdigest()
    for command in (["list"], ["stats"], ["check"], ["show", "ok-0"], ["history", "ok-0"], ["explain", "ok-0"],
                    ["purge", "--dry-run"]):  # fmt: skip
        assert run(command[0], db, *command[1:]).exit_code == 0
    assert hashlib.sha256(db.read_bytes()).hexdigest() == before
    assert {path.name for path in db.parent.iterdir()} <= {"jobs.db", "jobs.db-wal", "jobs.db-shm"}


def test_reading_never_checkpoints(run: Run, db: Path, tmp_path: Path) -> None:
    """After a crash the WAL is for to the processes that take the write lock (docs/protocol.md, P5), not to readers."""
    left = tmp_path / "crashed.db"
    with closing(sqlite3.connect(db)) as conn:
        conn.execute("UPDATE aether_jobs SET modified_by = 'me'")
        conn.commit()
        for suffix in ("", "-wal"):
            shutil.copy(f"{db}{suffix}", f"{left}{suffix}")
    wal = Path(f"{left}-wal").read_bytes()
    assert wal
    assert {job["modified_by"] for job in lines(run("list", left, "--json"))} == {"me"}
    assert run("check", left).exit_code == 0
    assert Path(f"{left}-wal").read_bytes() == wal


@pytest.mark.parametrize("machine", [[], ["--json"]])
def test_nothing_stored_reaches_a_terminal_raw(run: Run, db: Path, machine: list[str]) -> None:
    for command in (["list"], ["show", "broken"], ["history", "broken"], ["explain", "broken"], ["stats"],
                    ["retry", "broken"]):  # fmt: skip
        result = run(command[0], db, *command[1:], *machine)
        assert result.exit_code == 0
        for text in (result.stdout, result.stderr):
            assert text.replace("\n", "").isprintable(), command
            assert "\r" not in text
    assert "\\x1b[31mway" in run("show", db, "broken").stdout or "\\u001b[31mway" in run("show", db, "broken").stdout


def test_names_that_no_app_would_accept_are_escaped_too(run: Run, db: Path) -> None:
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute(
            "UPDATE aether_jobs SET job_name = ?, handler_name = ? WHERE job_name = 'later'", ["a\x1b[1m\nb", "\x9bH"]
        )
    for command in (["list"], ["stats"], ["show", "a\x1b[1m\nb"], ["explain", "a\x1b[1m\nb"], ["pause", "a\x1b[1m\nb"]):
        text = run(command[0], db, *command[1:]).stdout
        assert "\\x1b" in text or "\\x9b" in text
        assert text.replace("\n", "").isprintable(), command


# -- next ----------------------------------------------------------------------------------------


def test_next_flags_what_daylight_saving_moves_and_doubles(run: Run) -> None:
    moved = run("next", "30 2 * * *", "--timezone", "Europe/Berlin", "-n", 2, "--after", "2026-03-28T00:00:00Z")
    words, header, plain, flagged = moved.stdout.splitlines()
    assert words == "30 2 * * *: at 02:30 every day, Europe/Berlin"
    assert header.split() == ["LOCAL", "UTC", "NOTE"]
    assert plain == "Sat 2026-03-28 02:30:00 CET +01:00   2026-03-28T01:30:00Z"
    assert flagged.startswith(
        "Sun 2026-03-29 03:00:00 CEST +02:00  2026-03-29T01:00:00Z  moved: 2026-03-29 02:30:00 does"
    )
    doubled = run("next", "*/30 2 * * *", "-z", "Europe/Berlin", "--after", "2026-10-25T00:00:00Z", "--json")
    told = json.loads(doubled.stdout)
    assert list(told) == ["schedule", "timezone", "description", "recurring", "after", "upcoming"]
    assert [one["note"] for one in told["upcoming"]] == [None, "doubled", "doubled", None, None]
    assert told["upcoming"][1]["local"] == "2026-10-25T02:00:00+01:00"
    assert told["upcoming"][1]["at"] == "2026-10-25T01:00:00.000000Z"
    assert told["upcoming"][1]["reason"]


def test_next_counts_an_interval_from_the_instant_given(run: Run) -> None:
    told = json.loads(run("next", "@every 90m", "-n", 2, "--after", "2026-01-01T01:00:00+01:00", "--json").stdout)
    assert [one["at"][:16] for one in told["upcoming"]] == ["2026-01-01T01:30", "2026-01-01T03:00"]
    assert told["timezone"] is None


@pytest.mark.parametrize(
    ("instant", "first"), [("0001-01-01T00:00:00+14:00", "0001-01-0"), ("9999-12-31T23:59:59-14:00", None)]
)
def test_next_at_the_edge_of_the_calendar(run: Run, instant: str, first: str | None) -> None:
    for option in ("--after", "--start"):
        result = run("next", "0 0 * * *", "-n", 1, option, instant, "--json")
        upcoming = json.loads(result.stdout)["upcoming"]
        assert result.exit_code == (0 if upcoming else 1)
        assert first is None or option == "--start" or upcoming[0]["at"].startswith(first)


def test_next_counts_days_and_weeks_from_the_start_given(run: Run) -> None:
    text = ("next", "@every 2 weeks at 09:00", "-z", "Europe/Berlin", "-n", 2)
    result = run(*text, "--start", "2026-01-05T00:00:00Z", "--after", "2026-03-01T00:00:00Z", "--json")
    assert [one["local"] for one in json.loads(result.stdout)["upcoming"]] == [
        "2026-03-02T09:00:00+01:00", "2026-03-16T09:00:00+01:00",
    ]  # fmt: skip
    result = run(*text, "--start", "2026-03-02T08:00:00Z", "--after", "2026-03-01T00:00:00Z", "--json")
    assert json.loads(result.stdout)["upcoming"][0]["at"] == "2026-03-02T08:00:00.000000Z"


def test_next_shows_when_a_job_with_jitter_is_due(run: Run) -> None:
    text = ("next", "@hourly", "--jitter", "600", "--after", "2026-01-01T00:00:00Z", "-n", 2)
    one, other = (json.loads(run(*text, "--job", name, "--json").stdout)["upcoming"] for name in ("one", "other"))
    assert one[0]["at"] == other[0]["at"] == "2026-01-01T01:00:00.000000Z"
    assert one[0]["due"] != other[0]["due"]
    assert "2026-01-01T01:00:00" < one[0]["due"] < "2026-01-01T01:10:00"
    assert run(*text, "--job", "one").stdout.splitlines()[1].split() == ["TIME", "UTC", "DUE", "NOTE"]
    assert run("next", "@hourly", "--jitter", "-1").exit_code == 2


def test_next_without_a_coming_instant_says_no(run: Run) -> None:
    result = run("next", "@once")
    assert (result.exit_code, result.stdout) == (1, "@once: once, now\n")
    assert "nothing comes after that" in result.stderr
    assert json.loads(run("next", "@once", "--json").stdout)["upcoming"] == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["1,,2 * * * *"], "aether-bg: schedule '1,,2 * * * *', minute: "),
        (["@daily", "--timezone", "Mars/Base"], "Mars/Base"),
        (["@daily", "--after", "2026-01-01T00:00:00"], "has no zone, so it names no instant"),
        (["@daily", "--after", "tomorrow"], "is not an instant in ISO 8601"),
        (["@daily", "-n", "0"], "aether-bg next: Invalid value for '-n'"),
        (["a\x1b[1mb"], "aether-bg: schedule"),
    ],
)
def test_next_refuses(run: Run, args: list[str], said: str) -> None:
    result = run("next", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr[:-1].isprintable()


# -- help ----------------------------------------------------------------------------------------


def test_every_command_has_help_with_an_example_and_json(run: Run) -> None:
    for name, command in cli.commands.items():
        result = run(name, "--help")
        assert result.exit_code == 0
        assert f"  aether-bg {name} " in result.stdout
        assert "--json" in result.stdout or name == "web"
        assert not command.get_short_help_str(60).endswith("...")
    assert run().exit_code == 2
    assert run("-h").exit_code == 0


def test_every_status_can_be_asked_for(run: Run, db: Path) -> None:
    for status in JobStatus:
        assert {job["status"] for job in lines(run("list", db, "-s", status.name, "--json"))} <= {status.name.lower()}
