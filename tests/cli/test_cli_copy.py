"""`copy`: a store's jobs, history and names in another store, also after an interruption."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from click.testing import Result

from aether_bg import Aether, JobConflict, JobInfo, JobStatus
from aether_bg._app.operator import operating
from aether_bg.model import Insert

Run = Callable[..., Result]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target.db"


def rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    """All of it, but for what a new scheduler has to be told again."""
    with closing(sqlite3.connect(path)) as conn:
        conn.row_factory = sqlite3.Row
        found = [dict(row) for row in conn.execute(f"SELECT * FROM {table}")]
    return sorted(tuple((k, v) for k, v in row.items() if k != "armed_seq") for row in found)


def counts(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def same(one: Path, other: Path) -> bool:
    return all(rows(one, table) == rows(other, table) for table in ("aether_jobs", "aether_runs"))


def test_all_of_a_store_is_in_its_copy(run: Run, db: Path, target: Path) -> None:
    result = run("copy", db, target)
    assert result.exit_code == 0
    assert "verified" in result.stdout
    assert "Start nothing on it" in result.stderr
    assert same(db, target)
    assert run("check", target, "--json").exit_code in (0, 1)  # some wait for a process with their handler
    again = counts(run("copy", db, target, "--json"))
    assert (again["copied"], again["renewed"], again["runs"], again["verified"]) == (0, 0, 0, True)


def test_paused_handlers_stay_paused(run: Run, db: Path, target: Path) -> None:
    with Aether(db, scheduler="timer").blocking() as jobs:
        jobs.pause(handler="Ok")
    assert run("copy", db, target).exit_code == 0
    assert json.loads(run("stats", target, "--json").stdout)["paused_handlers"] == ["Ok"]


def test_jobs_go_on_in_the_copy(run: Run, db: Path, target: Path) -> None:
    assert run("copy", db, target).exit_code == 0
    app, ran = Aether(target, scheduler="timer"), list[str]()

    @app.handler("Ok")
    def ok(args: dict[str, Any] | None = None) -> None:
        ran.append("ok")

    with app.blocking() as jobs:
        done = jobs.store.get_by_job_name("ok-1")
        assert done is not None
        assert jobs.enqueue("Ok", "ok-1") == done.id  # its name is held as before
        with pytest.raises(JobConflict):
            jobs.enqueue("Ok", "held", schedule="@hourly")
        jobs.trigger("later")
        assert jobs.wait("later", 10).status is JobStatus.COMPLETED
    moved = counts(run("copy", db, target, "--json"))
    assert (moved["moved_on"], moved["verified"]) == (1, True)
    assert ran == ["ok"]


def test_refused_while_a_process_runs(run: Run, db: Path, target: Path, work: Callable[[Path], Any]) -> None:
    with work(db):
        result = run("copy", db, target)
        assert result.exit_code == 1
        assert "runs its jobs" in result.stderr
        assert "--ended" in result.stderr
        ended = counts(run("copy", db, target, "--ended", "--json"))
        assert ended["verified"]
        assert ended["copied"] >= 5
        assert ended["left"] > 0
    rest = counts(run("copy", db, target, "--json"))
    assert rest["verified"]
    assert rest["already"] + rest["renewed"] >= ended["copied"]
    assert same(db, target)


def test_what_has_changed_since_is_brought_up_to_date(run: Run, db: Path, target: Path) -> None:
    assert run("copy", db, target, "--ended").exit_code == 0
    assert run("retry", db, "broken").exit_code == 0
    assert run("resume", db, "held").exit_code == 0
    result = counts(run("copy", db, target, "--json"))
    assert (result["renewed"], result["verified"]) == (1, True)
    assert same(db, target)


def test_jobs_of_a_dead_process_are_taken_back_in_the_copy(
    run: Run, db: Path, target: Path, work: Callable[[Path], Any]
) -> None:
    app = Aether(db, scheduler="timer")
    with app.blocking(client=True) as jobs:
        id_ = jobs.enqueue("Slow", "slow", {"seconds": 60})
    with work(db) as worker:
        deadline = time.monotonic() + 30
        while json.loads(run("show", db, "slow", "--json").stdout)["status"] != "running":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.kill()
        assert run("copy", db, target).exit_code == 0
    other, ran = Aether(target, scheduler="timer"), list[Any]()

    @other.handler("Slow")
    def slow(args: dict[str, Any]) -> None:
        ran.append(args)

    with other.blocking() as jobs:
        job = jobs.wait(id_, 20)
    assert (job.status, job.crash_count, len(ran)) == (JobStatus.COMPLETED, 0, 1)


def test_a_copy_that_is_killed_goes_on(run: Run, tmp_path: Path, target: Path) -> None:
    db, many = tmp_path / "many.db", 1000  # five transactions
    app = Aether(db, scheduler="timer")
    with app.blocking(client=True) as jobs:
        jobs.enqueue_many(
            [{"handler": "Later", "job_name": f"n{n}", "schedule": timedelta(days=1)} for n in range(many)]
        )
    command = [sys.executable, "-m", "aether_bg.cli", "copy", str(db), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while copied_so_far(target) <= 200 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    result = counts(run("copy", db, target, "--json"))
    assert (result["copied"] + result["already"], result["verified"]) == (many, True)
    assert result["already"] > 0
    assert same(db, target)


def copied_so_far(target: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as conn:
            count: int = conn.execute("SELECT count(*) FROM aether_jobs").fetchone()[0]
            return count
    except sqlite3.OperationalError:  # no file, or no table, so far
        return 0


def test_a_row_that_cannot_be_read_is_named_and_the_rest_copied(run: Run, db: Path, target: Path) -> None:
    with closing(sqlite3.connect(db)) as conn:
        conn.execute("UPDATE aether_jobs SET anchor = 'soon' WHERE job_name = 'later'")
        conn.commit()
    result = run("copy", db, target, "--json")
    said = counts(result)
    assert (result.exit_code, said["verified"], len(said["unreadable"]), said["missing"]) == (1, False, 1, 0)
    assert UUID(said["unreadable"][0])
    assert len(rows(target, "aether_jobs")) == len(rows(db, "aether_jobs")) - 1


def test_a_name_that_is_taken_in_the_target_is_reported(run: Run, db: Path, target: Path) -> None:
    with Aether(target, scheduler="timer").blocking(client=True) as jobs:
        jobs.enqueue("Other", "later", schedule=timedelta(days=1))
    result = run("copy", db, target)
    assert result.exit_code == 1
    assert "another job holds it" in result.stderr
    assert "1 jobs refused by the target" in result.stderr
    assert len(rows(target, "aether_jobs")) == len(rows(db, "aether_jobs"))


@pytest.mark.parametrize("wrong", ["same", "no source", "no folder", "scheme"])
def test_wrong_stores(run: Run, db: Path, tmp_path: Path, wrong: str) -> None:
    source, target = {
        "same": (db, db), "no source": (tmp_path / "none.db", tmp_path / "t.db"),
        "no folder": (db, tmp_path / "none" / "t.db"), "scheme": (db, "redis://localhost:secret@host/1"),
    }[wrong]  # fmt: skip
    before = rows(db, "aether_jobs")
    result = run("copy", source, target)
    assert result.exit_code in (1, 2)
    assert result.stderr.count("\n") <= 1
    assert "secret" not in result.stderr
    assert rows(db, "aether_jobs") == before
    assert not (tmp_path / "none.db").exists()


def test_backup_to_a_url_names_copy(run: Run, db: Path) -> None:
    result = run("backup", db, "postgresql://localhost/jobs")
    assert result.exit_code == 2
    assert "aether-bg copy" in result.stderr


def test_a_file_needs_no_migrate(run: Run, db: Path) -> None:
    result = run("migrate", db)
    assert result.exit_code == 1
    assert "applies them when it starts" in result.stderr


def test_links_between_jobs_come_along(run: Run, tmp_path: Path, target: Path) -> None:
    db = tmp_path / "family.db"
    now = datetime.now(UTC)
    about: dict[str, Any] = {
        "handler_name": "Ok", "expression_value": "@once", "created_at": now, "modified_at": now, "anchor": now,
        "due_at": now, "occurrence": now,
    }  # fmt: skip

    def job(number: int, **fields: Any) -> JobInfo:
        return JobInfo(id=UUID(int=number), job_name=f"job-{number}", **about | fields)

    done = {"status": JobStatus.COMPLETED, "due_at": None, "handled_time": now}
    family = [
        Insert(job(5)), Insert(job(6, **done)), Insert(job(7, parents=2), (UUID(int=5), UUID(int=6))),
        Insert(job(1, parents=1), (UUID(int=7),)),  # older by its id than its parent
        Insert(job(8, parents=1, **done), (UUID(int=6),)),
    ]  # fmt: skip

    async def fill() -> None:
        async with operating(Aether(db, scheduler="timer")) as operator:
            await operator.calls.transact(family)

    anyio.run(fill)
    ended = counts(run("copy", db, target, "--ended", "--json"))
    assert (ended["copied"], ended["left"], ended["verified"]) == (2, 3, True)
    result = counts(run("copy", db, target, "--json"))
    assert (result["copied"], result["already"], result["verified"]) == (3, 2, True)
    assert same(db, target)
    assert rows(db, "aether_links") == rows(target, "aether_links")
