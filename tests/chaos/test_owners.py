"""Row 6: processes that are stopped and wake up too late."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos.harness import Process, World, stamp

LEASE = 0.5


def stop_for_three_leases(world: World, count: int, mutant: str | None = None) -> str:
    """SIGSTOP while it runs jobs, SIGCONT three leases later; more jobs come due right then."""
    sleeper = world.ready(options={"lease": LEASE, "concurrency": 8}, mutant=mutant, look=1.0)  # learns of it late
    world.ready(options={"lease": LEASE, "concurrency": 3}, mutant=mutant)
    woken: list[tuple[float, bool]] = []
    for number in range(count):

        def some(what: str, delay: float | None, number: int = number) -> list[dict[str, Any]]:
            kinds = ("quick", "effect", "flaky")
            return [
                {"handler": kinds[n % 3], "name": f"{what}-{number}-{n}", "payload": {"ms": 300, "fails": 0.3},
                 "delay": delay}
                for n in range(8)
            ]  # fmt: skip

        seen = len(world.find("start", pid=sleeper.pid))
        assert world.start("put", enqueue=some("before", None)).wait() == 0
        world.until(lambda seen=seen: len(world.find("start", pid=sleeper.pid)) > seen, what="a start by the sleeper")
        stop_outside_a_write(world, sleeper)
        stopped = time.monotonic()
        known = len(world.find("recovered"))
        assert world.start("put", enqueue=some("then", 3 * LEASE - 0.1), busy=10).wait() == 0
        time.sleep(max(0.0, stopped + 3 * LEASE - time.monotonic()))
        recovered = len(world.find("recovered")) > known
        woken.append((time.time(), recovered))
        sleeper.send(signal.SIGCONT)
        world.until(
            lambda number=number: (
                not world.sql("SELECT 1 FROM aether_jobs WHERE job_name LIKE ? AND status < 2", f"%-{number}-%")
            ),
            what="the end of all jobs",
        )
    world.end_all()
    world.settle()
    found = world.check(failures=True)
    done = {
        (job, token) for job, token in world.sql("SELECT job_id, token FROM aether_runs WHERE outcome = 'completed'")
    }
    refused = [e for e in world.find("end", how="returned") if (e["job"], e["token"]) not in done]
    unfair = []
    for (at, recovered), (next_at, _) in zip(woken, [*woken[1:], (time.time(), True)], strict=True):
        if recovered:  # no process died between the waking and the next stop
            query = (
                "SELECT job_id, token FROM aether_runs WHERE outcome = 'crashed' AND started_at > ? AND finished_at < ?"
            )
            unfair += world.sql(query, stamp(at), stamp(next_at - 3 * LEASE))
    assert not unfair, f"counted as crashed though their process lived: {unfair}"
    taken = sum(recovered for _, recovered in woken)
    assert taken > count * 0.7
    return f"{taken} times taken for dead, {len(refused)} stale outcomes refused, {found['restarted']} attempts again"


def stop_outside_a_write(world: World, process: Process) -> None:
    """Stopped while it holds the write lock it would keep everybody from writing, which is another story."""
    while True:
        process.send(signal.SIGSTOP)
        time.sleep(0.01)
        with Path(f"{world.db}-lock").open("rb+") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        process.send(signal.SIGCONT)
        time.sleep(0.003)


@pytest.mark.alone
@pytest.mark.row(6, small=4, full=50)
def test_stopped_for_three_leases(world: World, count: int, note: Callable[[str], None]) -> None:
    note(stop_for_three_leases(world, count))
