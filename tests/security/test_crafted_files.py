"""The command line on files that are crafted to attack their reader."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from aether_bg import Aether, StoreError
from aether_bg.cli.app import cli
from aether_bg.plugins.sqlite import SQLiteStore

EVIL = "\x1b[31mred\r\n\x07\x9b1m\u202e\u200b\U000e0041"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
GIANT = "instr(zeroblob(4000000), zeroblob(2000000) || x'01')"
READING = [["list"], ["list", "--json"], ["stats"], ["stats", "--json"], ["check"], ["check", "--json"],
           ["check", "--quick"], ["show", "JOB"], ["show", "JOB", "--json"], ["history", "JOB"],
           ["history", "JOB", "--json"], ["explain", "JOB"], ["explain", "JOB", "--json"],
           ["explain", "JOB", "--local"],
           ["list", "--local"], ["show", "JOB", "--local"], ["list", "--order", "due"],
           ["purge", "--dry-run"]]  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crafted") / "jobs.db"
    app = Aether(path, scheduler="timer")

    @app.handler("Ok")
    def ok(args: Any = None) -> None: ...

    with app.blocking() as jobs:
        jobs.wait(jobs.enqueue("Ok", "job"))
        jobs.enqueue("Ok", "later", {"a": 1}, "@daily")
    return path


@pytest.fixture
def db(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template, tmp_path / "jobs.db"))


def craft(db: Path, *statements: str) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        for sql in statements:
            conn.execute(sql)


def look(db: Path, command: list[str], job: str = "job") -> Any:
    arguments = [command[0], str(db), *(job if word == "JOB" else word for word in command[1:])]
    result = CliRunner().invoke(cli, arguments, prog_name="aether-bg")
    assert isinstance(result.exception, SystemExit | None)
    assert "Traceback" not in result.output
    for line in result.output.splitlines():
        assert line.isprintable(), line
    if "--json" in command and result.exit_code == 0:
        for text in [result.stdout] if command[0] not in ("list", "history") else result.stdout.splitlines():
            json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return result


ROWS = {
    "hostile texts": "job_name = '{0}', handler_name = '{0}', last_error = '{0}', modified_by = '{0}'",
    "hostile schedule": "expression_value = '{0}', timezone = '{0}'",
    "hostile instants": "due_at = '{0}', anchor = '{0}'",
    "hostile JSON": "payload = '\"{0}\"', extra_properties = '{0}'",
    "BLOBs": "job_name = x'1b5b', payload = x'00', last_error = x'1b', handler_name = x'1b', created_by = x'1b'",
    "NaN": "payload = '[NaN, Infinity, -Infinity, 1e999]', misfire_grace = 9e999, extra_properties = '{{\"a\": NaN}}'",
    "large numbers": "payload = '[1e999, {1}]', retry_count = 9223372036854775807, attempt = 9223372036854775807",
    "the ends of the calendar": "due_at = '0001-01-01T00:00:00.000000Z', occurrence = '9999-12-31T23:59:59.999999Z', "
    "handled_time = '0001-01-01T00:00:00.000000Z', created_at = '9999-12-31T23:59:59.999999Z', "
    "started_at = '0001-01-01T00:00:00.000000Z', until = '9999-12-31T23:59:59.999999Z'",
    "deep JSON": "payload = '{2}', extra_properties = '{2}'",
    "no UTF-8": "job_name = CAST(x'ff1b' AS TEXT), last_error = CAST(x'ff1b' AS TEXT)",
}


@pytest.mark.parametrize("row", ROWS)
def test_crafted_rows(db: Path, row: str) -> None:
    with closing(sqlite3.connect(db)) as conn:
        job_id = conn.execute("SELECT id FROM aether_jobs WHERE job_name = 'later'").fetchone()[0]
    change = ROWS[row].format(EVIL.replace("'", "''"), "9" * 5000, "[" * 100_000 + "]" * 100_000)
    craft(db, f"UPDATE aether_jobs SET {change} WHERE id = '{job_id}'")
    craft(db, f"UPDATE aether_runs SET error = '{EVIL}', owner = '{EVIL}'")
    columns = "id, host, pid, started_at, beat, beat_at, handlers, stopping, problems"
    craft(db, f"INSERT INTO aether_owners ({columns}) VALUES ('{job_id}', '{EVIL}', 1, '0001-01-01T00:00:00.000000Z', "
              f"1, '9999-12-31T23:59:59.999999Z', '[\"\\u001b[31m\"]', 0, '[\"\\u001b\"]')")  # fmt: skip
    for command in READING:
        look(db, command, job_id)


FOREIGN = {
    "a view": ["ALTER TABLE aether_jobs RENAME TO hidden", f"CREATE VIEW aether_jobs AS {ENDLESS} SELECT i FROM n"],
    "a view of giants": ["DROP TABLE aether_owners", f"CREATE VIEW aether_owners AS SELECT {GIANT} AS id"],
    "a view of the steps": ["DROP TABLE aether_migrations",
                            f"CREATE VIEW aether_migrations AS {ENDLESS} SELECT i AS name, i AS migration_set FROM n"],
    "a virtual table": ["DROP TABLE aether_owners", "CREATE VIRTUAL TABLE aether_owners USING fts5(id, host)"],
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON aether_jobs BEGIN DELETE FROM aether_jobs WHERE id = new.id; END"],
    "a trigger that ignores": ["CREATE TRIGGER t BEFORE INSERT ON aether_jobs BEGIN SELECT RAISE(IGNORE); END"],
    "a trigger on history": ["CREATE TRIGGER T AFTER UPDATE ON Aether_Runs BEGIN SELECT 1; END"],
    "a generated column": [f"ALTER TABLE aether_jobs ADD COLUMN more AS ({GIANT})"],
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_code_under_our_names_is_refused_at_once(db: Path, kind: str) -> None:
    craft(db, *FOREIGN[kind])
    began = time.monotonic()
    for command in (["list"], ["stats", "--json"], ["check"], ["show", "JOB"]):
        result = look(db, command)
        assert result.exit_code == 1
        assert "aether_bg did not create that" in result.stderr
    app = Aether(db, scheduler="timer")
    with pytest.raises(StoreError, match="did not create"), app.blocking():
        pass
    assert time.monotonic() - began < 10


ASKED = """
import os, sys
import anyio
from aether_bg import SQLiteStore, StoreError
from aether_bg.plugins.sqlite import inspection
inspection.PATIENCE = 0.2
async def main(sql):
    async with SQLiteStore(sys.argv[1]).inspect() as found:
        await found.ask(lambda conn: conn.execute(sql).fetchall())
for sql in sys.argv[2:]:
    try:
        anyio.run(main, sql)
    except StoreError as error:
        print(error, flush=True)
os._exit(0)
"""
"""In a process of its own, with which the last question ends: SQLite would work on a giant for minutes."""


def test_a_question_ends_at_its_deadline(db: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-c", ASKED, str(db), f"{ENDLESS} SELECT count(*) FROM n", f"SELECT {GIANT}"]
    asked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert asked.stdout.count("not answered a question within 0.2 s") == 2, asked.stderr
    assert time.monotonic() - began < 10


def test_a_value_cannot_fill_the_memory(db: Path) -> None:
    async def main() -> None:
        async with SQLiteStore(db).inspect() as found:
            await found.ask(lambda conn: conn.execute("SELECT zeroblob(900000000)").fetchall())

    with pytest.raises(StoreError, match="too big"):
        anyio.run(main)


STUCK = """
import sys
from aether_bg.cli.app import cli
from aether_bg.plugins.sqlite import queries
def find(conn, query):
    print("asked", file=sys.stderr, flush=True)
    conn.execute(sys.argv.pop()).fetchall()
queries.find = find
cli(prog_name="aether-bg")
"""


@pytest.mark.parametrize("sql", [f"{ENDLESS} SELECT count(*) FROM n", f"SELECT {GIANT}"], ids=["endless", "giant"])
def test_control_c_ends_it(db: Path, sql: str) -> None:
    script = STUCK.replace("sys.argv.pop()", repr(sql))
    with subprocess.Popen(
        [sys.executable, "-c", script, "list", str(db)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "asked\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            said = process.communicate(timeout=20)[1]
        finally:
            process.kill()
        assert time.monotonic() - began < 10
        assert process.returncode == 1
        assert "Stopped" in said
        assert "Traceback" not in said


PLUGIN = """
import os
from sqlite_utils import hookimpl
open(os.environ["RAN"], "a").write("imported")
@hookimpl
def prepare_connection(conn): open(os.environ["RAN"], "a").write("ran")
"""


def test_no_plugin_of_sqlite_utils_runs(db: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "evil-1.dist-info"
    info.mkdir(parents=True)
    (site / "evil_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sqlite_utils]\nevil = evil_plugin\n")
    (info / "RECORD").write_text("")
    ran = tmp_path / "ran"
    environment = os.environ | {"PYTHONPATH": str(site), "RAN": str(ran)}
    commands = [[name, str(db)] for name in ("check", "list", "stats")] + [["delete", str(db), "later"]]
    with closing(sqlite3.connect(tmp_path / "begun.db")) as conn:  # goes on by its migrations
        conn.execute("CREATE TABLE aether_migrations (id INTEGER PRIMARY KEY, migration_set, name, applied_at)")
    program = f"""
from aether_bg import Aether
from aether_bg.cli.app import cli
for command in {commands}:
    cli(command, standalone_mode=False)
for name in ("fresh.db", "begun.db"):
    with Aether(f"{tmp_path}/{{name}}", scheduler="timer").blocking(): pass
"""
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, timeout=60)
    assert not ran.exists()
