"""A database with a job of every kind, a runner for commands, and a real process that runs jobs."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aether_bg import Aether, JobStatus
from aether_bg.cli.app import cli

WORKER = Path(__file__).with_name("worker_app.py")
EVIL = "no\r\n\x1b[31mway \u202e\x9b1m"


@pytest.fixture(autouse=True)
def _no_dapr_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "jobs.db"
    app = Aether(path, scheduler="timer")

    @app.handler("Ok")
    def ok(args: dict[str, Any] | None = None) -> None: ...

    @app.handler("Fails", retries=0)
    def fails(args: dict[str, Any]) -> None:
        raise ValueError(EVIL)

    with app.blocking() as jobs:
        for number in range(3):
            jobs.wait(jobs.enqueue("Ok", f"ok-{number}"))
        payload = {"text": EVIL, "é": 1}
        jobs.wait(jobs.enqueue("Fails", "broken", payload, metadata={"OrderId": 123, "tenant": "a\x1b"}))
        jobs.enqueue("Ok", "later", schedule=timedelta(hours=3), metadata={"OrderId": 124})
        jobs.enqueue("Ok", "hourly", schedule="@every 1h", repeats=9)
        jobs.enqueue("Ok", "日本", schedule="30 2 * * MON", timezone="Europe/Berlin")
        jobs.enqueue("Ok", "held", schedule="@daily")
        jobs.pause("held")
        jobs.enqueue("Ok", "gone", schedule="@daily")
        jobs.delete("gone")
        assert jobs.store.stats().completed == 3
    return path


@pytest.fixture
def db(_template: Path, tmp_path: Path) -> Path:
    """Three COMPLETED, one FAILED with hostile texts, one CANCELLED; `later`, `hourly`, `日本` wait, `held` too."""
    return Path(shutil.copy(_template, tmp_path / "jobs.db"))


@pytest.fixture
def run() -> Callable[..., Result]:
    """`run("list", db)`: the command line in this process; exit code, stdout and stderr."""

    def invoke(*args: object) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="aether-bg", catch_exceptions=False)
        assert "Traceback" not in result.stderr
        return result

    return invoke


IN_TURN = """
import json, os, sys
from aether_bg.cli.app import cli
for variables, *arguments in json.loads(sys.argv[1]):
    os.environ.update(variables)
    try:
        cli(arguments, prog_name="aether-bg")
    except SystemExit as end:
        print(f"[exit {end.code}]", file=sys.stderr, flush=True)
"""


@pytest.fixture
def on_a_terminal() -> Callable[..., tuple[str, str]]:
    """`on_a_terminal(["list", db], typed="y\\n")`: what a terminal shows of commands that one process runs in turn,
    with their exit codes, and stdout where that is `piped`. A command may begin with environment variables."""

    def invoke(*commands: list[Any], typed: str = "", piped: bool = False) -> tuple[str, str]:
        parent, child = pty.openpty()
        try:
            os.write(parent, typed.encode())
            given = [command if isinstance(command[0], dict) else [{}, *command] for command in commands]
            done = subprocess.run(
                [sys.executable, "-c", IN_TURN, json.dumps(given, default=str)], env=os.environ | {"TERM": "xterm"},
                stdin=child, stdout=subprocess.PIPE if piped else child, stderr=child, timeout=60, check=True,
            )  # fmt: skip
            return os.read(parent, 65536).decode(), (done.stdout or b"").decode()
        finally:
            os.close(parent)
            os.close(child)

    return invoke


class Worker:
    """A real process on `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.said = ""
        self.until("ready")

    def until(self, text: str, within: float = 60.0) -> None:
        """Wait until it has said so."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within
        while text not in self.said:
            ready, _, _ = select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(self.process.stdout.fileno(), 65536).decode() if ready else ""
            assert more, f"no {text!r} in {self.said!r}"
            self.said += more

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def working(path: Path) -> Iterator[Worker]:
    with closing(Worker(path)) as worker:
        yield worker


@pytest.fixture
def work() -> Callable[[Path], Any]:
    """`with work(path) as worker`: a process that runs jobs, killed at the end."""
    return working


@pytest.fixture
def status(run: Callable[..., Result]) -> Callable[..., str]:
    """`status(db, job, until="failed")`: as `show --json` tells it, waiting for it."""

    def look(path: Path, job: str, until: str, within: float = 30.0) -> str:
        assert until.upper() in JobStatus.__members__
        deadline = time.monotonic() + within
        while True:
            said: str = json.loads(run("show", path, job, "--json").stdout)["status"]
            if said == until or time.monotonic() > deadline:
                return said
            time.sleep(0.05)

    return look
