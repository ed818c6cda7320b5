"""The test's side: processes to start and signal, and a world (database, history, logs) for them to live in."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from aether_bg import Aether
from chaos import checker
from chaos import history as files

TESTS = Path(__file__).resolve().parent.parent


class Process:
    """A worker. Signals go through the nursery, which alone reaps it."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery, self.pid, self.log = nursery, pid, log
        self.ended = threading.Event()
        self.code: int | None = None

    def send(self, number: int) -> None:
        self._nursery.request(signal=int(number), pid=self.pid)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def wait(self, timeout: float = 30.0) -> int:
        assert self.ended.wait(timeout), f"process {self.pid} goes on after {timeout} s; its log:\n{self.tail()}"
        assert self.code is not None
        return self.code

    def end(self) -> None:
        self.kill()
        self.wait()

    @property
    def alive(self) -> bool:
        return not self.ended.is_set()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


class Nursery:
    """See `chaos.nursery`."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.getenv("PYTHONPATH")])])}
        for name in ("DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT"):
            env.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        self._lock = threading.Lock()
        self._born: list[Process] = []
        self._logs: list[Path] = []
        self._birth = threading.Condition()
        self._living: dict[int, Process] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._thread.start()
        assert self._ready.wait(30), "the nursery does not start"

    def request(self, **what: Any) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write((json.dumps(what) + "\n").encode())
            self._process.stdin.flush()

    def spawn(self, spec: dict[str, Any]) -> Process:
        with self._birth:
            self._logs.append(Path(spec["log"]))
            self.request(spawn=spec)
            assert self._birth.wait_for(lambda: self._born, 30), "the nursery does not answer"
            return self._born.pop()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "pid" in said:
                with self._birth:
                    process = Process(self, said["pid"], self._logs.pop())
                    self._living[process.pid] = process
                    self._born.append(process)
                    self._birth.notify()
            elif "exit" in said:
                process = self._living.pop(said["exit"])
                process.code = said["code"]
                process.ended.set()
            else:
                self._ready.set()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
        self._thread.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class World:
    """One database with its history, and the processes on it."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        folder.mkdir(parents=True, exist_ok=True)
        self.db = folder / "jobs.db"
        self.history = folder / "history.jsonl"
        self.processes: list[Process] = []
        self._numbers = itertools.count()
        self._seen: list[dict[str, Any]] = []
        self._tail = files.Tail(self.history)

    def create(self) -> World:
        """Make the file and the tables of the handlers."""

        async def main() -> None:
            app = Aether(str(self.db), scheduler="timer")
            async with app.client() as jobs, jobs.unit_of_work() as uow:
                uow.execute("CREATE TABLE effects (job TEXT, occurrence TEXT, token INTEGER)")
                uow.execute("CREATE TABLE orders (name TEXT, wanted TEXT)")

        anyio.run(main)
        return self

    # -- processes -------------------------------------------------------------------------------

    def start(self, entry: str = "work", **spec: Any) -> Process:
        number = next(self._numbers)
        process = self.nursery.spawn(
            {
                "entry": entry if ":" in entry else f"chaos.worker:{entry}", "db": str(self.db), "seed": number,
                "history": str(self.history), "log": str(self.folder / f"{number:04}.log"), "prefix": f"p{number}",
                **spec,
            }
        )  # fmt: skip
        self.processes.append(process)
        return process

    def ready(self, entry: str = "work", **spec: Any) -> Process:
        """Start one, and wait until its app runs."""
        process = self.start(entry, **spec)
        self.until(lambda: self.find("ready", pid=process.pid) or not process.alive, what="the start of a worker")
        assert process.alive, process.tail()
        return process

    def end_all(self) -> None:
        living = [process for process in self.processes if process.alive]
        for process in living:
            process.kill()
        for process in living:
            process.wait()

    def settle(self, timeout: float = 60.0, **spec: Any) -> None:
        """Calm: one worker runs what is left."""
        process = self.start("settle", **spec)
        code = process.wait(timeout)
        assert code == 0, f"settling ended with {code}:\n{process.tail()}"

    # -- what happened ---------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        self._seen += self._tail.new()
        return self._seen

    def find(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [e for e in self.events() if e["event"] == event and all(e.get(key) == fields[key] for key in fields)]

    def until(self, condition: Callable[[], Any], timeout: float = 20.0, what: str = "it") -> Any:
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
            time.sleep(0.002)
        return found

    def sql(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.db, timeout=30)) as conn:
            return conn.execute(query, params).fetchall()

    def check(self, **how: Any) -> Counter[str]:
        return checker.check(self.history, self.db, **how)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


def stamp(at: float) -> str:
    """Seconds since the epoch as the store writes instants."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:26] + "Z"
