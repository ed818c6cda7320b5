"""Every program under examples/ runs as its docstring says, in an empty folder, and leaves what it promises."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from click.testing import CliRunner

from aether_bg.cli.app import cli

from .snippets import ROOT

EXAMPLES = ROOT / "examples"
RUN_HERE = {
    "crawler.py", "cron_in_three_lines.py", "fastapi_service.py", "import_with_checkpoints.py", "own_tables.py",
    "producer.py", "quickstart.py", "schedule_words.py", "script_sync.py", "shared_jobs.py", "worker.py",
}  # fmt: skip
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*arguments)`: python in `tmp_path`, killed at the end if it still runs."""
    processes: list[subprocess.Popen[str]] = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DAPR_")} | {"PYTHONUNBUFFERED": "1"}

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start) -> Callable[..., str]:
    """`run(*arguments)`: to its end; what it printed."""

    def finish(*arguments: object, within: float = 60) -> str:
        process = start(*arguments)
        out, err = process.communicate(timeout=within)
        assert process.returncode == 0, err
        return out

    return finish


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`run_here(program, *arguments)`: as a program, in `tmp_path`, but in this process; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)

    def finish(program: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        capsys.readouterr()
        run_path(str(EXAMPLES / program), run_name="__main__")
        return capsys.readouterr().out

    return finish


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_all_examples_are_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == RUN_HERE


def test_docstrings_say_how_to_run() -> None:
    for path in EXAMPLES.glob("*.py"):
        if path.name != "shared_jobs.py":
            assert path.stem in path.read_text(encoding="utf-8").split('"""')[1], path.name


# -- quickstart ------------------------------------------------------------------------------------


def imported(database: Path) -> list[tuple[Any, ...]]:
    (table,) = rows(database, "SELECT name FROM sqlite_master WHERE name LIKE 'lines_of_%'")[0]
    return rows(database, f"SELECT * FROM {table}")


def test_quickstart_twice(run: Callable[..., str], run_here: Callable[..., str], tmp_path: Path) -> None:
    first = run(EXAMPLES / "quickstart.py")
    assert "completed       399              10" in first
    assert "failed            1               0" in first
    assert "why it failed: GiveUp: line 224 has 4 values, its header 3 (this line of the sample is broken on" in first
    (explain,) = [line for line in first.splitlines() if " explain " in line]
    program, *arguments = explain.split()
    assert (tmp_path / program).is_file()
    assert "line 224 has 4 values" in CliRunner().invoke(cli, arguments).output
    once = imported(tmp_path / "quickstart-output" / "jobs.db")
    assert len(once) == 399
    assert "399 rows" in run_here("quickstart.py")
    assert imported(tmp_path / "quickstart-output" / "jobs.db") == once


def test_quickstart_continues_after_kill_9(start: Start, run_here: Callable[..., str], tmp_path: Path) -> None:
    lines = ['name,"quoted ""x"""', "Äda,1", 'Bob;,"2\n3"', *(f"customer {n},{n}" for n in range(4, 122))]
    (tmp_path / "my own.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    process = start(EXAMPLES / "quickstart.py", "my own.csv")
    assert process.stdout is not None
    while not re.search(r"[1-9]\d+ of 120 done", process.stdout.readline()):
        assert process.poll() is None
    process.kill()
    process.wait()
    again = run_here("quickstart.py", "my own.csv")
    assert re.search(r"An earlier run has finished [1-9]\d+ of them", again)
    assert "120 rows of my own.csv" in again
    rows = imported(tmp_path / "quickstart-output" / "jobs.db")
    assert (len(rows), rows[:3]) == (120, [(2, "Äda", "1"), (3, "Bob;", "2\n3"), (4, "customer 4", "4")])


# -- scripts ---------------------------------------------------------------------------------------


def test_script_sync(run_here: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text " * 100, encoding="utf-8")
    out = run_here("script_sync.py", "a.txt", "missing.txt")
    assert "completed  a.txt.gz" in out
    assert gzip.decompress((tmp_path / "script-sync-output" / "a.txt.gz").read_bytes()) == b"text " * 100
    assert "0 of 1 files" in run_here("script_sync.py", "a.txt")


def test_cron(start: Start) -> None:
    process = start(EXAMPLES / "cron_in_three_lines.py")
    assert process.stdout is not None
    assert "GB free" in process.stdout.readline()
    stop(process, signal.SIGINT)


def test_import_with_checkpoints(start: Start, run_here: Callable[..., str], tmp_path: Path) -> None:
    example = EXAMPLES / "import_with_checkpoints.py"
    first = start(example, "--die-at", 620)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert "goes on after row 0" in said
    said = run_here(example.name)
    assert "attempt 2 goes on after row 600" in said
    assert said.endswith("completed: 1000 of 1000 (100 %), customers\n")
    with closing(sqlite3.connect(tmp_path / "customers.db")) as customers:
        assert customers.execute("SELECT count(*), max(number) FROM customers").fetchone() == (1000, 1000)


def test_crawler(run_here: Callable[..., str]) -> None:
    for _ in range(2):
        assert run_here("crawler.py") == "25 pages, 205 bytes\n"


def test_own_tables(run_here: Callable[..., str], tmp_path: Path) -> None:
    assert "3 left, 7 sold" in run_here("own_tables.py")
    assert rows(tmp_path / "own-tables.db", "SELECT sum(count) FROM sales") == [(7,)]
    assert "0 left, 10 sold" in run_here("own_tables.py")  # three more, then there are none


def test_schedule_words(run_here: Callable[..., str]) -> None:
    openings = run_here("schedule_words.py").splitlines()[1:]
    assert len(openings) == 8
    assert all(opening.split()[4] == "09:30" for opening in openings)


def test_holidays_of_the_exchange() -> None:
    """As published: weekends made up for, but for New Year 2022; Juneteenth from 2022."""
    published = {
        2021: "0101 0118 0215 0402 0531 0705 0906 1125 1224",
        2022: "0117 0221 0415 0530 0620 0704 0905 1124 1226",
        2023: "0102 0116 0220 0407 0529 0619 0704 0904 1123 1225",
        2024: "0101 0115 0219 0329 0527 0619 0704 0902 1128 1225",
        2025: "0101 0120 0217 0418 0526 0619 0704 0901 1127 1225",
        2026: "0101 0119 0216 0403 0525 0619 0703 0907 1126 1225",
    }
    holidays = run_path(str(EXAMPLES / "schedule_words.py"))["holidays"]
    assert {year: " ".join(f"{day:%m%d}" for day in sorted(holidays(year))) for year in published} == published


# -- two processes ---------------------------------------------------------------------------------


def test_producer_and_worker(start: Start, run_here: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    worker = start(EXAMPLES / "worker.py")
    out = run_here("producer.py", "empty", "missing")
    assert "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" in out
    assert "missing: FileNotFoundError" in out
    stop(worker, signal.SIGTERM)


# -- a service -------------------------------------------------------------------------------------

needed = [name for name in ("fastapi", "uvicorn", "jinja2") if find_spec(name) is None]


def asked(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


@pytest.mark.skipif(bool(needed), reason=f"not installed: {', '.join(needed)}")
def test_fastapi_service(start: Start, tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    service = start("-m", "uvicorn", "--app-dir", EXAMPLES, "fastapi_service:service", "--port", port)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 15
    while True:
        try:
            assert asked(f"{url}/health/ready")["ok"] is True
            break
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            assert service.poll() is None
            time.sleep(0.05)
    ordered = asked(f"{url}/orders", {"to": "ada@example.org", "item": "umbrella"})
    while (job := asked(f"{url}/jobs/{ordered['job']}"))["status"] != "completed":
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    assert job["name"] == f"confirm:{ordered['order']}"
    mails = rows(tmp_path / "fastapi-service.db", "SELECT recipient, text FROM outgoing_mail")
    assert mails == [("ada@example.org", "Thank you for ordering one umbrella.")]
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        asked(f"{url}/jobs/00000000-0000-0000-0000-000000000000")
    missing.value.close()
    with pytest.raises(urllib.error.HTTPError, match="401") as stranger:
        asked(f"{url}/ops/jobs/")
    stranger.value.close()
    key = base64.b64encode(b"ada:let-me-in").decode()
    page = urllib.request.Request(f"{url}/ops/jobs/jobs", headers={"Authorization": f"Basic {key}"})
    with urllib.request.urlopen(page, timeout=5) as answer:
        assert job["name"] in answer.read().decode()
    service.terminate()  # uvicorn ends by the signal it got, after the lifespan
    assert "Application shutdown complete" in service.communicate(timeout=15)[1]
