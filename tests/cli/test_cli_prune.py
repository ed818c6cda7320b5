"""`prune`: declared jobs that the code declares no more. docs/protocol.md, N9."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from aether_bg import Aether, JobStatus

Run = Callable[..., Result]
CODE = """
from aether_bg import Aether
app = Aether("elsewhere.db", scheduler="timer")
@app.handler("Work")
def work(): ...
app.declare("Work", "stays", schedule="@daily")
"""


def release(path: Path, *names: str) -> Aether:
    app = Aether(path, scheduler="timer")
    app.handler("Work")(lambda: None)
    for name in names:
        app.declare("Work", name, schedule="@daily")
    return app


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database in which the last release declared `stays`, `gone` and `gone too`; `by hand` was enqueued."""
    path = tmp_path / "jobs.db"
    with release(path, "stays", "gone", "gone too").blocking() as jobs:
        jobs.enqueue("Work", "by hand", schedule="@daily")
    (tmp_path / "released.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "released", raising=False)
    return path


def statuses(path: Path) -> dict[str, JobStatus]:
    with Aether(path, scheduler="timer").blocking(client=True) as jobs:
        return {job.job_name: job.status for job in jobs.store.find()}


APP = ("--app", "released:app")


def test_names_and_ends_them(run: Run, old: Path) -> None:
    told = run("prune", old, *APP, "--dry-run")
    assert told.stdout == (
        "prune gone: would be CANCELLED\nprune gone too: would be CANCELLED\n2 jobs would be cancelled.\n"
    )
    assert set(statuses(old).values()) == {JobStatus.SCHEDULED}
    done = json.loads(run("prune", old, *APP, "--yes", "--json").stdout)
    assert done == {"gone": ["gone", "gone too"], "ended": ["gone", "gone too"], "dry_run": False}
    assert {name for name, status in statuses(old).items() if status is JobStatus.SCHEDULED} == {"stays", "by hand"}
    row = json.loads(run("show", old, "gone", "--json").stdout)
    assert row["last_error"] == "its declaration is gone from the code"
    assert row["modified_by"].startswith("aether-bg")
    assert run("prune", old, *APP, "--yes").stdout == "0 jobs cancelled.\n"


def test_what_a_living_process_declares_stays(run: Run, old: Path) -> None:
    with release(old, "gone", "stays").blocking():
        assert run("prune", old, *APP, "--yes").stdout == "prune gone too: CANCELLED\n1 jobs cancelled.\n"


def test_it_needs_an_app_and_a_word(run: Run, old: Path) -> None:
    for arguments in (["--yes"], APP, ["--app", "released:nothing", "--yes"]):
        result = run("prune", old, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
    assert set(statuses(old).values()) == {JobStatus.SCHEDULED}


def test_asks_on_a_terminal(old: Path, on_a_terminal: Callable[..., tuple[str, str]]) -> None:
    prune = ["prune", old, *APP]
    said, out = on_a_terminal(prune, [*prune, "--dry-run"], prune, typed="n\ny\n", piped=True)
    assert said.count("gone too\r\nCancel these 2 jobs?") == 2
    assert re.findall(r"\[exit (\d)\]", said) == ["1", "0", "0"]
    assert "2 jobs would be cancelled.\n" in out
    assert "2 jobs cancelled.\n" in out
    assert list(statuses(old).values()).count(JobStatus.SCHEDULED) == 2
