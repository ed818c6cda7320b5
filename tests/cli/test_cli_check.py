"""`check`: each thing it finds is made by hand, and a sound database has none."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from aether_bg import Aether
from aether_bg.plugins import _findings
from aether_bg.plugins.sqlite import check as check_module
from aether_bg.plugins.sqlite.check import CONTRADICTIONS

Run = Callable[..., Result]

NOBODY = "99999999-0000-7000-8000-000000000000"
OWNER = (
    "INSERT INTO aether_owners (id, host, pid, started_at, beat, beat_at, handlers) "
    f"VALUES ('{NOBODY}', 'box', 7, '{{at}}', 1, '{{at}}', '{{handlers}}')"
)


Statement = str | Callable[[], str]
"""SQL, or a function that makes it, where it speaks of now."""


def tamper(db: Path, *statements: Statement) -> None:
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        for sql in statements:
            conn.execute(sql if isinstance(sql, str) else sql())


def owner(ago: float, handlers: str = '["Ok"]') -> str:
    at = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="microseconds")[:26] + "Z"
    return OWNER.format(at=at, handlers=handlers)


def due(ago: float, job: str = "later") -> str:
    at = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="microseconds")[:26] + "Z"
    return f"UPDATE aether_jobs SET due_at = '{at}' WHERE job_name = '{job}'"


def findings(run: Run, db: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by code."""
    result = run("check", db, "--json", *options)
    told = json.loads(result.stdout)
    assert told["ok"] is (result.exit_code == 0)
    return result.exit_code, {finding["code"]: finding for finding in told["findings"]}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_findings, "_SETTLING", 0.01)


@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_a_sound_database(run: Run, db: Path, options: list[str]) -> None:
    assert findings(run, db, *options) == (0, {})
    assert run("check", db, *options).stdout == "ok (schema m001_initial)\n"


TAMPERED: list[tuple[str, list[Statement]]] = [
    ("status", ["UPDATE aether_jobs SET status = 9 WHERE job_name = 'ok-0'"]),
    ("not_due", ["UPDATE aether_jobs SET due_at = NULL WHERE job_name = 'later'"]),
    ("due_though_ended", ["UPDATE aether_jobs SET due_at = '2030-01-01T00:00:00.000000Z' WHERE job_name = 'ok-0'"]),
    ("no_owner", ["UPDATE aether_jobs SET status = 1, due_at = NULL WHERE job_name = 'later'"]),
    ("no_attempt", [f"UPDATE aether_jobs SET status = 1, owner = '{NOBODY}' WHERE job_name = 'later'"]),
    ("open_attempt", ["UPDATE aether_runs SET outcome = NULL WHERE outcome = 'failed'"]),
    ("unreadable", ["UPDATE aether_jobs SET payload = '{oops' WHERE job_name = 'later'"]),
    ("unreadable", ["UPDATE aether_jobs SET extra_properties = '' WHERE job_name = 'ok-1'"]),
    ("orphaned", [f"UPDATE aether_jobs SET status = 1, owner = '{NOBODY}' WHERE job_name = 'later'"]),
    ("foreign_keys", ["INSERT INTO aether_runs (job_id, token, gap, attempt, count, outcome) "
                      "VALUES ('x', 1, 0, 1, 1, 'failed')"]),
    ("schema", ["DROP INDEX aether_jobs_ready"]),
    ("schema", ["DROP TABLE aether_owners"]),
    ("schema", ["ALTER TABLE aether_jobs RENAME COLUMN off_schedule TO more"]),
    ("no_process", [lambda: due(5)]),
    ("no_handler", [lambda: due(5), lambda: owner(0, '["Other"]')]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "statements"), TAMPERED, ids=[f"{i}-{code}" for i, (code, _) in enumerate(TAMPERED)])
def test_what_is_wrong(run: Run, db: Path, code: str, statements: list[Statement]) -> None:
    tamper(db, *statements)
    exit_code, found = findings(run, db)
    assert exit_code == 1
    assert found[code]["level"] == "problem"
    assert found[code]["examples"]
    text = run("check", db)
    assert text.exit_code == 1
    assert any(line.split()[:2] == ["problem", code] for line in text.stdout.splitlines())
    assert text.stdout.splitlines()[-1] == f"problems: {len(found)}"


def test_every_contradiction_is_tried() -> None:
    assert {code for code, *_ in CONTRADICTIONS} <= {code for code, _ in TAMPERED}


def test_the_handler_that_is_missing_is_named(run: Run, db: Path) -> None:
    tamper(db, due(5), owner(0, '["Other"]'))
    assert findings(run, db)[1]["no_handler"]["examples"][0].startswith("Ok since 20")


@pytest.mark.parametrize(
    ("code", "statements"),
    [("overdue", [lambda: due(90), lambda: owner(0)]), ("silent", [lambda: owner(90)])],
)
def test_what_may_be_in_order_is_a_note(run: Run, db: Path, code: str, statements: list[Statement]) -> None:
    tamper(db, *statements)
    exit_code, found = findings(run, db)
    assert (exit_code, list(found)) == (0, [code])
    assert found[code]["level"] == "note"
    assert "ok (schema" in run("check", db).stdout


def test_a_job_just_due_or_paused_is_not_a_finding(run: Run, db: Path) -> None:
    tamper(db, due(90, "held"), due(-60))
    assert findings(run, db) == (0, {})  # though no process lives
    tamper(db, owner(0))
    assert findings(run, db) == (0, {})


def test_a_large_wal_is_a_note(run: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "_LARGE_WAL", 1000)
    with closing(sqlite3.connect(db)) as conn:
        conn.execute("UPDATE aether_jobs SET modified_by = 'me'")
        conn.commit()
        exit_code, found = findings(run, db)
    assert (exit_code, found["wal_size"]["level"]) == (0, "note")
    assert found["wal_size"]["count"] == os.stat(f"{db}-wal").st_size if Path(f"{db}-wal").exists() else True


def test_the_scheduler_index_is_not_missed(run: Run, db: Path) -> None:
    """An index that a push scheduler makes is neither required nor in the way."""
    tamper(db, "CREATE INDEX aether_jobs_unarmed ON aether_jobs (due_at)")
    assert findings(run, db) == (0, {})


@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_damage(run: Run, tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "damaged.db"
    app = Aether(path, scheduler="timer")
    app.handler("Ok")(lambda args: None)
    with app.blocking() as jobs:
        for number in range(200):
            jobs.enqueue("Ok", f"{number:04}", {"text": "x" * 500}, "@daily")
    data = bytearray(path.read_bytes())
    for page in range(4, len(data) // 4096, 3):
        data[page * 4096 : page * 4096 + 200] = os.urandom(200)
    path.write_bytes(data)
    exit_code, found = findings(run, path, *options)
    assert exit_code == 1
    assert found["damaged"]["level"] == "problem"
    text = run("check", path, *options)
    assert text.stdout.replace("\n", "").isprintable()
