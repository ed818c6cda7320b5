"""Rows 21, 23 and 25: many at once, plugins that fail, a long run."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, InvalidSchedule, JobStatus, SQLiteStore
from aether_bg.errors import (
    DuplicatePlugin,
    HookShape,
    IncompleteLayer,
    LayerConflict,
    NotAPlugin,
    UnknownHook,
)
from aether_bg.plugins.timer import Timer
from chaos.harness import World
from chaos.plugins import Hook, Watched
from chaos.worker import Spec, Worker

MANY = 10_000


def memory(pid: int | str = "self") -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def put_many(spec: Spec) -> None:
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            for start in range(0, MANY, 500):
                async with jobs.unit_of_work():
                    for number in range(start, start + 500):
                        await jobs.enqueue(["quick", "effect"][number % 2], f"many-{number}", {})

    anyio.run(main)


@pytest.mark.alone
@pytest.mark.row(21, small=1, full=5)
def test_ten_thousand_due_at_once(worlds: Callable[[str], World], count: int, note: Callable[[str], None]) -> None:
    for number in range(count):
        world = worlds(f"many-{number}").create()
        process = world.ready()
        before = memory(process.pid)
        put = world.start("chaos.test_load:put_many")
        largest = before
        deadline = time.monotonic() + 120
        while put.alive or world.sql("SELECT 1 FROM aether_jobs WHERE status < 2 LIMIT 1"):
            largest = max(largest, memory(process.pid))
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert put.code == 0, put.tail()
        process.end()
        assert world.sql("SELECT count(*) FROM aether_jobs WHERE status = 2") == [(MANY,)]
        assert world.sql("SELECT count(*) FROM aether_runs") == [(MANY,)]
        assert len(world.find("start")) == MANY
        world.check(overlaps=False)
        note(f"{(largest - before) / 2**20:.0f} MiB more at the most")
        assert largest - before < 64 * 2**20


# -- row 23 --------------------------------------------------------------------------------------


async def nothing(self: Any, kernel: Any) -> None: ...


async def raising_event(self: Any, event: Any) -> None:
    raise RuntimeError("observer")


async def hanging_event(self: Any, event: Any) -> None:
    await anyio.sleep_forever()


def raising_wrap(self: Any, ctx: Any) -> Any:
    if ctx.job.job_name.startswith("victim"):
        raise RuntimeError("wrap")


def hanging_wrap(self: Any, ctx: Any) -> Any:
    @asynccontextmanager
    async def hangs() -> Any:
        await anyio.sleep_forever()
        yield

    return hangs() if ctx.job.job_name.startswith("victim") else None


def raising_decide(self: Any, ctx: Any, failure: Any) -> Any:
    raise RuntimeError("decide")


def raising_parse(self: Any, text: str, timezone: str | None) -> Any:
    if "moon" in text:
        raise RuntimeError("parse")


def raising_stamp(self: Any, job: Any) -> Any:
    if job.job_name.startswith("victim"):
        raise RuntimeError("stamp")


FAILING: dict[str, dict[str, Any]] = {
    "observer raises": {"lifecycle_event": raising_event},
    "observer hangs": {"lifecycle_event": hanging_event},
    "wrap raises": {"dispatch_wrap": raising_wrap},
    "wrap hangs": {"dispatch_wrap": hanging_wrap},
    "decide raises": {"dispatch_decide": raising_decide},
    "parse raises": {"schedule_parse": raising_parse},
    "stamp raises": {"dispatch_stamp": raising_stamp},
}


@pytest.mark.parametrize("what", list(FAILING))
@pytest.mark.row(23, small=2, full=50)
def test_a_plugin_fails_and_the_rest_runs(tmp_path: Path, count: int, what: str) -> None:
    async def main(number: int) -> None:
        app = Aether(str(tmp_path / f"{number}.db"), scheduler="timer", plugins=[Hook(**FAILING[what])], grace=0.2)

        @app.handler("quick", timeout=0.5)
        async def quick() -> None:
            await anyio.sleep(0)

        @app.handler("fails")
        async def fails() -> None:
            raise ValueError("its own")

        began = time.monotonic()
        async with app:
            jobs = [await app.enqueue("quick") for _ in range(5)]
            victim: Any = None
            if what == "stamp raises":
                with pytest.raises(RuntimeError, match="stamp"):
                    await app.enqueue("quick", "victim")
            else:
                victim = await app.enqueue("quick", "victim")
            failing = await app.enqueue("fails")
            if what == "parse raises":
                with pytest.raises(InvalidSchedule, match="a schedule plugin failed"):
                    await app.enqueue("quick", schedule="at full moon")
            for job in jobs:
                assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
            failed = await app.wait(failing, 10)
            assert failed.status is JobStatus.FAILED
            assert "its own" in (failed.last_error or "")
            if victim is not None:
                ended = await app.wait(victim, 10)
                told = {"wrap raises": "RuntimeError: wrap", "wrap hangs": "TimedOut"}.get(what)
                assert ended.status is (JobStatus.FAILED if told else JobStatus.COMPLETED)
                assert told is None or told in (ended.last_error or "")
        assert time.monotonic() - began < 10

    for number in range(count):
        anyio.run(main, number)


@pytest.mark.row(23, small=2, full=50)
def test_a_start_that_raises_is_undone(tmp_path: Path, count: int) -> None:
    async def raises(self: Any, kernel: Any) -> None:
        raise LookupError("no such thing")

    async def main(number: int) -> None:
        path = str(tmp_path / f"{number}.db")
        with pytest.raises(LookupError, match="no such thing"):
            async with Aether(path, scheduler="timer", plugins=[Hook(lifecycle_start=raises)]):
                pass
        assert not list(tmp_path.glob(f"{number}.db-owner-*"))
        async with Aether(path, scheduler="timer") as app:
            assert (await app.store.stats()).owners == 1

    for number in range(count):
        anyio.run(main, number)


@pytest.mark.row(23, small=2, full=50)
def test_plugins_that_do_not_fit(tmp_path: Path, count: int) -> None:
    half = {"store_find": nothing, "store_stats": nothing}
    for _ in range(count):
        path = str(tmp_path / "jobs.db")
        same = Hook(lifecycle_event=raising_event)
        with pytest.raises(DuplicatePlugin, match="twice"):
            Aether(path, plugins=[same, same])
        with pytest.raises((IncompleteLayer, HookShape), match="Hook"):
            Aether(scheduler="timer", plugins=[Hook(**half)])
        with pytest.raises(LayerConflict, match="both own it"):
            Aether(path, scheduler=Timer(), plugins=[Hook(schedule_run=nothing)])
        with pytest.raises(LayerConflict, match="both own it"):
            Aether(path, scheduler="timer", plugins=[Watched(SQLiteStore(path))])
        with pytest.raises(UnknownHook, match="lifecycle_event"):
            Aether(path, plugins=[Hook(lifecycle_events=raising_event)])
        with pytest.raises(HookShape, match="async"):
            Aether(path, plugins=[Hook(dispatch_wrap=raising_event)])
        with pytest.raises(NotAPlugin):
            Aether(path, plugins=[object()])
        assert not list(tmp_path.iterdir())


# -- row 25 --------------------------------------------------------------------------------------


def steady(spec: Spec) -> None:
    """A hundred jobs a second."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            began = time.monotonic()
            for number in range(10**9):
                kind = ("quick", "effect", "sync", "flaky", "quick")[number % 5]
                await worker.put(kind, f"{spec['prefix']}-{number}", via=jobs, payload={"ms": number % 20})
                await anyio.sleep(max(0.0, began + number / 100 - time.monotonic()))

    anyio.run(main)


def slope(samples: list[tuple[float, float]]) -> float:
    """Growth as a share of the mean, per ten minutes."""
    line = statistics.linear_regression([at for at, _ in samples], [value for _, value in samples])
    return line.slope * 600 / statistics.fmean(value for _, value in samples)


@pytest.mark.alone
@pytest.mark.row(25, small=1, full=1)
def test_soak(world: World, full: bool, note: Callable[[str], None]) -> None:
    """The process that is never killed stays as it is, while others die beside it. AETHER_BG_CHAOS_SOAK: seconds."""
    seconds = float(os.environ.get("AETHER_BG_CHAOS_SOAK", "1800" if full else "25"))
    warm = seconds / 5
    chance = random.Random(25)
    options = {"retention": 2000, "concurrency": 50}
    constant = world.ready(options=options)
    others = [world.ready(options=options) for _ in range(2)]
    producer = world.start("chaos.test_load:steady")
    began = time.monotonic()
    series: dict[str, list[tuple[float, float]]] = {"RSS": [], "files": [], "WAL": [], "latency": []}
    kill_at = 1.0
    acknowledged: dict[str, float] = {}
    waits: list[float] = []
    looked = 0
    while (now := time.monotonic() - began) < seconds:
        assert constant.alive, constant.tail()
        if now > kill_at:
            victim = chance.randrange(2)
            others[victim].kill()
            others[victim] = world.start(options=options)
            kill_at = now + chance.uniform(2, 6)
        events = world.events()
        for event in events[looked:]:
            if event["event"] == "ack":
                acknowledged[event["job"]] = event["mono"]
            elif event["event"] == "start" and event["job"] in acknowledged:
                waits.append(max(0.0, event["mono"] - acknowledged.pop(event["job"])))
        looked = len(events)
        if now > warm:
            series["RSS"].append((now, memory(constant.pid)))
            series["files"].append((now, len(os.listdir(f"/proc/{constant.pid}/fd"))))
            series["WAL"].append((now, Path(f"{world.db}-wal").stat().st_size))
            if waits:
                series["latency"].append((now, statistics.median(waits)))
                waits.clear()
        time.sleep(0.5)
    producer.end()
    world.end_all()
    world.settle(60)
    found = world.check(purged=True)
    last = {name: samples[-1][1] for name, samples in series.items()}
    note(f"{found['acks'] / seconds:.0f} jobs/s, {found['restarted']} attempts died, RSS {last['RSS'] / 2**20:.0f} MiB "
         f"{slope(series['RSS']):+.2%} in 10 min, {last['files']:.0f} files, WAL {last['WAL'] / 2**20:.1f} MiB, "
         f"latency p50 {statistics.median(v for _, v in series['latency']) * 1000:.1f} ms")  # fmt: skip
    assert found["acks"] > seconds * 80
    assert max(v for _, v in series["WAL"]) < 32 * 2**20
    files = [v for _, v in series["files"]]
    assert max(files) - min(files) <= 8
    assert statistics.median(v for _, v in series["latency"]) < 0.1
    third = len(series["RSS"]) // 3
    first, end = ([v for _, v in part] for part in (series["RSS"][:third], series["RSS"][-third:]))
    if seconds >= 1800:
        assert slope(series["RSS"]) < 0.01
    assert statistics.median(end) < statistics.median(first) * 1.1
