"""RELIABILITY row 22 on the real pair, with an app and its file: one run each, nothing lost.

AETHER_CHAOS_COUNT says how often (1 here, 20 in a full run).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from dapr.proto.runtime.v1 import appcallback_pb2
from dapr_standin import WallClock, callback, until
from google.protobuf import any_pb2  # type: ignore[import-untyped]

from aether_bg import Aether, DaprScheduler, JobStatus, RunOutcome
from aether_bg.model import Query
from aether_bg.plugins.dapr.names import body_of, name_of
from aether_bg.testing.sidecar import DaprRuntime

COUNT = int(os.environ.get("AETHER_CHAOS_COUNT", "1"))
pytestmark = [pytest.mark.dapr, pytest.mark.anyio, pytest.mark.parametrize("turn", range(COUNT))]


class Ledger:
    """Apps on one file that write down each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: Counter[str] = Counter()

    def app(self, scheduler: object, **options: object) -> Aether:
        app = Aether(self.path, scheduler=scheduler, **options)  # type: ignore[arg-type]

        @app.handler("Work")
        async def work(word: str) -> None:
            self.runs[word] += 1

        return app

    async def all_ran(self, count: int, timeout: float) -> None:
        await until(lambda: len(self.runs) >= count, timeout)
        await anyio.sleep(1.2)  # longer than the time after which Dapr delivers again
        assert set(self.runs.values()) == {1}
        assert len(self.runs) == count


async def deliver(app: Any, request: appcallback_pb2.JobEventRequest) -> None:
    await app.OnJobEvent(request)


async def all_armed(app: Aether) -> None:
    with anyio.fail_after(10):
        while await app.store.find(Query(unarmed=True)):
            await anyio.sleep(0.02)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "jobs.db")


async def test_the_same_trigger_to_two_replicas(dapr: DaprRuntime, ledger: Ledger, turn: int) -> None:
    replica = await to_thread.run_sync(dapr.replica)
    second = DaprScheduler(endpoint=f"127.0.0.1:{replica.grpc_port}", app_port=replica.app_port)
    async with (
        ledger.app(DaprScheduler()) as one,
        ledger.app(second),
        callback(dapr.sidecar.app_port) as first_door,
        callback(replica.app_port) as second_door,
    ):
        store_id = (await one.store.stats()).store_id
        async with anyio.create_task_group() as group:
            for n in range(20):
                job = await one.store.get(await one.enqueue("Work", payload=f"{n}", schedule=timedelta(seconds=0.5)))
                assert job is not None
                body = any_pb2.Any(value=body_of(store_id, job))
                request = appcallback_pb2.JobEventRequest(name=name_of(store_id, job.id, job.seq), data=body)
                for door in (first_door, second_door, first_door):  # they wait out the last of the time, then all try
                    group.start_soon(deliver, door, request)
        await ledger.all_ran(20, 10)


CRASHING = """
import os, signal, sys, anyio
from aether_bg import Aether, DaprScheduler
from aether_bg.plugins.dapr.door import Door

app = Aether(sys.argv[1], scheduler=DaprScheduler())

@app.handler("Work")
async def work(word: str) -> None:
    if sys.argv[2] == "crash":
        await anyio.sleep(60)
    print("ran", word, flush=True)

taken = Door.consumes

async def crash(self: Door, name: str, body: bytes) -> bool:
    await taken(self, name, body)  # the claim is committed
    os.kill(os.getpid(), signal.SIGKILL)  # and nobody will say so
    return True

if sys.argv[2] == "crash":
    Door.consumes = crash
async def main() -> None:
    async with app:
        print("up", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


async def test_a_crash_after_the_commit_and_before_the_answer(dapr: DaprRuntime, ledger: Ledger, turn: int) -> None:
    async with ledger.app("timer").client() as client:
        job_id = await client.enqueue("Work", payload="x")

        def start(how: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", CRASHING, str(ledger.path), how]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        crashing = start("crash")
        assert await to_thread.run_sync(crashing.wait) == -signal.SIGKILL
        crashing.stdout.close()  # type: ignore[union-attr]
        running = await client.store.get(job_id)
        assert running is not None
        assert running.status is JobStatus.RUNNING
        again = start("")
        try:
            assert (await client.wait(job_id, 20)).status is JobStatus.COMPLETED
            outcomes = [run.outcome for run in await client.store.history(job_id)]
            assert outcomes == [RunOutcome.COMPLETED, RunOutcome.CRASHED]
        finally:
            again.terminate()
            await to_thread.run_sync(again.communicate)


async def test_the_app_is_away(dapr: DaprRuntime, ledger: Ledger, turn: int) -> None:
    async with ledger.app(DaprScheduler()) as app:
        for n in range(10):
            await app.enqueue("Work", payload=f"{n}", schedule=timedelta(seconds=1))
        await all_armed(app)
    await anyio.sleep(1.5 if COUNT == 1 else 10)
    async with ledger.app(DaprScheduler()):
        await ledger.all_ran(10, 20)


async def test_no_sidecar_at_the_start(ledger: Ledger, need_dapr: None, turn: int) -> None:
    async with DaprRuntime(start_sidecar=False) as dapr:
        scheduler = DaprScheduler(
            endpoint=f"127.0.0.1:{dapr.sidecar.grpc_port}", app_port=dapr.sidecar.app_port, wait=0.2
        )
        async with ledger.app(scheduler) as app:
            for n in range(10):
                await app.enqueue("Work", payload=f"{n}")
            assert not (await app.health())["ok"]
            await anyio.sleep(1)
            assert not ledger.runs
            await to_thread.run_sync(dapr.sidecar.start)
            await ledger.all_ran(10, 40)
            assert (await app.health())["ok"]


async def test_the_scheduler_is_killed_and_restarted(dapr: DaprRuntime, ledger: Ledger, turn: int) -> None:
    async with ledger.app(DaprScheduler(deadline=1.5)) as app:
        for n in range(10):
            await app.enqueue("Work", payload=f"{n}", schedule=timedelta(seconds=1.5))
        await all_armed(app)
        end = dapr.scheduler.kill if COUNT > 1 else dapr.scheduler.stop  # after a kill it waits out a lease of 20 s
        await to_thread.run_sync(end)
        for n in range(10, 20):
            await app.enqueue("Work", payload=f"{n}")
        await anyio.sleep(1)
        await to_thread.run_sync(dapr.scheduler.start)
        await ledger.all_ran(20, 80)


async def test_the_data_of_the_scheduler_are_wiped(dapr: DaprRuntime, ledger: Ledger, turn: int) -> None:
    async with ledger.app(DaprScheduler(reconcile=1, deadline=1.5)) as app:
        for n in range(10):
            await app.enqueue("Work", payload=f"{n}", schedule=timedelta(seconds=4))
        await all_armed(app)
        await to_thread.run_sync(dapr.scheduler.wipe)
        await to_thread.run_sync(dapr.scheduler.start)
        await ledger.all_ran(10, 40)


class HourAgo(WallClock):
    """So that the start comes half a minute after a tick."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1, seconds=30)


async def test_an_hour_of_backlog(dapr: DaprRuntime, ledger: Ledger, turn: int) -> None:
    async with ledger.app("timer", clock=HourAgo()).client() as client:
        for n in range(60):
            await client.enqueue("Work", payload=f"{n}", schedule=timedelta(minutes=n + 0.5))
        for misfire in ("once", "skip", "all"):
            await client.enqueue("Work", misfire, misfire, "@every 1m", misfire=misfire)
    async with ledger.app(DaprScheduler()) as app:
        await until(lambda: len(ledger.runs) >= 62 and ledger.runs["all"] >= 60, 30)
        await anyio.sleep(1.2)
        assert all(ledger.runs[f"{n}"] == 1 for n in range(60))
        assert ledger.runs["once"] == 1
        assert ledger.runs["skip"] == 0
        assert ledger.runs["all"] == 60
        assert (await app.store.stats()).completed == 60
