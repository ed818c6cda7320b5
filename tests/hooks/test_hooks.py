"""Every hook at work, end to end: order, codecs, stamps, runners, wraps, decisions, schedules, a push scheduler."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest

from aether_bg import (
    Aether,
    GiveUp,
    InvalidMetadata,
    InvalidSchedule,
    JobConflict,
    JobContext,
    JobInfo,
    JobStatus,
    RunOutcome,
    Snooze,
    hookimpl,
    hookspecs,
    schedule,
)
from aether_bg._kernel.timings import Timings
from aether_bg.model import (
    About,
    Decision,
    Failure,
    Fired,
    GiveUpNow,
    HandlerInfo,
    Invocation,
    Problem,
    Raised,
    RetryAt,
    TimedOut,
)
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


async def ran(app: Aether, *args: Any, **options: Any) -> JobInfo:
    return await app.wait(await app.enqueue(*args, **options), 10)


# -- codecs ----------------------------------------------------------------------------------------


class Base64:
    """Not encryption, but as opaque."""

    def encode(self, payload: Any, about: About) -> Any:
        return {"sealed": base64.b64encode(json.dumps(payload).encode()).decode()}

    def decode(self, stored: Any, about: About) -> Any:
        return json.loads(base64.b64decode(stored["sealed"]))


class Tagged:
    def encode(self, payload: Any, about: About) -> Any:
        return {"tag": 1, "payload": payload}

    def decode(self, stored: Any, about: About) -> Any:
        return stored["payload"]


class Codec:
    def __init__(self, codec: Any) -> None:
        self.codec = codec

    @hookimpl
    def dispatch_codec(self) -> Any:
        return self.codec


async def test_codecs_decode_in_reverse_and_stay_invisible(make_app: Make, path: Path) -> None:
    app = make_app(plugins=[Codec(Base64()), Codec(None), Codec(Tagged())])
    got: list[Any] = []
    app.handler("Work")(lambda args: got.append(args))
    async with app:
        first = await app.enqueue("Work", "job", {"secret": 1}, timedelta(hours=1))
        assert await app.enqueue("Work", "job", {"secret": 1}, timedelta(hours=1)) == first, "compared decoded"
        assert await app.enqueue("Work", "job", {"secret": 2}, timedelta(hours=1), if_exists="replace") == first
        async with app.unit_of_work() as uow:
            await app.enqueue("Work", "unit", {"secret": 3})
            uow.run(lambda tx: tx.enqueue("Work", "within", {"secret": 4}))
        assert (await app.wait("unit", 10)).payload == {"secret": 3}
        assert (await app.wait("within", 10)).payload == {"secret": 4}
        assert next(job.payload for job in await app.store.find(handler_name="Work")) == {"secret": 2}
        await app.trigger("job")
        await app.wait("job", 10)
        with contextlib.closing(sqlite3.connect(path)) as conn:
            stored = [json.loads(row[0]) for row in conn.execute("SELECT payload FROM aether_jobs")]
    assert sorted(map(str, got)) == ["{'secret': 2}", "{'secret': 3}", "{'secret': 4}"]
    assert [sorted(payload) for payload in stored] == [["payload", "tag"]] * 3
    assert all("secret" not in str(payload) for payload in stored)


async def test_a_payload_that_cannot_be_decoded_fails_its_job_and_no_other(make_app: Make) -> None:
    """A codec was changed, or its key lost; the rows are kept and can be retried."""
    before = make_app()
    before.handler("Work", retries=3)(lambda args: None)
    async with before.client() as jobs:
        job_id = await jobs.enqueue("Work", "sealed", 5)
        await jobs.enqueue("Work", "later", 5, timedelta(hours=1))
    app = make_app(plugins=[Codec(Base64())])
    app.handler("Work", retries=3)(lambda args: None)
    async with app:
        job = await app.wait(job_id, 10)
        assert (job.status, job.payload) == (JobStatus.FAILED, {"undecoded": 5})
        assert "payload" in str(job.last_error)
        assert "TypeError" in str(job.last_error)
        (run,) = await app.store.history(job_id)
        assert run.outcome is RunOutcome.FAILED
        assert (await ran(app, "Work", payload=6)).status is JobStatus.COMPLETED
        assert [job.payload for job in await app.store.find(limit=2)] == [{"undecoded": 5}] * 2
        await app.update("later", timedelta(hours=2))
        with pytest.raises(JobConflict, match="differs in payload"):
            await app.enqueue("Work", "later", 5, timedelta(hours=2))
    async with before as app:
        (later,) = await app.store.find(job_name="later")
        assert later.payload == 5, "an update leaves what it cannot read as it is"
        await app.retry(job_id)
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED


# -- stamps ----------------------------------------------------------------------------------------


class Stamp:
    def __init__(self, **stamp: Any) -> None:
        self.stamp = stamp

    @hookimpl
    def dispatch_stamp(self, job: JobInfo) -> Mapping[str, Any] | None:
        if "raise" in self.stamp:
            raise ValueError("no tenant")
        return self.stamp or None


async def test_stamps_merge_in_order_and_the_callers_metadata_wins(make_app: Make) -> None:
    app = make_app(plugins=[Stamp(a=1, b=1, c=1), Stamp(), Stamp(b=2, c=2)])
    app.handler("Work")(lambda: None)
    async with app:
        job_id = await app.enqueue("Work", metadata={"c": 3})
        async with app.unit_of_work():
            inside = await app.enqueue("Work")
        for id_, metadata in ((job_id, {"a": 1, "b": 2, "c": 3}), (inside, {"a": 1, "b": 2, "c": 2})):
            job = await app.store.get(id_)
            assert job is not None
            assert job.metadata == metadata


async def test_a_bad_stamp_fails_the_enqueue(make_app: Make) -> None:
    for stamp, error in ((Stamp(**{"raise": 1}), ValueError), (Stamp(a=object()), InvalidMetadata)):
        app = make_app(plugins=[stamp])
        app.handler("Work")(lambda: None)
        async with app:
            with pytest.raises(error):
                await app.enqueue("Work")
            assert await app.store.find() == []


# -- runners ---------------------------------------------------------------------------------------


class Runs:
    """Takes handlers of one name."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    @hookimpl
    def dispatch_runner(self, handler: HandlerInfo) -> Any:
        if handler.name != self.name:
            return None

        async def run(ctx: JobContext, call: Invocation) -> Any:
            self.told.append(f"{self.name} {ctx.job.job_name} {handler.retries}")
            return call()

        return run


async def test_a_runner_takes_the_handlers_it_wants(make_app: Make) -> None:
    told: list[str] = []
    app = make_app(plugins=[Runs("Mine", told)])
    app.handler("Mine", retries=2)(lambda args: told.append(args))
    app.handler("Other")(lambda: told.append("other"))
    async with app:
        assert (await ran(app, "Mine", "job", "payload")).status is JobStatus.COMPLETED
        assert (await ran(app, "Other")).status is JobStatus.COMPLETED
    assert told == ["Mine job 2", "payload", "other"]


# -- wraps -----------------------------------------------------------------------------------------


class Wraps:
    def __init__(self, name: str, told: list[str], error: Exception | None = None, quiet: bool = False) -> None:
        self.name, self.told, self.error, self.quiet = name, told, error, quiet

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> Any:
        if self.quiet:
            return None

        @asynccontextmanager
        async def wrap() -> AsyncIterator[None]:
            self.told.append(f"{self.name} in")
            if self.error is not None and ctx.attempt == 1:
                raise self.error
            try:
                yield
            except ValueError as error:
                self.told.append(f"{self.name} saw {error}")
                raise
            finally:
                self.told.append(f"{self.name} out")

        return wrap()


async def test_wraps_stack_in_order_of_registration(make_app: Make) -> None:
    told: list[str] = []
    app = make_app(plugins=[Wraps("outer", told), Wraps("quiet", told, quiet=True), Wraps("inner", told)])
    app.handler("Work")(lambda: told.append("work"))

    @app.handler("Fails")
    async def fails() -> None:
        raise ValueError("no")

    @app.handler("Typed")
    async def typed(args: int) -> None: ...

    async with app:
        assert (await ran(app, "Work")).status is JobStatus.COMPLETED
        assert told == ["outer in", "inner in", "work", "inner out", "outer out"]
        told.clear()
        assert (await ran(app, "Fails")).status is JobStatus.FAILED
        assert told == ["outer in", "inner in", "inner saw no", "inner out", "outer saw no", "outer out"]


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (RuntimeError("no licence"), JobStatus.FAILED, RunOutcome.FAILED),
        (GiveUp("closed"), JobStatus.FAILED, RunOutcome.FAILED),
        (Snooze(timedelta(milliseconds=1)), JobStatus.COMPLETED, RunOutcome.COMPLETED),
    ],
    ids=str,
)
async def test_what_a_wrap_raises_is_the_attempts(make_app: Make, error: Any, status: Any, outcome: Any) -> None:
    told: list[str] = []
    app = make_app(plugins=[Wraps("wrap", told, error)])
    app.handler("Work")(lambda: told.append("work"))
    async with app:
        job = await ran(app, "Work")
        assert job.status is status
        runs = await app.store.history(job.id)
        assert runs[0].outcome is outcome
        assert ("work" in told) == (status is JobStatus.COMPLETED)


# -- decisions ---------------------------------------------------------------------------------------


class Decides:
    def __init__(self, decide: Callable[[JobContext, Failure], Decision | None]) -> None:
        self.decide = decide
        self.failures: list[Failure] = []

    @hookimpl
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
        self.failures.append(failure)
        return self.decide(ctx, failure)


async def test_decisions(make_app: Make, clock: FakeClock, step: Any) -> None:
    def decide(ctx: JobContext, failure: Failure) -> Decision | None:
        match ctx.job.handler_name:
            case "Later":
                return RetryAt(clock.now() + timedelta(days=3)) if ctx.attempt == 1 else None
            case "Never":
                return GiveUpNow("not worth it")
            case "Broken":
                raise ZeroDivisionError("in the plugin")
        return None

    decides = Decides(decide)

    class Watches:
        problems: list[Any] = []  # noqa: RUF012

        @hookimpl
        async def lifecycle_event(self, event: Any) -> None:
            if isinstance(event, Problem):
                self.problems.append(event)

    app = make_app(plugins=[decides, Watches()], clock=clock, scheduler=step)

    async def fails() -> None:
        raise ValueError("no")

    for name in ("Later", "Never", "Broken", "Mine"):
        app.handler(name, retries=1 if name != "Later" else 0)(fails)

    @app.handler("Slow", timeout=0.01)
    async def slow() -> None:
        await anyio.sleep(10)

    async with app:
        ids = {name: await app.enqueue(name) for name in ("Later", "Never", "Broken", "Mine", "Slow")}
        await app.drain()
        rows = {name: await app.store.get(job_id) for name, job_id in ids.items()}
        later, never, broken, mine = (rows[name] for name in ("Later", "Never", "Broken", "Mine"))
        assert later is not None
        assert (later.status, later.due_at, later.retry_count) == (
            JobStatus.SCHEDULED, clock.now() + timedelta(days=3), 1,
        )  # fmt: skip
        assert never is not None
        assert never.status is JobStatus.FAILED
        assert "not worth it" in str(never.last_error)
        assert broken is not None
        assert mine is not None
        assert (broken.status, mine.status) == (JobStatus.SCHEDULED, JobStatus.SCHEDULED), "their retries decide"
        assert [type(failure) for failure in decides.failures].count(TimedOut) == 1
        assert all(isinstance(f.error, ValueError) for f in decides.failures if isinstance(f, Raised))
        clock.advance(days=3)
        await app.drain()
        job = await app.store.get(ids["Later"])
        assert job is not None
        assert job.status is JobStatus.FAILED
    assert [problem.part for problem in Watches.problems][:1] == ["dispatch_decide"]


# -- schedules ---------------------------------------------------------------------------------------


@attrs.frozen
class Full:
    """Every full hundred seconds of the epoch: a schedule of a plugin's own."""

    text: str
    timezone: str | None = None
    recurring: bool = True

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        stamp = int(after.timestamp()) // 100 * 100 + 100
        return datetime.fromtimestamp(stamp, after.tzinfo)

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor)

    def upcoming(self, n: int, after: datetime | None = None, anchor: datetime | None = None) -> list[Any]:
        return []

    def describe(self) -> str:
        return "every hundred seconds"


RAISED = {"boom": KeyError("boom"), "exit": SystemExit("exit"), "interrupted": KeyboardInterrupt()}


class Parses:
    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> Any:
        if text == "every hundred":
            return Full(text, timezone)
        if text.startswith("every"):
            raise InvalidSchedule(text, field=None, reason="only hundreds", example="every hundred")
        if text in RAISED:
            raise RAISED[text]
        return None


def test_control_c_during_a_plugins_schedule_is_no_bad_schedule(make_app: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_app(plugins=[Parses()]).registration.calls.parse("interrupted", None)


async def test_schedules_of_a_plugins_own(make_app: Make, clock: FakeClock, step: Any) -> None:
    app, seen = make_app(plugins=[Parses()], clock=clock, scheduler=step), []

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        seen.append(ctx.occurrence)

    async with app:
        await app.enqueue("Work", "job", schedule="every hundred", repeats=3)
        await app.enqueue("Work", "plain", schedule="@daily")
        with pytest.raises(InvalidSchedule, match="only hundreds"):
            await app.enqueue("Work", schedule="every ten")
        for text, raised in (("boom", "KeyError"), ("exit", "SystemExit")):
            with pytest.raises(InvalidSchedule, match=rf"plugin failed.*{raised}"):
                await app.enqueue("Work", schedule=text)
        for _ in range(3):
            clock.advance(seconds=100)
            await app.drain()
        assert (await app.wait("job", 10)).status is JobStatus.COMPLETED
        await app.update("plain", "every hundred")
        assert len(seen) == 3
    plain = make_app(clock=clock, scheduler=type(step)())
    plain.handler("Work")(lambda: None)
    clock.advance(seconds=100)
    async with plain:
        await plain.drain()
        job = await plain.store.get_by_job_name("plain")
        assert job is not None
        assert job.status is JobStatus.SCHEDULED, "it waits for a process that can read its schedule"
        assert len(seen) == 3
    assert isinstance(schedule.parse("@daily"), schedule.Schedule)


# -- a scheduler that pushes: the door (docs/protocol.md, C1, C2, C3, D4, D5) -------------------------------


class Push:
    """Holds what is armed; the test fires."""

    def __init__(self) -> None:
        self.held: dict[UUID, tuple[int, datetime]] = {}
        self.armed: list[tuple[str, int, str]] = []
        self.refuse = 0
        self.kernel: Kernel

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        self.kernel = kernel

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await anyio.sleep_forever()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        self.armed.append((job.job_name, job.seq, job.status.name))
        if self.refuse:
            self.refuse -= 1
            raise ConnectionError("the engine is away")
        if job.status is JobStatus.SCHEDULED and (not job.paused or job.manual):
            assert job.occurrence is not None
            self.held[job.id] = (job.seq, job.occurrence)
        else:
            self.held.pop(job.id, None)
        return True

    async def fire(self, job_id: UUID, seq: int | None = None, store: UUID | None = None) -> Fired:
        held = self.held.get(job_id, (-1, self.kernel.clock.now()))
        return await self.kernel.fire(store or self.kernel.store_id, job_id, held[0] if seq is None else seq, held[1])

    async def until_held(self, job_id: UUID, seq: int) -> None:
        with anyio.fail_after(10):
            while self.held.get(job_id, (-1,))[0] != seq:
                await anyio.sleep(0.003)


async def until(app: Aether, job_id: UUID, status: JobStatus, seq: int | None = None) -> JobInfo:
    with anyio.fail_after(10):
        while True:
            job = await app.store.get(job_id)
            assert job is not None
            if job.status is status and seq in (None, job.seq):
                return job
            await anyio.sleep(0.003)


async def test_what_the_door_answers(make_app: Make, clock: FakeClock) -> None:
    push = Push()
    app = make_app(scheduler=push, clock=clock, concurrency=1)
    gate = anyio.Event()
    runs: list[JobContext] = []

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        runs.append(ctx)
        await gate.wait()

    async with app:
        job_id = await app.enqueue("Work", "job", schedule="@every 1h")
        await push.until_held(job_id, 0)
        assert await push.fire(job_id) is Fired.RETRY, "an hour early"
        assert await push.fire(job_id, store=UUID(int=7)) is Fired.RETRY, "another store's"
        clock.advance(minutes=59, seconds=59, milliseconds=950)
        assert await push.fire(job_id) is Fired.CLAIMED, "early by less than a second: it waits"
        clock.advance(milliseconds=50)
        running = await until(app, job_id, JobStatus.RUNNING)
        assert await push.fire(job_id, seq=0) is Fired.CONSUMED, "redelivered"
        assert await push.fire(job_id, seq=running.seq) is Fired.CONSUMED
        before = len(push.armed)
        await anyio.sleep(0.02)
        assert not any(status == "RUNNING" and (job_id in push.held) for _, _, status in push.armed[before:])
        gate.set()
        next_ = await until(app, job_id, JobStatus.SCHEDULED, 2)
        await push.until_held(job_id, next_.seq)
        assert push.held[job_id][1] == clock.now() + timedelta(hours=1)
        assert await push.fire(job_id, seq=0) is Fired.CONSUMED, "an old seq"
        await app.pause(job_id)
        await until(app, job_id, JobStatus.SCHEDULED, 3)
        with anyio.fail_after(10):
            while job_id in push.held:
                await anyio.sleep(0.003)
        assert await push.fire(job_id, seq=3) is Fired.CONSUMED, "paused"
        await app.trigger(job_id)
        await push.until_held(job_id, 4)
        assert await push.fire(job_id) is Fired.CLAIMED, "triggered though paused"
        await until(app, job_id, JobStatus.SCHEDULED, 6)
        await app.delete(job_id)
        assert await push.fire(job_id, seq=6) is Fired.CONSUMED, "terminal"
        assert await push.fire(UUID(int=1), seq=0) is Fired.CONSUMED, "unknown, or purged"
        clock.advance(minutes=10, seconds=1)
        foreign = await push.kernel.fire(UUID(int=7), job_id, 0, clock.now() - timedelta(minutes=11))
        assert foreign is Fired.CONSUMED, "another store's, for ten minutes"
    assert len(runs) == 2


async def test_a_trigger_whose_claim_is_refused_comes_again(make_app: Make, path: Path) -> None:
    """This owner's row is gone (the process was frozen for longer than a lease): the row still waits, with this seq."""
    push, refused = Push(), 0
    app = make_app(scheduler=push)
    app.handler("Work")(lambda: None)
    async with app:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
            for number in range(30):
                job_id = await app.enqueue("Work", f"job-{number}")
                await push.until_held(job_id, 0)
                conn.execute("DELETE FROM aether_owners")
                with anyio.fail_after(10):
                    while (answer := await push.fire(job_id, seq=0)) is Fired.RETRY:
                        refused += 1
                        await anyio.sleep(0.05)
                assert answer is Fired.CLAIMED
                assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED
                if refused:
                    break
    assert refused


async def test_triggers_of_other_stores_are_reported_in_measure(
    make_app: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    push = Push()
    app = make_app(scheduler=push, clock=clock)
    async with app:
        for number in range(200):
            store, job = UUID(int=number + 7), UUID(int=number)
            long_ago = clock.now() - timedelta(minutes=11)
            assert await push.kernel.fire(store, job, 0, long_ago) is Fired.CONSUMED
        assert len([text for text in caplog.messages if "another store" in text]) == 1
        clock.advance(seconds=61)
        assert await push.kernel.fire(UUID(int=7), UUID(int=1), 0, long_ago) is Fired.CONSUMED
        assert len([text for text in caplog.messages if "another store" in text]) == 2


async def test_no_early_run_by_an_old_trigger_of_a_retry(make_app: Make, clock: FakeClock) -> None:
    """Row 29 of the crash programme."""
    push, runs = Push(), []
    app = make_app(scheduler=push, clock=clock)

    @app.handler("Fails", retries=1)
    async def fails() -> None:
        runs.append(1)
        raise ValueError

    @app.handler("Work")
    async def work() -> None:
        runs.append(1)

    async with app:
        job_id = await app.enqueue("Fails")
        await push.until_held(job_id, 0)
        assert await push.fire(job_id) is Fired.CLAIMED
        await until(app, job_id, JobStatus.SCHEDULED, 2)
        for _ in range(5):
            assert await push.fire(job_id, seq=0) is Fired.CONSUMED
        assert len(runs) == 1
        there = await app.enqueue("Work", "there", schedule=timedelta(seconds=1))
        await app.update(there, timedelta(hours=1))
        await app.update(there, timedelta(seconds=1))
        clock.advance(seconds=1)
        for seq in (0, 1):
            assert await push.fire(there, seq=seq) is Fired.CONSUMED
        await push.until_held(there, 2)
        assert await push.fire(there) is Fired.CLAIMED
        assert (await app.wait(there, 10)).status is JobStatus.COMPLETED
    assert len(runs) == 2


async def test_arming_that_fails_is_asked_again(make_app: Make) -> None:
    push = Push()
    push.refuse = 1
    app = make_app(scheduler=push)
    app.handler("Work")(lambda: None)
    async with app:
        job_id = await app.enqueue("Work")
        await push.until_held(job_id, 0)
        with anyio.fail_after(10):
            while (await until(app, job_id, JobStatus.SCHEDULED)).armed_seq != 0:
                await anyio.sleep(0.003)
        assert "ConnectionError" in (await app.health())["problems"]["schedule_arm"]


async def test_an_engine_that_is_back_is_not_kept_waiting(make_app: Make) -> None:
    """The outbox asks ever more rarely; `wake` says that it may ask again."""
    push = Push()
    push.refuse = 6  # 0.05, 0.1 … 1.6 s between
    app = make_app(scheduler=push, timings=Timings(arming_backoff=(0.05, 600.0)))
    app.handler("Work")(lambda: None)
    async with app:
        job_id = await app.enqueue("Work", schedule=timedelta(hours=1))
        with anyio.fail_after(10):
            while push.refuse:
                push.kernel.wake()
                await anyio.sleep(0.003)
        push.refuse = 10**6
        await anyio.sleep(0.3)
        refused = 10**6 - push.refuse
        push.refuse = 0
        push.kernel.wake()
        await push.until_held(job_id, 0)
        assert refused <= 3


async def test_a_verb_beside_the_arming_does_not_hide_it(make_app: Make) -> None:
    """A verb that read the row before it was marked as armed: the engine still forgets it."""
    push = Push()
    app = make_app(scheduler=push)
    app.handler("Work")(lambda: None)
    async with app:
        for _ in range(20):
            job_id = await app.enqueue("Work", schedule=timedelta(hours=1))
            while job_id not in push.held:
                await anyio.sleep(0)
            await app.pause(job_id)  # while the mark is on its way
            with anyio.fail_after(10):
                while job_id in push.held:
                    await anyio.sleep(0.003)


async def test_of_a_group_of_errors_each_is_named(make_app: Make) -> None:
    class Broken:
        @hookimpl
        async def schedule_run(self, kernel: Kernel) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(self._fail)

        async def _fail(self) -> None:
            raise ConnectionError("no engine at port 1")

    async with make_app(scheduler=Broken()) as app:
        with anyio.fail_after(10):
            while not (health := await app.health())["problems"]:
                await anyio.sleep(0.01)
        assert health["problems"] == {"scheduler": "ConnectionError: no engine at port 1"}
        assert not health["ok"]


async def test_a_caller_cancelled_at_the_door_leaves_no_orphan(make_app: Make) -> None:
    """docs/protocol.md, C5."""
    push = Push()
    app = make_app(scheduler=push)
    app.handler("Work")(lambda: None)
    async with app:
        for number in range(20):
            job_id = await app.enqueue("Work")
            await push.until_held(job_id, 0)
            with anyio.move_on_after(0.0002 * number):
                await push.fire(job_id)
            with anyio.fail_after(10):
                while (await app.store.get(job_id)).status is not JobStatus.COMPLETED:  # type: ignore[union-attr]
                    await push.fire(job_id, seq=0)
                    await anyio.sleep(0.005)
            assert len(await app.store.history(job_id)) == 1


def test_every_hook_has_a_test() -> None:
    """A hook that no plugin in tests/hooks implements is untested; SQLiteStore, the owner, covers its layer."""
    implemented = set()
    for file in Path(__file__).parent.glob("*.py"):
        implemented |= {name for name in hookspecs.SPECS if f"def {name}(" in file.read_text(encoding="utf-8")}
    assert len(hookspecs.SPECS) == 20
    assert hookspecs.SPECS.keys() - implemented - set(hookspecs.LAYERS["persistence"]) == set()
