"""A kernel for tests of the plugin alone: rows in a dict, and a door whose answers the test chooses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import attrs
import grpc.aio  # type: ignore[import-untyped]
from dapr.proto.runtime.v1 import appcallback_pb2_grpc, dapr_pb2_grpc

from aether_bg.model import Fired, JobInfo, JobRun, JobStatus, Query, Stats
from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.plugins.dapr.names import Trigger


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@attrs.define(eq=False)
class StandIn:
    """`answers`: given in turn by `fire`, CLAIMED afterwards. `fired`: what has come, with the moment."""

    store_id: UUID = attrs.field(factory=uuid4)
    owner: UUID = attrs.field(factory=uuid4)
    clock: WallClock = attrs.field(factory=WallClock)
    rows: dict[UUID, JobInfo] = attrs.field(factory=dict)
    answers: list[Fired | Exception] = attrs.field(factory=list)
    fired: list[tuple[Trigger, datetime]] = attrs.field(factory=list)
    reports: list[str] = attrs.field(factory=list)
    broken: list[Exception] = attrs.field(factory=list)
    woken: int = 0
    on_fire: Callable[[Trigger], Awaitable[None]] | None = None

    @property
    def store(self) -> StandIn:
        return self

    async def find(self, query: Query) -> Sequence[JobInfo]:
        if self.broken:
            raise self.broken.pop()
        rows = sorted(self.rows.values(), key=lambda row: row.id)
        if query.ids is not None:
            rows = [row for row in rows if row.id in query.ids]
        if query.status is not None:
            rows = [row for row in rows if row.status in query.status]
        if query.after is not None:
            rows = [row for row in rows if row.id > query.after]
        return rows[: query.limit]

    async def history(self, job_id: UUID, limit: int = 100) -> Sequence[JobRun]:
        return ()

    async def stats(self) -> Stats:
        return Stats(store_id=self.store_id)

    async def fire(self, store_id: UUID, job_id: UUID, seq: int, occurrence: datetime) -> Fired:
        trigger = Trigger(store_id, job_id, seq, occurrence)
        self.fired.append((trigger, self.clock.now()))
        if self.on_fire is not None:
            await self.on_fire(trigger)
        answer = self.answers.pop(0) if self.answers else Fired.CLAIMED
        if isinstance(answer, Exception):
            raise answer
        row = self.rows.get(job_id)
        if answer is Fired.CLAIMED and row is not None and row.seq == seq:
            self.rows[job_id] = attrs.evolve(row, status=JobStatus.RUNNING, seq=seq + 1)
        return answer

    async def fire_due(self) -> datetime | None:
        raise AssertionError("a push scheduler does not pull")

    async def sleep_until(self, when: datetime | None) -> None:
        raise AssertionError("a push scheduler does not pull")

    def wake(self) -> None:
        self.woken += 1

    def spawn(self, fn: Callable[[], Awaitable[object]], name: str) -> None:
        raise AssertionError("not used")

    def report(self, part: str, problem: BaseException | str) -> None:
        self.reports.append(str(problem))

    def add(self, due_in: float = 0.0, **fields: Any) -> JobInfo:
        """A waiting row, due in that many seconds."""
        now = self.clock.now()
        due = now + timedelta(seconds=due_in)
        given: dict[str, Any] = {
            "id": uuid4(),
            "handler_name": "Work",
            "job_name": f"work-{len(self.rows)}",
            "expression_value": "@once",
            "created_at": now,
            "modified_at": now,
            "anchor": now,
            "due_at": due,
            "occurrence": due,
        }
        row = JobInfo(**(given | fields))
        self.rows[row.id] = row
        return row

    def change(self, row: JobInfo, **fields: Any) -> JobInfo:
        self.rows[row.id] = attrs.evolve(self.rows[row.id], **fields)
        return self.rows[row.id]


@asynccontextmanager
async def running(scheduler: DaprScheduler, kernel: StandIn) -> AsyncIterator[None]:
    """The plugin at work, as the kernel runs it."""
    async with AsyncExitStack() as stack, anyio.create_task_group() as group:
        await scheduler.lifecycle_start(kernel, stack)
        woken = kernel.woken
        group.start_soon(scheduler.schedule_run, kernel)
        await until(lambda: kernel.woken > woken)
        yield
        group.cancel_scope.cancel()


async def until(done: Callable[[], bool], timeout: float = 60.0) -> None:
    with anyio.fail_after(timeout):
        while not done():
            await anyio.sleep(0.01)


@asynccontextmanager
async def dapr_api(port: str | int) -> AsyncIterator[Any]:
    """The generated client of a sidecar: what another program would use."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield dapr_pb2_grpc.DaprStub(channel)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def callback(port: int, alpha: bool = False) -> AsyncIterator[Any]:
    """A client of the plugin's own server: calls it as a sidecar does."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = appcallback_pb2_grpc.AppCallbackAlphaStub if alpha else appcallback_pb2_grpc.AppCallbackStub
        yield stub(channel)
