"""A row that cannot be read, or cannot be claimed, stops neither its neighbours nor any start."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from click.testing import CliRunner

from aether_bg import Aether, InvalidTransition, JobStatus, NewJob
from aether_bg.cli.app import cli

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

Make = Callable[..., Aether]

DEEP = "[" * 100_000 + "]" * 100_000
FAR = "'9999-12-31T23:59:59.999999Z'"

POISON = {
    "anchor is no date": "anchor = '2026-13-45'",
    "anchor is no text": "anchor = x'00ff'",
    "anchor has no zone": "anchor = '2026-01-01T00:00:00'",
    "anchor is not in UTC": "anchor = '2026-01-01T00:00:00.000000+02:00'",
    "payload is a BLOB": "payload = x'00ff00'",
    "payload is no UTF-8": "payload = CAST(x'22ff22' AS TEXT)",
    "payload is deep": f"payload = '{DEEP}'",
    "payload is fairly deep": f"payload = '{'[' * 400}{']' * 400}'",
    "metadata are deep": f"extra_properties = '{DEEP}'",
    "metadata are a list": "extra_properties = '[1]'",
    "metadata are a BLOB": "extra_properties = x'7b7d'",
    "status 99": "status = 99",
    "status -1": "status = -1",
    "status is text": "status = 'abc'",
    "seq is text": "seq = 'abc'",
    "seq is a BLOB": "seq = x'01'",
    "seq is the largest": "seq = 9223372036854775807",
    "schedule_rev is text": "schedule_rev = 'x'",
    "attempt is text": "attempt = 'x'",
    "crash_count is a BLOB": "crash_count = x'01'",
    "misfire is a word": "misfire = 'sometimes'",
    "grace is infinite": "misfire_grace = 9e999",
    "grace is text": "misfire_grace = 'soon'",
    "revision is infinite": "schedule_rev = -9e999",
    "repeats is text": "repeats = 'many'",
    "until is no date": "until = 'tomorrow'",
    "occurrence is no date": "occurrence = 'x'",
    "occurrence has no zone": "occurrence = '2026-01-01T00:00:00'",
    "last_occurrence is a number": "last_occurrence = 5",
    "created_at is no date": "created_at = ''",
    "handled_time is a BLOB": "handled_time = x'00'",
    "due_at is early text": "due_at = '1'",
    "due_at is late text": "due_at = 'zzz'",
    "due_at is missing": "due_at = NULL",
    "due_at is a BLOB": "due_at = x'00'",
    "due_at has no zone": "due_at = '2020-01-01'",
    "handler_name is a BLOB": "handler_name = x'4f6b'",
    "job_name is a BLOB": "job_name = x'4f6b'",
    "job_name is no UTF-8": "job_name = CAST(x'ff' AS TEXT)",
    "schedule is a BLOB": "expression_value = x'00'",
    "timezone is a BLOB": "timezone = x'00'",
    "owner is no UUID": "status = 1, owner = 'me'",
    "owner is missing": "status = 1, owner = NULL",
    "owner is a BLOB": "status = 1, owner = x'00'",
    "running, anchor is no date": "status = 1, owner = '99999999-0000-7000-8000-000000000000', anchor = 'x'",
    "id is no UUID": "id = 'abc'",
    "id is a BLOB": "id = x'00'",
    "id is in upper case": "id = upper(id)",
    "id has braces": "id = '{' || id || '}'",
    "id has no dashes": "id = replace(id, '-', '')",
    "owner is in upper case": "status = 1, owner = '99999999-ABCD-7000-8000-000000000000'",
    "paused is 7": "paused = 7",
    "trigger_pending is text": "trigger_pending = 'x'",
    "everything": "anchor = '', payload = x'00', seq = 'x', created_at = 'x', repeats = 'x', misfire = 1",
}


@pytest.fixture
def sold() -> list[str]:
    return []


@pytest.fixture
def make(make_app: Make, sold: list[str]) -> Make:
    def made(**options: Any) -> Aether:
        app = make_app(**options)

        @app.handler("Ok")
        async def ok(args: Any) -> None:
            sold.append(args)

        return app

    return made


def poison(path: Path, change: str, name: str = "bad") -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        assert conn.execute(f"UPDATE aether_jobs SET {change} WHERE job_name = ?", [name]).rowcount == 1


GOOD = [f"good-{number}" for number in range(4)]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with five jobs of handler Ok, due now: `bad` and its neighbours."""
    path = tmp_path_factory.mktemp("five") / "jobs.db"
    app = Aether(path, scheduler="timer")
    app.handler("Ok")(lambda args: None)
    with app.blocking(client=True) as jobs:
        jobs.enqueue_many([NewJob("Ok", name, name) for name in ("bad", *GOOD)])
    return path


@pytest.fixture
def stored(five: Path, path: Path) -> Callable[[str], None]:
    """A copy of those jobs at `path`, of which `bad` is poisoned."""

    def store(change: str) -> None:
        shutil.copy(five, path)
        poison(path, change)

    return store


def ids(path: Path) -> dict[Any, Any]:
    with closing(sqlite3.connect(path)) as conn:
        conn.text_factory = bytes
        return dict(conn.execute("SELECT id, status FROM aether_jobs").fetchall())


def aether_bg(*args: object) -> Any:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="aether-bg")


QUIET = ("attempt is text", "seq is", "due_at", "owner is missing", "job_name is no UTF-8", "crash_count is a BLOB")
LOUD = [name for name in POISON if not name.startswith(QUIET)]


@pytest.mark.parametrize("change", POISON)
async def test_the_app_starts_the_neighbours_run_and_it_can_be_deleted_and_purged(
    make: Make, stored: Callable[[str], None], path: Path, sold: list[str], change: str
) -> None:
    stored(POISON[change])
    app = make()
    async with app:
        with anyio.fail_after(20):
            while len([one for one in sold if one != "bad"]) < len(GOOD):
                await anyio.sleep(0.02)
        later = await app.enqueue("Ok", "later", "later")
        assert (await app.wait(later, 10)).status is JobStatus.COMPLETED
        health = await app.health()
        assert health["stats"] is not None
        assert "scheduler" not in health["problems"], "it would begin nothing for seconds"
        found = await app.store.find()
        assert len(found) in (5, 6)
        assert sum(job.status is JobStatus.COMPLETED for job in found) >= 5
        for job in found:
            if job.job_name not in GOOD[1:]:  # one of the neighbours stands for the others
                assert str(await app.explain(job.id))
                await app.store.history(job.id)
        if change in LOUD:
            await deletes_the_bad_one(app, told="handler_name" not in change)
    assert sorted(one for one in sold if one != "bad") == sorted([*GOOD, "later"])
    assert change not in LOUD or ids(path) == {}


async def deletes_the_bad_one(app: Aether, *, told: bool) -> None:
    """`told`: its row says what is wrong with it, soon after the start."""
    with anyio.fail_after(20):
        while True:
            (bad,) = [job for job in await app.store.find() if job.status is not JobStatus.COMPLETED]
            if bad.last_error is not None or not told:
                break
            await anyio.sleep(0.02)
    assert await app.delete(bad.id) is True
    assert await app.delete(bad.id) is False
    assert await app.store.purge() == 6
    assert await app.store.find() == []


@pytest.mark.parametrize("change", LOUD)
def test_check_reports_it(stored: Callable[[str], None], path: Path, change: str) -> None:
    stored(POISON[change])
    assert not json.loads(aether_bg("check", path, "--json").stdout)["ok"]
    assert "Traceback" not in aether_bg("list", path).output


@pytest.mark.parametrize("change", [name for name in POISON if name.startswith("id ")])
async def test_a_row_without_a_readable_id_can_be_deleted_by_what_check_and_list_show(
    stored: Callable[[str], None], path: Path, change: str
) -> None:
    stored(POISON[change])
    (found,) = [one for one in json.loads(aether_bg("check", path, "--json").stdout)["findings"]
                if one["code"] == "unreadable"]  # fmt: skip
    (raw,) = found["examples"]
    (listed,) = [job["id"] for job in map(json.loads, aether_bg("list", path, "--json").stdout.splitlines())
                 if job["job_name"] == "bad"]  # fmt: skip
    for asked in (raw, listed):
        assert aether_bg("show", path, asked).exit_code == 0
        assert aether_bg("explain", path, asked).exit_code == 0
    for exit_code, *command in ((0, "delete", path, raw), (1, "delete", path, listed), (0, "purge", path, "--yes")):
        assert (await anyio.to_thread.run_sync(aether_bg, *command)).exit_code == exit_code
    assert len(ids(path)) == len(GOOD)


async def test_the_id_that_a_list_shows_for_a_bad_row_works_at_once(
    make: Make, stored: Callable[[str], None], path: Path
) -> None:
    stored("id = 'abc'")
    (listed,) = [job["id"] for job in map(json.loads, aether_bg("list", path, "--json").stdout.splitlines())
                 if job["job_name"] == "bad"]  # fmt: skip
    async with make().client() as jobs:
        row = await jobs.store.get(UUID(listed))
        assert row is not None
        assert "abc" in str(row.last_error)


async def test_a_bad_row_is_quarantined_with_a_message_and_is_not_retried(
    make: Make, stored: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    stored("anchor = '2026-13-45'")
    app = make()
    async with app:
        with anyio.fail_after(10):
            while not (failed := await app.store.find(status=[JobStatus.FAILED])):
                await anyio.sleep(0.02)
        bad = failed[0].id
        row = await app.store.get(bad)
        assert row is not None
        assert row.last_error is not None
        assert "anchor is '2026-13-45'" in row.last_error
        assert "delete it" in row.last_error
        assert row.payload == "bad"
        assert any("2026-13-45" in text for text in (await app.health())["problems"].values())
        with pytest.raises(InvalidTransition, match="anchor"):
            await app.retry(bad)
        (run,) = await app.store.history(bad)
        assert run.outcome == "failed"
    assert sum("2026-13-45" in record.getMessage() for record in caplog.records) == 1


async def test_text_that_looks_like_an_infinite_number_is_claimed_with_the_others(
    make: Make, sold: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row only where a row is bad."""
    alone: list[object] = []
    monkeypatch.setattr("aether_bg.plugins.sqlite.claims.claim_one_by_one", lambda *claim: alone.append(claim))
    app, texts = make(), ["[Inf,", "plain", ",-Inf]"]
    async with app.client() as jobs:
        await jobs.enqueue_many([NewJob("Ok", payload=text) for text in texts])
    async with app:
        await app.drain()
    assert (sorted(sold), alone) == (sorted(texts), [])


async def test_a_declared_job_whose_row_is_bad_is_written_again(make: Make, path: Path) -> None:
    app = make()
    app.declare("Ok", "daily", "x", "@daily")
    async with app:
        pass
    for change in ("anchor = 'x'", "payload = x'00'", "misfire = ''"):
        poison(path, change, "daily")
        again = make()
        again.declare("Ok", "daily", "x", "@daily")
        async with again:
            row = await again.store.get_by_job_name("daily")
            assert row is not None
            assert row.status is JobStatus.SCHEDULED
            assert row.last_error is None


@pytest.mark.parametrize(
    "change",
    [
        "aether_runs SET started_at = 'x'", "aether_runs SET outcome = 'odd'", "aether_runs SET error = x'00'",
        "aether_runs SET occurrence = '2026'", "aether_runs SET owner = 'me'", "aether_runs SET count = 'x'",
        "aether_runs SET error = CAST(x'ff' AS TEXT)",
    ],
)  # fmt: skip
async def test_history_that_cannot_be_read_is_shown_as_far_as_it_can(make: Make, path: Path, change: str) -> None:
    app = make()
    async with app:
        job = await app.wait(await app.enqueue("Ok", "one", 1), 10)
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.execute(f"UPDATE {change}")
        assert len(await app.store.history(job.id)) == 1
        assert await app.explain(job.id)
    assert aether_bg("history", path, "one").exit_code == 0
    assert aether_bg("explain", path, "one").exit_code == 0


@pytest.mark.parametrize(
    "values",
    ["('x', 'h', 1, 'x', 'x', 'x', 'x', 'x')", "(x'00', x'00', x'00', x'00', x'00', x'00', x'00', x'00')",
     f"('99999999-0000-7000-8000-000000000000', 'h', 'x', {FAR}, 'x', {FAR}, '{DEEP}', '{DEEP}')",
     "('99999999-0000-7000-8000-000000000001', CAST(x'ff' AS TEXT), 1, '', 1.5, '', '[1, {}]', '[]')"],
)  # fmt: skip
async def test_an_owner_that_cannot_be_read_stops_nothing(make: Make, path: Path, sold: list[str], values: str) -> None:
    async with make().client():
        pass
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(
            f"INSERT INTO aether_owners (id, host, pid, started_at, beat, beat_at, handlers, problems) VALUES {values}"
        )
    for command in ("check", "stats", "list"):
        result = aether_bg(command, path, "--json")
        assert result.exit_code in (0, 1)
        assert result.exception is None or isinstance(result.exception, SystemExit)
    app = make(lease=1)
    async with app:
        await app.wait(await app.enqueue("Ok", "one", 1), 10)
        with anyio.fail_after(10):
            while (await app.store.stats()).owners > 1:
                await anyio.sleep(0.05)
