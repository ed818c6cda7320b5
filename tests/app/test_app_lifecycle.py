"""Start, stop, plugins' loops, observers, clients, declarations, two apps on one file. docs/protocol.md, S and P."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobStatus, NotAnOwner, NotStarted, RunOutcome, SQLiteStore, hookimpl
from aether_bg.model import (
    Altered,
    AppStarted,
    AppStopped,
    Ended,
    Enqueued,
    Event,
    Missed,
    Problem,
    Started,
)
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

pytestmark = pytest.mark.anyio
Make = Callable[..., Aether]


class Observer:
    def __init__(self, name: str = "", told: list[Any] | None = None) -> None:
        self.name, self.events, self.told = name, [], told
        self.fails = False
        self.hangs: anyio.Event | None = None

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        self.events.append(event)
        if self.told is not None:
            self.told.append((self.name, type(event).__name__))
        if self.hangs is not None:
            await self.hangs.wait()
        if self.fails:
            raise RuntimeError("an observer fails")

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


async def eventually(condition: Callable[[], Any], within: float = 10) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


# -- start and stop --------------------------------------------------------------------------------


@pytest.mark.one_loop
async def test_verbs_want_a_running_app(app: Aether) -> None:
    app.handler("Work")(lambda: None)
    for call in (
        lambda: app.enqueue("Work"), lambda: app.wait("x"), lambda: app.update("x", "@daily"),
        lambda: app.delete("x"), lambda: app.retry("x"), lambda: app.trigger("x"), lambda: app.pause("x"),
        lambda: app.resume("x"), lambda: app.drain(), lambda: app.health(), lambda: app.explain("x"),
    ):  # fmt: skip
        with pytest.raises(NotStarted, match=r"not running.*async with app"):
            await call()
    with pytest.raises(NotStarted):
        _ = app.store
    with pytest.raises(NotStarted):
        async with app.unit_of_work():
            pass
    async with app:
        await app.wait(await app.enqueue("Work", "one"), 10)
    with pytest.raises(NotStarted):
        await app.enqueue("Work")
    async with app:
        assert (await app.store.get_by_job_name("one")) is not None, "an app can be started again"
        await app.wait(await app.enqueue("Work", "two"), 10)


async def test_the_grace_lets_running_jobs_end(make_app: Make) -> None:
    app, begun = make_app(grace=5), anyio.Event()

    @app.handler("Slow")
    async def slow() -> None:
        begun.set()
        await anyio.sleep(0.15)

    async with app:
        job_id = await app.enqueue("Slow")
        with anyio.fail_after(10):
            await begun.wait()
    async with app:
        job = await app.store.get(job_id)
        assert job is not None
        assert job.status is JobStatus.COMPLETED


@pytest.mark.parametrize("deaf", [False, True])
async def test_attempts_longer_than_the_grace_are_released_uncounted(make_app: Make, deaf: bool) -> None:
    """docs/protocol.md, S1: also a handler that swallows its cancellation cannot hold the stop up."""
    app, begun, go, starts = make_app(grace=0.05), anyio.Event(), anyio.Event(), []

    @app.handler("Slow")
    async def slow(ctx: Any = None) -> None:
        starts.append(1)
        begun.set()
        if len(starts) == 1:
            with anyio.CancelScope(shield=deaf):
                await go.wait()

    async with app:
        job_id = await app.enqueue("Slow")
        with anyio.fail_after(10):
            await begun.wait()
        stopping = anyio.current_time()
    assert anyio.current_time() - stopping < 5
    async with app.client() as jobs:
        job = await jobs.store.get(job_id)
        assert job is not None
        assert (job.status, job.retry_count, job.crash_count) == (JobStatus.SCHEDULED, 0, 0)
        (run,) = await jobs.store.history(job_id)
        assert run.outcome is RunOutcome.RELEASED
    go.set()
    await anyio.sleep(0.02)
    async with app:
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
        assert [run.outcome for run in await app.store.history(job_id)] == ["completed", "released"]


async def test_a_handler_that_ends_well_after_the_stop_cancelled_it_succeeded(make_app: Make) -> None:
    """docs/protocol.md, S2."""
    app, begun = make_app(grace=0), anyio.Event()

    @app.handler("Tidy")
    async def tidy() -> None:
        begun.set()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)

    async with app:
        job_id = await app.enqueue("Tidy")
        with anyio.fail_after(10):
            await begun.wait()
    async with app.client() as jobs:
        job = await jobs.store.get(job_id)
        assert job is not None
        assert job.status is JobStatus.COMPLETED


async def test_many_starts_leave_nothing_behind(make_app: Make) -> None:
    """Row 24 of the crash programme."""
    app = make_app()
    app.handler("Work")(lambda: None)

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    kept = [f"aether_bg {pool}" for pool in ("reader", "kernel", "handler")]

    def lasting() -> Counter[str]:
        """Without those that are kept for further calls, and end some seconds after their last: ours, and trio's."""
        names = [thread.name for thread in threading.enumerate()]
        return Counter(name for name in names if name not in kept and not name.startswith("Trio thread"))

    async def once() -> None:
        async with app:
            await app.wait(await app.enqueue("Work"), 10)

    await once()
    await once()
    threads, files = lasting(), open_files()
    for _ in range(8):
        await once()
    with anyio.move_on_after(5):  # the last one's are still ending
        while lasting() - threads:
            await anyio.sleep(0.01)
    assert not lasting() - threads
    assert open_files() <= files
    assert [name.name for name in Path(app.plugins.owners("persistence")[0].path).parent.glob("*-owner-*")] == []


async def test_apps_beside_each_other(tmp_path: Path) -> None:
    async def one(number: int) -> None:
        app = Aether(tmp_path / f"{number}.db", scheduler="timer")
        app.handler("Work")(lambda: None)
        for _ in range(2):
            async with app:
                await app.wait(await app.enqueue("Work"), 20)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, number)


async def test_an_error_in_the_body_comes_out_unchanged(app: Aether) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app:
            raise ZeroDivisionError
    async with app:
        pass


async def test_a_cancelled_body_stops_the_app(app: Aether) -> None:
    with anyio.move_on_after(0.1) as scope:
        async with app:
            await anyio.sleep(60)
    assert scope.cancelled_caught
    async with app:
        pass


class Opens:
    def __init__(self, told: list[str], fails: bool = False) -> None:
        self.told, self.fails = told, fails

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        self.told.append("opened")
        stack.callback(self.told.append, "closed")
        if self.fails:
            raise ConnectionError("no licence server")


async def test_an_error_at_the_start_undoes_what_was_opened(make_app: Make) -> None:
    told: list[str] = []
    app = make_app(plugins=[Opens(told), Opens(told, fails=True)])
    with pytest.raises(ConnectionError, match="no licence server"):
        async with app:
            raise AssertionError("it must not start")
    assert told == ["opened", "opened", "closed", "closed"]
    with pytest.raises(NotStarted):
        await app.health()


# -- plugins' loops never cancel the host (docs/protocol.md, S6) -------------------------------------------


class Crashing:
    """A scheduler that fails twice, returns once, then works."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.calls += 1
        if self.calls <= 2:
            raise RuntimeError(f"crash {self.calls}\n\x1b[31m")
        if self.calls == 3:
            return
        while True:
            await kernel.sleep_until(await kernel.fire_due())


async def test_a_crashing_scheduler_is_reported_and_restarted(make_app: Make, caplog: Any) -> None:
    crashing, observer = Crashing(), Observer()
    app = make_app(scheduler=crashing, plugins=[observer])
    app.handler("Work")(lambda: None)
    async with app:
        job = await app.wait(await app.enqueue("Work"), 10)
        assert job.status is JobStatus.COMPLETED
        assert (await app.health())["problems"]["scheduler"]
    assert crashing.calls == 4
    problems = [event for event in observer.events if isinstance(event, Problem)]
    assert [problem.part for problem in problems[:3]] == ["scheduler"] * 3
    assert "\x1b" not in caplog.text
    assert "it returned" in caplog.text


class Spawning:
    def __init__(self) -> None:
        self.told: list[str] = []

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        async def once() -> None:
            self.told.append("once")

        async def twice() -> None:
            self.told.append("tried")
            if self.told.count("tried") < 2:
                raise ValueError("first try")
            try:
                await anyio.sleep_forever()
            finally:
                self.told.append("cancelled")

        kernel.spawn(once, "once")
        kernel.spawn(twice, "twice")


async def test_spawned_work_is_supervised_and_cancelled_at_the_stop(make_app: Make) -> None:
    plugin = Spawning()
    app = make_app(plugins=[plugin])
    async with app:
        await eventually(lambda: plugin.told.count("tried") == 2)
        assert "twice" in (await app.health())["problems"]
    assert plugin.told.count("once") == 1
    assert plugin.told[-1] == "cancelled"


# -- observers -------------------------------------------------------------------------------------


async def test_observers_see_commits_in_order(make_app: Make, clock: FakeClock, step: Any) -> None:
    told: list[Any] = []
    first, second = Observer("first", told), Observer("second", told)
    first.fails = True
    app = make_app(plugins=[first, second], clock=clock, scheduler=step)

    @app.handler("Work")
    async def work() -> None: ...

    async with app:
        await app.enqueue("Work", "job", schedule="@every 1h", repeats=2)
        await app.pause("job")
        await app.resume("job")
        clock.advance(hours=2, minutes=1)
        await app.drain()
        await app.drain()
        await app.delete("job")
    expected = ["AppStarted", "Enqueued", "Altered", "Altered", "Missed", "Started", "Ended", "Altered", "AppStopped"]
    assert second.kinds() == expected
    assert told == [(name, kind) for kind in expected for name in ("first", "second")]
    started, enqueued, paused, resumed, missed, attempt, ended, deleted, _ = second.events
    assert isinstance(started, AppStarted)
    assert isinstance(enqueued, Enqueued)
    assert enqueued.job.job_name == "job"
    assert isinstance(paused, Altered)
    assert (paused.verb, paused.job.paused) == ("pause", True)
    assert isinstance(resumed, Altered)
    assert isinstance(missed, Missed)
    assert missed.run.count == 1
    assert isinstance(attempt, Started)
    assert isinstance(ended, Ended)
    assert (ended.run.outcome, ended.status) == (RunOutcome.COMPLETED, JobStatus.SCHEDULED)
    assert ended.due_at is not None
    assert isinstance(deleted, Altered)
    assert (deleted.verb, deleted.job.status) == ("delete", JobStatus.CANCELLED)
    assert isinstance(second.events[-1], AppStopped)


async def test_a_hanging_observer_holds_nothing_up(make_app: Make) -> None:
    observer = Observer()
    observer.hangs = anyio.Event()
    app = make_app(plugins=[observer])
    app.handler("Work")(lambda: None)
    async with app:
        for _ in range(20):
            assert (await app.wait(await app.enqueue("Work"), 10)).status is JobStatus.COMPLETED
        assert len(observer.events) == 1
        stopping = anyio.current_time()
    assert anyio.current_time() - stopping < 5


# -- clients ---------------------------------------------------------------------------------------


@pytest.mark.one_loop
async def test_a_client_enqueues_and_queries_and_never_runs(make_app: Make) -> None:
    producer, worker = make_app(), make_app()
    producer.handler("Daily", schedule="@daily")(lambda: None)
    async with producer.client() as jobs:
        job_id = await jobs.enqueue("Elsewhere", "job", {"a": [1]}, metadata={"k": 1})
        assert (await jobs.store.get_by_job_name("Daily")) is None, "a client applies no declarations"
        await anyio.sleep(0.05)
        job = await jobs.store.get(job_id)
        assert job is not None
        assert job.status is JobStatus.SCHEDULED
        assert (await jobs.store.stats()).owners == 0
        assert "Elsewhere" in await jobs.explain("job")
        for verb in ("update", "delete", "retry", "trigger", "pause", "resume", "drain", "run", "health"):
            with pytest.raises(NotAnOwner, match=rf"client\.{verb}.*on the app"):
                getattr(jobs, verb)
        with pytest.raises(AttributeError):
            _ = jobs.nonsense
        async with jobs.unit_of_work() as uow:
            uow.execute("CREATE TABLE mine (x)")
            await jobs.enqueue("Elsewhere", "second")
        got = []
        worker.handler("Elsewhere")(lambda args=None: got.append(args))
        async with worker:
            assert (await jobs.wait(job_id, 10)).status is JobStatus.COMPLETED
            await jobs.wait("second", 10)
            third = await jobs.enqueue("Elsewhere", "third")
            assert (await jobs.wait(third, 10)).status is JobStatus.COMPLETED
    assert sorted(map(str, got)) == ["None", "None", "{'a': [1]}"]


@pytest.mark.one_loop
async def test_a_client_of_a_running_app_shares_its_store(app: Aether) -> None:
    app.handler("Work")(lambda: None)
    async with app:
        async with app.client() as jobs:
            job_id = await jobs.enqueue("Work")
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED, "the app outlives its client"


# -- declarations ------------------------------------------------------------------------------------


@pytest.mark.one_loop
async def test_declared_jobs_are_applied_at_each_start_and_keep_their_phase(
    make_app: Make, clock: FakeClock, step: Any
) -> None:
    def declared(every: str, payload: str = "a") -> Aether:
        app = make_app(clock=clock, scheduler=step)
        app.handler("Tick", schedule=every)(lambda: None)
        app.handler("Work")(lambda args="": None)
        app.declare("Work", "declared", payload, schedule="@every 3h", metadata={"by": "declare"})
        return app

    async with declared("@every 1h") as app:
        tick = await app.store.get_by_job_name("Tick")
        assert tick is not None
        assert (tick.handler_name, tick.job_name, tick.schedule) == ("Tick", "Tick", "@every 1h")
        other = await app.store.get_by_job_name("declared")
        assert other is not None
        assert other.metadata == {"by": "declare"}
        await app.pause("declared")
    clock.advance(minutes=20)
    async with declared("@every 1h") as app:
        again = await app.store.get_by_job_name("Tick")
        assert again is not None
        assert (again.id, again.due_at, again.seq) == (tick.id, tick.due_at, tick.seq), "phase kept"
        kept = await app.store.get_by_job_name("declared")
        assert kept is not None
        assert kept.paused, "to keep a declared job off: pause"
    async with declared("@every 2h", "b") as app:
        changed = await app.store.get_by_job_name("Tick")
        assert changed is not None
        assert (changed.id, changed.schedule) == (tick.id, "@every 2h")
        assert changed.due_at == clock.now() + timedelta(hours=2)
        other = await app.store.get_by_job_name("declared")
        assert other is not None
        assert other.payload == "b"


@pytest.mark.one_loop
async def test_five_apps_declare_the_same(make_app: Make) -> None:
    """Row 20 of the crash programme."""
    apps = [make_app() for _ in range(5)]
    runs: list[int] = []
    for app in apps:
        app.handler("Tick", schedule="@every 24h")(lambda: runs.append(1))
    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as group:
            for app in apps:
                group.start_soon(app.__aenter__)
        for app in apps:
            stack.push_async_exit(app)
        (job,) = await apps[0].store.find()
        assert (await apps[0].store.stats()).owners == 5
        await apps[3].trigger("Tick")
        await eventually(lambda: runs)
        await anyio.sleep(0.05)
        assert len(await apps[1].store.history(job.id)) == 1
    assert runs == [1]


# -- two apps in one process on one file -----------------------------------------------------------


@pytest.mark.one_loop
async def test_two_apps_on_one_file_share_the_work(make_app: Make) -> None:
    ran: list[tuple[str, int]] = []
    one, two = make_app(concurrency=2), make_app(concurrency=2)
    for name, app in (("one", one), ("two", two)):

        def make(name: str) -> Any:
            async def work(args: int) -> None:
                ran.append((name, args))
                await anyio.sleep(0.01)

            return work

        app.handler("Work")(make(name))
    async with one, two:
        for number in range(40):
            await (one if number % 2 else two).enqueue("Work", f"job-{number}", number)
        for number in range(40):
            assert (await one.wait(f"job-{number}", 20)).status is JobStatus.COMPLETED
        assert (await two.store.stats()).runs == 40
    assert sorted(number for _, number in ran) == list(range(40))
    assert {name for name, _ in ran} == {"one", "two"}


async def test_a_job_deleted_by_another_app_is_cancelled_where_it_runs(make_app: Make) -> None:
    worker, other = make_app(), make_app()
    told: list[str] = []

    @worker.handler("Long")
    async def long() -> None:
        told.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            told.append("cancelled")

    async with worker, other:
        job_id = await worker.enqueue("Long")
        await eventually(lambda: told)
        assert await other.delete(job_id)
        assert (await worker.wait(job_id, 10)).status is JobStatus.CANCELLED
        await eventually(lambda: told == ["begun", "cancelled"])
        await anyio.sleep(0)
        assert [run.outcome for run in await worker.store.history(job_id)] == [RunOutcome.CANCELLED]


@pytest.mark.one_loop
async def test_a_handler_only_the_other_app_has_waits_for_it(make_app: Make) -> None:
    one, two = make_app(), make_app()
    one.handler("Old")(lambda: None)
    two.handler("New")(lambda: None)
    async with one, one.client() as jobs:
        job_id = await jobs.enqueue("New")
        await anyio.sleep(0.05)
        async with two:
            assert (await jobs.wait(job_id, 10)).status is JobStatus.COMPLETED


# -- trials, scheduler, health ---------------------------------------------------------------------


@pytest.mark.one_loop
async def test_in_memory() -> None:
    app = Aether(":memory:", scheduler="timer")
    app.handler("Work")(lambda: None)
    async with app:
        assert (await app.wait(await app.enqueue("Work"), 10)).status is JobStatus.COMPLETED
        stats = await app.store.stats()
        assert (stats.completed, stats.total) == (1, 1)


@pytest.mark.one_loop
async def test_the_same_by_layers(path: Path, caplog: Any, monkeypatch: Any) -> None:
    from aether_bg.plugins.timer import Timer

    for name in ("DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.INFO, "aether_bg")
    for app in (
        Aether(path),
        Aether(SQLiteStore(path), scheduler=Timer()),
        Aether(plugins=[SQLiteStore(path), Timer()]),
    ):
        app.handler("Work")(lambda: None)
        async with app:
            assert (await app.wait(await app.enqueue("Work"), 10)).status is JobStatus.COMPLETED
    assert "Timer (no Dapr sidecar is announced)" in caplog.text


@pytest.mark.one_loop
async def test_health(make_app: Make) -> None:
    app = make_app()

    class Db: ...

    class Mail: ...

    def broken() -> None:
        raise ConnectionError("mail server away")

    app.provide(Db, Db, ping=lambda db: None)
    app.handler("Work")(lambda: None)
    async with app:
        health = await app.health()
        assert health["ok"] is True
        assert health["scheduler"].endswith("Timer")
        assert (health["running"], health["problems"]) == ([], {})
        assert health["stats"]["owners"] == 1
        assert list(health["dependencies"].values()) == [None]
    app.provide(Mail, Mail, ping=lambda mail: broken())
    async with app:
        health = await app.health()
        assert health["ok"] is False
        assert [answer for answer in health["dependencies"].values() if answer] == ["ConnectionError: mail server away"]


@pytest.mark.one_loop
@pytest.mark.parametrize(
    ("retention", "left"),
    [(timedelta(0), 0), (2, 2), ({"completed": 1}, 1), ({JobStatus.FAILED: timedelta(0)}, 4), (None, 4)],
    ids=str,
)
async def test_retention(make_app: Make, retention: Any, left: int) -> None:
    app = make_app(retention=retention)
    app.handler("Work")(lambda: None)
    async with app:
        for number in range(4):
            await app.wait(await app.enqueue("Work", f"job-{number}"), 10)
        await app.enqueue("Work", "waiting", schedule=timedelta(hours=1))
    async with app:
        if left < 4:
            with anyio.fail_after(10):
                while (await app.store.stats()).completed > left:
                    await anyio.sleep(0.005)
        else:
            await anyio.sleep(0.05)
        stats = await app.store.stats()
        assert (stats.completed, stats.scheduled) == (left, 1)
        assert await app.store.get_by_job_name("job-3" if left else "waiting") is not None


@pytest.mark.one_loop
async def test_clients_that_start_together_share_one_open_file(app: Aether) -> None:
    app.handler("Work")(lambda: None)

    def writers() -> int:
        return sum(thread.name.startswith("aether_bg writer") for thread in threading.enumerate())

    most = []

    async def one() -> None:
        async with app.client() as jobs:
            await jobs.enqueue("Work")
            most.append(writers())
            await anyio.sleep(0.02)

    before = writers()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
    assert max(most) == before + 1
    assert writers() <= before
    async with app:
        await app.drain()
        assert (await app.store.stats()).completed == 5


def test_a_folder_as_database_is_refused_at_construction(tmp_path: Path) -> None:
    from aether_bg import StoreIsDirectory

    for store in (tmp_path, str(tmp_path)):
        with pytest.raises(StoreIsDirectory, match=r"it is a folder.*regular file"):
            Aether(store, scheduler="timer")


@pytest.mark.one_loop
async def test_empty_objects_count_towards_the_limit_of_payloads(make_app: Make) -> None:
    from aether_bg import InvalidPayload

    app = make_app(max_payload=1000)
    app.handler("Work")(lambda args: None)
    async with app:
        with pytest.raises(InvalidPayload, match=r"3,\d+ bytes.*1,000"):
            await app.enqueue("Work", payload=[{}] * 1000)
        await app.enqueue("Work", payload=[{}] * 300)
