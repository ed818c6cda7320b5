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
from typing import Any

import pytest

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


def test_quickstart_twice(run: Callable[..., str], tmp_path: Path) -> None:
    first = run(EXAMPLES / "quickstart.py")
    assert "completed       399              10" in first
    assert "failed            1               0" in first
    assert "why it failed: GiveUp: line 224 has 4 values, its header 3 (this line of the sample is broken on" in first
    (explain,) = [line for line in first.splitlines() if " explain " in line]
    told = subprocess.run(explain.split(), cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "line 224 has 4 values" in told
    once = imported(tmp_path / "quickstart-output" / "jobs.db")
    assert len(once) == 399
    assert "399 rows" in run(EXAMPLES / "quickstart.py")
    assert imported(tmp_path / "quickstart-output" / "jobs.db") == once


def test_quickstart_continues_after_kill_9(start: Start, run: Callable[..., str], tmp_path: Path) -> None:
    process = start(EXAMPLES / "quickstart.py")
    assert process.stdout is not None
    while not re.search(r"[1-9]\d+ of 400 done", process.stdout.readline()):
        assert process.poll() is None
    process.kill()
    process.wait()
    again = run(EXAMPLES / "quickstart.py")
    assert re.search(r"An earlier run has finished [1-9]\d+ of them", again)
    assert "399 rows" in again
    assert len(imported(tmp_path / "quickstart-output" / "jobs.db")) == 399


def test_quickstart_with_a_file(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "my own.csv").write_text('name,"quoted ""x"""\nÄda,1\nBob;,"2\n3"\n', encoding="utf-8-sig")
    assert "2 rows of my own.csv" in run(EXAMPLES / "quickstart.py", "my own.csv")
    assert imported(tmp_path / "quickstart-output" / "jobs.db") == [(2, "Äda", "1"), (3, "Bob;", "2\n3")]


# -- scripts ---------------------------------------------------------------------------------------


def test_script_sync(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text " * 100, encoding="utf-8")
    out = run(EXAMPLES / "script_sync.py", "a.txt", "missing.txt")
    assert "completed  a.txt.gz" in out
    assert gzip.decompress((tmp_path / "script-sync-output" / "a.txt.gz").read_bytes()) == b"text " * 100
    assert "0 of 1 files" in run(EXAMPLES / "script_sync.py", "a.txt")


def test_cron(start: Start) -> None:
    process = start(EXAMPLES / "cron_in_three_lines.py")
    assert process.stdout is not None
    assert "GB free" in process.stdout.readline()
    stop(process, signal.SIGINT)


def test_import_with_checkpoints(start: Start, run: Callable[..., str], tmp_path: Path) -> None:
    example = EXAMPLES / "import_with_checkpoints.py"
    first = start(example, "--die-at", 620)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert "goes on after row 0" in said
    said = run(example)
    assert "attempt 2 goes on after row 600" in said
    assert said.endswith("completed: 1000 of 1000 (100 %), customers\n")
    with closing(sqlite3.connect(tmp_path / "customers.db")) as customers:
        assert customers.execute("SELECT count(*), max(number) FROM customers").fetchone() == (1000, 1000)


def test_crawler(run: Callable[..., str]) -> None:
    for _ in range(2):
        assert run(EXAMPLES / "crawler.py") == "25 pages, 205 bytes\n"


def test_own_tables(run: Callable[..., str], tmp_path: Path) -> None:
    assert "3 left, 7 sold" in run(EXAMPLES / "own_tables.py")
    assert rows(tmp_path / "own-tables.db", "SELECT sum(count) FROM sales") == [(7,)]
    assert "0 left, 10 sold" in run(EXAMPLES / "own_tables.py")  # three more, then there are none


def test_schedule_words(run: Callable[..., str]) -> None:
    openings = run(EXAMPLES / "schedule_words.py").splitlines()[1:]
    assert len(openings) == 8
    assert all(opening.split()[4] == "09:30" for opening in openings)


def test_holidays_of_the_exchange(run: Callable[..., str]) -> None:
    """As published: weekends made up for, but for New Year 2022; Juneteenth from 2022."""
    published = {
        2021: "0101 0118 0215 0402 0531 0705 0906 1125 1224",
        2022: "0117 0221 0415 0530 0620 0704 0905 1124 1226",
        2023: "0102 0116 0220 0407 0529 0619 0704 0904 1123 1225",
        2024: "0101 0115 0219 0329 0527 0619 0704 0902 1128 1225",
        2025: "0101 0120 0217 0418 0526 0619 0704 0901 1127 1225",
        2026: "0101 0119 0216 0403 0525 0619 0703 0907 1126 1225",
    }
    code = "import json, sys; sys.path.insert(0, sys.argv[1]); from schedule_words import holidays\n"
    code += "print(json.dumps({y: ' '.join(f'{d:%m%d}' for d in sorted(holidays(y))) for y in range(2021, 2027)}))"
    assert json.loads(run("-c", code, EXAMPLES)) == {str(year): days for year, days in published.items()}


# -- two processes ---------------------------------------------------------------------------------


def test_producer_and_worker(start: Start, run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    worker = start(EXAMPLES / "worker.py")
    out = run(EXAMPLES / "producer.py", "empty", "missing")
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
