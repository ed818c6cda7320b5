"""Rows 5, 8, 9, 24 and 30: stopping, blocking, raising, starting again and again, plugins that fail."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from aether_bg import Aether, JobContext, JobStatus, hookimpl
from aether_bg.model import Event, Problem
from aether_bg.protocols import Kernel
from chaos.harness import TESTS, World
from chaos.worker import Spec, Worker

GRACE = 0.6


def stoppable(spec: Spec) -> None:
    """`app.run()` with handlers of every temper."""
    worker = Worker(spec)

    async def long(args: dict, ctx: JobContext) -> None:
        with worker.logged(ctx):
            await anyio.sleep(args["ms"] / 1000)

    async def stubborn(args: dict, ctx: JobContext) -> None:
        with worker.logged(ctx):
            while True:
                try:
                    await anyio.sleep(3600)
                except BaseException:
                    worker.history.write("swallowed")

    worker.app.handler("long")(long)
    worker.app.handler("stubborn")(stubborn)
    worker.app.run()
    worker.history.write("stopped")


SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGTERM twice": [signal.SIGTERM, signal.SIGTERM],
}


@pytest.mark.parametrize("signals", list(SIGNALS))
@pytest.mark.alone
@pytest.mark.row(5, small=4, full=50)
def test_stopped_by_signals(world: World, count: int, signals: str, note: Callable[[str], None]) -> None:
    chance = random.Random(5)
    took = []
    for number in range(count):
        long = [
            {"handler": "quick", "name": f"long-{number}-{n}", "payload": {"ms": ms}}
            for n, ms in enumerate([100, 300, 5000, 5000])
        ]
        sync = [{"handler": "sync", "name": f"sync-{number}-{n}", "payload": {"ms": 200}} for n in range(2)]
        effects = [{"handler": "effect", "name": f"effect-{number}-{n}", "payload": {"ms": 150}} for n in range(3)]
        assert world.start("put", enqueue=[*long, *sync, *effects]).wait() == 0
        seen = len(world.find("start"))
        process = world.start("until_signal", options={"grace": GRACE})
        world.until(lambda seen=seen: len(world.find("start")) > seen + 3)
        time.sleep(chance.random() * 0.1)
        began = time.monotonic()
        for signal_number in SIGNALS[signals]:
            process.send(signal_number)
            time.sleep(0.05)
        code = process.wait(20)
        took.append(time.monotonic() - began)
        assert code == 0, f"{code}: {process.tail()}"
        assert world.find("stopped", pid=process.pid)
        assert world.sql("SELECT job_name FROM aether_jobs WHERE status = 1") == []
        assert world.sql("SELECT count(*) FROM aether_owners") == [(0,)]
        assert not list(world.folder.glob("jobs.db-owner-*"))
        assert took[-1] <= GRACE + 1.0
        outcomes = {o for (o,) in world.sql("SELECT DISTINCT outcome FROM aether_runs")}
        assert outcomes <= {"completed", "released"}, outcomes
        world.start("cancel_rest").wait()
    if signals == "SIGTERM twice":
        assert min(took) < GRACE, "the second signal skips the grace"
    world.check(overlaps=False, failures=True)
    note(f"exit after at most {max(took):.2f} s, grace {GRACE} s")


@pytest.mark.alone
@pytest.mark.row(8, small=2, full=20)
def test_a_handler_that_swallows_cancellation(world: World, count: int, note: Callable[[str], None]) -> None:
    took = []
    for number in range(count):
        assert world.start("put", enqueue=[{"handler": "quick", "name": f"fine-{number}"}]).wait() == 0
        process = world.start(
            "chaos.test_stopping:stoppable", options={"grace": 0.3},
        )  # fmt: skip
        world.until(lambda process=process: world.find("start", pid=process.pid))
        put = world.start("chaos.test_stopping:put_unknown", enqueue=["stubborn", f"stubborn-{number}"])
        assert put.wait() == 0
        world.until(lambda n=number: world.find("start", name=f"stubborn-{n}"))
        began = time.monotonic()
        process.send(signal.SIGTERM)
        process.wait(20)
        took.append(time.monotonic() - began)
        assert took[-1] <= 0.3 + 1.0 + 0.2
        assert f"stubborn-{number}" in process.log.read_text(errors="replace"), "it says who hung"
        assert world.sql("SELECT status FROM aether_jobs WHERE job_name = ?", f"stubborn-{number}") == [(0,)]
        world.start("cancel_rest").wait()
    world.check(failures=True)
    note(f"exit after at most {max(took):.2f} s, grace 0.3 s")


@pytest.mark.alone
@pytest.mark.row(8, small=2, full=20)
def test_a_thread_that_will_not_stop(world: World, count: int, note: Callable[[str], None]) -> None:
    """Its row stays RUNNING until the process ends, which it may not keep from ending (S4)."""
    took = []
    for number in range(count):
        name = f"thread-{number}"
        assert world.start("put", enqueue=[{"handler": "sync", "name": name, "payload": {"ms": 4000}}]).wait() == 0
        spec = {"db": str(world.db), "history": str(world.history), "options": {"grace": 0.3}}
        code = f"from chaos.worker import until_signal; until_signal({spec!r})"
        env = {**os.environ, "PYTHONPATH": str(TESTS)}
        log = world.folder / f"{name}.log"
        with log.open("wb") as out, subprocess.Popen([sys.executable, "-c", code], env=env, stderr=out) as process:
            world.until(lambda name=name: world.find("start", name=name))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.9)
            if process.poll() is None:
                assert world.sql("SELECT status FROM aether_jobs WHERE job_name = ?", name) == [(1,)]
            process.wait(20)
        took.append(time.monotonic() - began)
        assert name in log.read_text(), "it says who hung"
        follower = world.ready()
        world.until(lambda name=name: world.find("start", name=name, attempt=2))
        follower.end()
        world.start("cancel_rest").wait()
    note(f"exit after at most {max(took):.2f} s, grace 0.3 s")
    assert max(took) <= 0.3 + 1.0 + 0.2
    world.check(failures=True)


def put_unknown(spec: Spec) -> None:
    worker = Worker({**spec, "enqueue": []})

    async def main() -> None:
        async with worker.app.client() as jobs:
            await worker.put(*spec["enqueue"], via=jobs)

    anyio.run(main)


def blocking(spec: Spec) -> None:
    """A handler that keeps the event loop busy for two leases."""
    worker = Worker(spec)

    async def blocks(args: dict, ctx: JobContext) -> None:
        with worker.logged(ctx):
            time.sleep(args["ms"] / 1000)

    worker.app.handler("blocks")(blocks)
    worker.app.run()


@pytest.mark.alone
@pytest.mark.row(8, small=3, full=20)
def test_a_handler_that_blocks_the_loop(world: World, count: int) -> None:
    """The writer thread keeps the heartbeat: no other process declares this one dead, and the job runs once."""
    lease = 0.4
    world.ready(options={"lease": lease})
    process = world.start("chaos.test_stopping:blocking", options={"lease": lease})
    world.until(lambda: len(world.sql("SELECT 1 FROM aether_owners")) == 2)
    for number in range(count):
        job = {"spec": ["blocks", f"blocks-{number}"], "payload": {"ms": 2.5 * lease * 1000}}
        assert world.start("chaos.test_stopping:put_one", **job).wait() == 0
        world.until(lambda n=number: world.find("end", name=f"blocks-{n}"))
    world.until(lambda: not world.sql("SELECT 1 FROM aether_jobs WHERE status < 2"))
    process.send(signal.SIGTERM)
    assert process.wait() == 0, process.tail()
    world.end_all()
    assert world.sql("SELECT count(*) FROM aether_runs WHERE outcome <> 'completed'") == [(0,)]
    assert world.sql("SELECT count(*) FROM aether_runs") == [(count,)]
    world.check(overlaps=False)


def put_one(spec: Spec) -> None:
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            await worker.put(*spec["spec"], via=jobs, payload=spec["payload"])

    anyio.run(main)


class WithoutRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "ExceptionGroup": lambda: ExceptionGroup("many", [ValueError(1), ExceptionGroup("more", [KeyError(2)])]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("worse", [SystemExit(1), KeyboardInterrupt()]),
    "WithoutRepr": WithoutRepr,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
}


def raising(spec: Spec) -> None:
    worker = Worker(spec)

    async def raises(args: dict, ctx: JobContext) -> None:
        with worker.logged(ctx):
            if args["kind"] == "RecursionError":
                await raises(args, ctx)
            raise RAISED[args["kind"]]()

    def raises_in_thread(args: dict, ctx: JobContext) -> None:
        with worker.logged(ctx):
            raise RAISED[args["kind"]]()

    worker.app.handler("raises", retries=1)(raises)
    worker.app.handler("raises-in-thread")(raises_in_thread)

    async def main() -> None:
        async with worker.app as app:
            worker.history.write("ready")
            jobs = []
            for kind in RAISED:
                for handler in ("raises", "raises-in-thread"):
                    for number in range(spec["count"]):
                        name = f"{handler}-{kind}-{number}"
                        jobs.append(await app.enqueue(handler, name, {"kind": kind}))
            await app.enqueue("quick", "afterwards", {})
            for job in jobs:
                ended = await app.wait(job, 30)
                assert ended.status is JobStatus.FAILED, ended
                kind = ended.payload["kind"]
                assert kind in (ended.last_error or ""), (kind, ended.last_error)
            assert (await app.wait("afterwards", 5)).status is JobStatus.COMPLETED

    anyio.run(main)


@pytest.mark.row(9, small=2, full=10)
def test_handlers_that_raise_anything(world: World, count: int) -> None:
    process = world.start("chaos.test_stopping:raising", count=count)
    assert process.wait(60) == 0, process.tail()
    assert world.sql("SELECT count(*) FROM aether_jobs WHERE status = 3") == [(len(RAISED) * 2 * count,)]
    assert world.sql("SELECT max(length(last_error)) FROM aether_jobs")[0][0] <= 8192
    assert world.sql("SELECT count(*) FROM aether_jobs WHERE status = 2") == [(1,)]


# -- row 24 --------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.alone
@pytest.mark.row(24, small=1, full=5)
def test_started_and_stopped_again_and_again(tmp_path: Path, count: int, full: bool) -> None:
    times = 50 if full else 8

    async def one(number: int) -> None:
        app = Aether(str(tmp_path / f"jobs-{number % 3}.db"), scheduler="timer", grace=0.5)

        @app.handler("quick")
        async def quick() -> None:
            await anyio.sleep(0)

        for _ in range(times):
            async with app:
                await app.wait(await app.enqueue("quick"), 20)

    async def main() -> int:
        for number in range(3):  # of each file one descriptor stays, to be used again (docs/protocol.md, W10)
            await one(number)
        await anyio.sleep(0.3)
        gc.collect()
        before = (len(asyncio.all_tasks()), open_files(), threading.active_count())
        for _ in range(count):
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(one, number)
            await anyio.sleep(0.3)
            gc.collect()
            after = (len(asyncio.all_tasks()), open_files())
            assert after == before[:2], (before, after)
        return before[2]

    before = anyio.run(main)
    ours = "aether_bg"  # threads for blocking calls end once they have been idle for ten seconds
    deadline = time.monotonic() + 30
    while any(ours in thread.name for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [thread.name for thread in threading.enumerate() if ours in thread.name]
    assert threading.active_count() - before < 30, "threads of anyio's own pool only"
    assert not list(tmp_path.glob("*-owner-*"))


# -- row 30 --------------------------------------------------------------------------------------


class Crashing:
    """A scheduler whose loop crashes, and which fires when it does not."""

    def __init__(self) -> None:
        self.crashes = 0

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        for _ in range(3):
            await kernel.sleep_until(await kernel.fire_due())
        self.crashes += 1
        raise RuntimeError(f"crash {self.crashes}")


class Hanging:
    def __init__(self) -> None:
        self.told: list[str] = []

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        self.told.append(str(event.part) if isinstance(event, Problem) else type(event).__name__)
        if len(self.told) > 12:
            await anyio.sleep_forever()


@pytest.mark.row(30, small=3, full=20)
def test_a_scheduler_crashes_and_an_observer_hangs(world: World, count: int) -> None:
    """The host is not cancelled, the loop starts again, and it is reported."""

    async def main(number: int) -> None:
        scheduler, observer = Crashing(), Hanging()
        app = Aether(str(world.db), scheduler=scheduler, plugins=[observer], grace=0.3)

        @app.handler("quick")
        async def quick() -> None:
            await anyio.sleep(0)

        began = time.monotonic()
        async with app:
            jobs = [await app.enqueue("quick", f"{number}-{n}") for n in range(10)]
            for job in jobs:
                assert (await app.wait(job, 20)).status is JobStatus.COMPLETED
            await anyio.sleep(0.2)  # the host awaits something else
            jobs = [await app.enqueue("quick", f"{number}-late-{n}") for n in range(3)]
            for job in jobs:
                assert (await app.wait(job, 20)).status is JobStatus.COMPLETED
            health = await app.health()
        assert scheduler.crashes > 0
        assert "scheduler" in health["problems"]
        assert "RuntimeError: crash" in json.dumps(health["problems"])
        assert time.monotonic() - began < 15

    for number in range(count):
        anyio.run(main, number)
    assert world.sql("SELECT count(*) FROM aether_jobs WHERE status = 2") == [(13 * count,)]
    assert world.sql("SELECT count(*) FROM aether_owners") == [(0,)]


# -- row 35 --------------------------------------------------------------------------------------

DEPLOYS = 5


def deployed(spec: Spec) -> None:
    """`app.run()` with a sync handler that outlives every grace; after five deploys it is quick."""
    worker = Worker(spec)

    def patient(args: dict, ctx: JobContext) -> None:
        with worker.logged(ctx):
            time.sleep(30 if ctx.attempt <= DEPLOYS else 0)

    worker.app.handler("patient")(patient)
    worker.app.run()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGTERM, then SIGKILL", "SIGKILL"])
@pytest.mark.row(35, small=2, full=20)
def test_deploys_in_the_middle_of_a_long_thread(worlds: Callable[[str], World], count: int, how: str) -> None:
    """A stop is not counted, also where the supervisor loses its patience; a kill is."""
    for number in range(count):
        world = worlds(f"deployed-{number}").create()
        put = world.start("chaos.test_stopping:put_unknown", enqueue=["patient", "patient"])
        assert put.wait() == 0
        for deploy in range(DEPLOYS):
            process = world.start("chaos.test_stopping:deployed", options={"grace": 0.3 if how == "SIGTERM" else 20})
            world.until(lambda w=world, n=deploy: w.find("start", attempt=n + 1), what=f"attempt {deploy + 1}")
            if how == "SIGKILL":
                process.end()
                continue
            began = time.monotonic()
            process.send(signal.SIGTERM)
            if how != "SIGTERM":
                world.until(lambda w=world: (1,) in w.sql("SELECT stopping FROM aether_owners"), what="the notice")
                process.kill()
            process.wait()
            assert time.monotonic() - began < 10
            assert "NotStarted" not in process.tail()
            assert process.tail().count("aether_bg: stop:") <= 1
        process = world.start("chaos.test_stopping:deployed", options={"grace": 0.3})
        world.until(lambda w=world: w.sql("SELECT 1 FROM aether_jobs WHERE status > 1"), what="the end")
        process.end()
        outcomes = [outcome for (outcome,) in world.sql("SELECT outcome FROM aether_runs ORDER BY token")]
        if how == "SIGKILL":
            assert world.sql("SELECT status, crash_count FROM aether_jobs") == [(3, DEPLOYS)]
            assert outcomes == ["crashed"] * DEPLOYS
        else:
            assert world.sql("SELECT status, crash_count FROM aether_jobs") == [(2, 0)]
            assert outcomes == ["released"] * DEPLOYS + ["completed"]
        world.check(failures=how == "SIGKILL")
