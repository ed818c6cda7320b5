"""The command line on a database that a real process uses: each sees what the other does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import Result

from aether_bg import Aether, JobStatus
from aether_bg._app.operator import operating
from aether_bg.model import Insert
from aether_bg.plugins import _findings
from aether_bg.testing.contracts.values import a_job

Run = Callable[..., Result]
Status = Callable[..., str]


def enqueue(path: Path, *jobs: tuple[str, str, str]) -> None:
    """(handler, name, schedule), from a client in this process."""

    async def main() -> None:
        async with Aether(path, scheduler="timer").client() as client:
            for handler, name, schedule in jobs:
                await client.enqueue(handler, name, schedule=schedule)

    anyio.run(main)


def codes(run: Run, path: Path) -> set[str]:
    return {finding["code"] for finding in json.loads(run("check", path, "--json").stdout)["findings"]}


def test_verbs_reach_a_running_process(
    run: Run, work: Callable[[Path], Any], status: Status, path: Path
) -> None:  # fmt: skip
    with work(path) as worker:
        enqueue(path, ("Ok", "yearly", "@yearly"), ("Slow", "slow", "@once"), ("Fails", "fails", "@once"))
        worker.until("slow begins")
        assert status(path, "fails", until="failed") == "failed"

        (process,) = json.loads(run("stats", path, "--json").stdout)["processes"]
        assert (process["state"], process["pid"]) == ("alive", worker.process.pid)
        assert process["handlers"] == ["Fails", "Ok", "Slow"]
        assert f"(process {worker.process.pid} on " in run("explain", path, "slow").stdout
        assert run("check", path).exit_code == 0

        assert run("trigger", path, "yearly").exit_code == 0
        worker.until("ok")
        assert run("delete", path, "slow").exit_code == 0
        worker.until("slow ends")  # the running attempt is cancelled
        assert status(path, "slow", until="cancelled") == "cancelled"
        assert run("retry", path, "fails").exit_code == 0
        deadline = time.monotonic() + 10
        while len(run("history", path, "fails", "--json").stdout.splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert status(path, "fails", until="failed") == "failed"
        assert len(run("history", path, "fails", "--json").stdout.splitlines()) == 2

        assert run("pause", path, "yearly").exit_code == 0
        assert run("trigger", path, "yearly").exit_code == 0  # works while paused, which stays
        worker.until("slow ends\nok")
        assert json.loads(run("show", path, "yearly", "--json").stdout)["paused"] is True
        assert run("check", path).exit_code == 0
        assert codes(run, path) == set()


def test_a_dead_process(
    run: Run, work: Callable[[Path], Any], path: Path, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    monkeypatch.setattr(_findings, "_SETTLING", 1.5)
    with work(path) as worker:
        enqueue(path, ("Slow", "slow", "@once"), ("Unknown", "strange", "@once"))
        worker.until("slow begins")
        time.sleep(1.0)  # before that a job is not waiting, but just due
        assert codes(run, path) == {"no_handler"}
        told = json.loads(run("explain", path, "strange", "--json").stdout)
        assert told["waiting_for"] == "handler"
        assert "the one live process has Fails, Ok, Slow" in "\n".join(told["sentences"])
        worker.kill()

        assert codes(run, path) == {"orphaned", "no_process"}
        assert run("check", path).exit_code == 1
        (process,) = json.loads(run("stats", path, "--json").stdout)["processes"]
        assert process["state"] == "dead"
        told_now = run("explain", path, "slow").stdout
        assert "That process has died: the next process that starts takes the job back and runs it again." in told_now
        assert json.loads(run("explain", path, "strange", "--json").stdout)["waiting_for"] == "owner"

        with work(path) as survivor:  # looking at the dead one's lock did not take it away from the living
            survivor.until("slow begins")
            assert codes(run, path) == {"no_handler"}
            assert run("delete", path, "slow", "strange").exit_code == 0
            survivor.until("slow ends")
            assert status(path, "slow", until="cancelled") == "cancelled"
            assert run("check", path).exit_code == 0


def test_constant_commands_do_not_disturb_running_jobs(
    run: Run, work: Callable[[Path], Any], path: Path
) -> None:  # fmt: skip
    """Jobs run while commands of every kind come without a pause; afterwards each has run once."""
    jobs = [("Ok", f"job-{number}", "@once") for number in range(100)]
    with work(path) as worker:
        enqueue(path, ("Ok", "yearly", "@yearly"))

        def produce() -> None:
            for start in range(0, 100, 10):
                enqueue(path, *jobs[start : start + 10])

        producer = threading.Thread(target=produce)
        producer.start()
        rounds = 0
        while producer.is_alive() or rounds < 3:
            for command in (["list"], ["stats"], ["pause", "yearly"], ["check"], ["resume", "yearly"],
                            ["purge", "--older-than", "1d", "--yes"], ["explain", "yearly"]):  # fmt: skip
                assert run(command[0], path, *command[1:]).exit_code == 0
            rounds += 1
        producer.join()
        deadline = time.monotonic() + 10
        while json.loads(run("stats", path, "--json").stdout)["completed"] < 100 and time.monotonic() < deadline:
            time.sleep(0.05)
        counts = json.loads(run("stats", path, "--json").stdout)
        assert (counts["completed"], counts["failed"], counts["scheduled"]) == (100, 0, 1)
        assert counts["runs"] == 100
        worker.until("ok\n" * 100)
        assert worker.said.count("ok\n") == 100
        assert codes(run, path) == set()


def test_a_purge_in_bites_beside_live_work(run: Run, work: Callable[[Path], Any], path: Path) -> None:
    now = datetime.now(UTC)
    ended = [
        a_job(f"job-{number}", status=JobStatus.COMPLETED, due_at=None, handled_time=now) for number in range(1200)
    ]

    async def fill() -> None:
        async with operating(Aether(path, scheduler="timer")) as operator:
            await operator.calls.transact([Insert(job) for job in ended])

    anyio.run(fill)
    with work(path) as worker:
        enqueue(path, ("Slow", "slow", "@once"), ("Ok", "later", "@yearly"))
        worker.until("slow begins")
        assert run("purge", path, "--keep", 100, "--yes").stdout == "1,100 jobs purged.\n"
        counts = json.loads(run("stats", path, "--json").stdout)
        assert (counts["completed"], counts["running"], counts["scheduled"]) == (100, 1, 1)
        assert run("check", path).exit_code == 0
