"""Everything meets everything: limits, parents, names, schedules, checkpoints, verbs, kills. Row 45."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from aether_bg import Aether, RunOutcome
from aether_bg.testing.postgres import PostgresCluster, require_postgres

TESTS = Path(__file__).parents[1]


def run(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "chaos.storm", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(TESTS)})


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "jobs.db")
    else:
        require_postgres()
        with PostgresCluster() as cluster:
            yield cluster.server.url()


@pytest.mark.row(45, small=8, full=100)
def test_everything_meets_everything(tmp_path: Path, store: str, count: int, note: Callable[[str], None]) -> None:
    chance, acknowledged = random.Random(45), tmp_path / "acknowledged"
    acknowledged.touch()
    processes = [run(store, acknowledged, f"first-{number}") for number in range(3)]
    try:
        for number in range(count):
            time.sleep(chance.uniform(0.5, 2))
            place = chance.randrange(len(processes))
            assert processes[place].poll() is None, "a process ended by itself"
            processes[place].kill()
            processes[place].wait()
            processes[place] = run(store, acknowledged, number)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    last = run(store, acknowledged, "settle")
    assert last.wait(100) == 0, "some jobs never ended"
    jobs = {UUID(line) for line in acknowledged.read_text().split("\n") if len(line) == 36}
    with Aether(store, scheduler="timer").blocking(client=True) as client:
        for job in jobs:
            row = client.store.get(job)
            assert row is not None, "acknowledged and lost"
            assert row.status.terminal
            runs = client.store.history(job, 1000)
            assert all(run.outcome is not None for run in runs)
            completed = Counter(run.occurrence for run in runs if run.outcome is RunOutcome.COMPLETED)
            assert not completed or max(completed.values()) == 1, client.explain(job)
    note(f"{len(jobs)} jobs")
