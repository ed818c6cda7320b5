"""A job that begins with its insert: when that is tried, and what becomes of the row (docs/protocol.md, C9)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest
from kernel.conftest import SOON, World, eventually

from aether_bg._kernel.at_once import AtOnce
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.claimer import Claimer
from aether_bg.errors import NameHeld, NotStarted, StoreBusy, StoreUnsure
from aether_bg.model import Insert, JobContext, JobInfo, JobStatus, Write

pytestmark = pytest.mark.anyio


@attrs.define(eq=False)
class Desk:
    world: World
    begun: list[JobInfo] = attrs.field(factory=list)
    lose: Exception | None = None
    """Raised once the store has committed."""
    keep_back: bool = False
    """So is its answer."""
    at_once: AtOnce = attrs.field(init=False)
    stored: Callable[[Sequence[Write]], Awaitable[Sequence[object]]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        shared, alarm = self.world.shared, self.world.alarm
        self.stored, shared.calls.transact = shared.calls.transact, self.transact  # type: ignore[method-assign]
        claimer = Claimer(shared=shared, alarm=alarm, start=self.begun.extend)
        self.at_once = AtOnce(shared=shared, alarm=alarm, claimer=claimer, journal=self.world.journal)

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        """As a store that can begin a job with its insert."""
        results, first = await self.stored(writes), writes[0]
        if isinstance(first, Insert) and first.claim is not None:
            exact = attrs.evolve(first.claim, job_id=first.job.id, seq=first.job.seq)
            results = (await self.world.shared.calls.claim(exact)).jobs or [None]
        if self.keep_back:
            await anyio.sleep_forever()
        if (error := self.lose) is not None:
            self.lose = None
            raise error
        return results

    async def has(self, job: JobInfo) -> JobInfo:
        """Stored, and not announced."""
        await self.world.store.write(lambda rows: rows.put_job(job))
        return job

    @property
    def claims(self) -> list[bool]:
        """Of each job that was inserted: whether the insert carried a claim."""
        writes = [write for batch in self.world.store.batches for write in batch]
        return [write.claim is not None for write in writes if isinstance(write, Insert)]

    @property
    def reserved(self) -> int:
        return self.world.shared.slots.reserved


@pytest.fixture
def asleep(make_world: Callable[..., World]) -> Callable[..., Any]:
    """`async with asleep(…) as desk`: the scheduler sleeps, and knows of nothing that is due."""

    @asynccontextmanager
    async def made(**options: Any) -> AsyncIterator[Desk]:
        desk = Desk(make_world(**options))
        await desk.world.join()
        desk.world.shared.identity.begins_at_once = True

        async def sleeps() -> None:
            while True:
                await desk.world.alarm.sleep_until(desk.world.clock.now() + SOON)

        async with anyio.create_task_group() as group:
            group.start_soon(sleeps)
            await eventually(lambda: desk.world.alarm.sleeps_past(desk.world.clock.now()))
            yield desk
            group.cancel_scope.cancel()

    return made


async def test_it_begins_once_the_caller_has_gone_on(asleep: Any) -> None:
    async with asleep() as desk:
        job = desk.world.job()
        await desk.at_once.insert(job)
        assert (desk.begun, desk.claims, desk.reserved) == ([], [True], 1), "no claim may take its slot meanwhile"
        await eventually(lambda: desk.begun)
        assert [row.id for row in desk.begun] == [job.id]
        assert (desk.begun[0].status, desk.begun[0].seq, desk.reserved) == (JobStatus.RUNNING, job.seq + 1, 0)


Before = Callable[[Desk], object]

NOT_NOW: dict[str, Before] = {
    "the store cannot": lambda desk: setattr(desk.world.shared.identity, "begins_at_once", False),
    "it stops": lambda desk: setattr(desk.world.shared.identity, "stopping", True),
    "the scheduler looks soon": lambda desk: desk.world.alarm.wake(),
    "something else is due": lambda desk: desk.world.alarm.expect(UUID(int=1), 0, desk.world.clock.now()),
    "it should look by now": lambda desk: desk.world.clock.advance(seconds=60),
    "a trigger claims": lambda desk: desk.world.shared.slots.reserve(desk.world.job("other")),
    "a claim is in progress": lambda desk: desk.at_once._claimer.claims.acquire_nowait(),
}


@pytest.mark.parametrize("before", NOT_NOW.values(), ids=NOT_NOW)
async def test_others_may_come_first(asleep: Any, before: Before) -> None:
    async with asleep(slots=3) as desk:
        before(desk)
        reserved, job = desk.reserved, desk.world.job()
        await desk.at_once.insert(job)
        assert (desk.claims, desk.reserved) == ([False], reserved)
        assert (await desk.world.row(job)).status is JobStatus.SCHEDULED


@pytest.mark.parametrize("late", [timedelta(microseconds=1), None])
async def test_one_that_is_not_due_waits(asleep: Any, late: timedelta | None) -> None:
    async with asleep() as desk:
        await desk.at_once.insert(desk.world.job(due_at=None if late is None else desk.world.clock.now() + late))
        assert desk.claims == [False]


async def test_what_the_store_has_to_count_takes_the_usual_way(asleep: Any) -> None:
    """docs/protocol.md, L1 and A1."""
    async with asleep(concurrency=1) as desk:
        await desk.at_once.insert(desk.world.job())
        assert desk.claims == [False]
    async with asleep() as desk:
        parent = await desk.has(desk.world.job("parent"))
        await desk.at_once.insert(desk.world.job("child"), (parent.id,))
        assert desk.claims == [False]


async def test_a_handler_of_another_process_is_left_to_it(asleep: Any) -> None:
    async with asleep() as desk:
        await desk.at_once.insert(desk.world.job(handler_name="Elsewhere"))
        assert desk.claims == [False]


async def test_without_a_slot_it_waits(asleep: Any) -> None:
    async with asleep(slots=1) as desk:
        other = desk.world.job("other")
        desk.world.shared.slots.begin(Attempt(other, JobContext(other)))
        await desk.at_once.insert(desk.world.job())
        assert desk.claims == [False]


async def test_a_claim_that_the_store_refuses_leaves_the_job_waiting(asleep: Any) -> None:
    async with asleep() as desk:
        desk.world.store._rows.owners.clear()  # docs/protocol.md, P4
        job = desk.world.job()
        await desk.at_once.insert(job)
        assert (desk.claims, desk.reserved) == ([True], 0)
        assert (await desk.world.row(job)).status is JobStatus.SCHEDULED


async def test_a_held_name_frees_the_slot(asleep: Any) -> None:
    async with asleep() as desk:
        held = await desk.has(desk.world.job())
        with pytest.raises(NameHeld):
            await desk.at_once.insert(desk.world.job())
        await anyio.sleep(0.02)
        assert (desk.claims, desk.reserved, desk.begun) == ([True], 0, [])
        assert await desk.world.row(held) == held


UNSURE = StoreUnsure("a commit", "its answer was lost")


async def given_back(desk: Desk, job: JobInfo) -> None:
    with anyio.fail_after(10):
        while (row := await desk.world.row(job)).status is not JobStatus.SCHEDULED or row.seq == job.seq:
            await anyio.sleep(0.002)
    assert (row.attempt, row.owner, desk.reserved, desk.begun) == (0, None, 0, [])


@pytest.mark.parametrize("error", [UNSURE, NotStarted("the app", "it stopped", "Start it.")], ids=["unsure", "other"])
async def test_a_lost_answer_gives_the_row_back(asleep: Any, error: Exception) -> None:
    async with asleep() as desk:
        desk.lose, job = error, desk.world.job()
        with nullcontext() if error is UNSURE else pytest.raises(NotStarted):
            await desk.at_once.insert(job)
        await given_back(desk, job)


async def test_a_cancelled_caller_gives_the_row_back(asleep: Any) -> None:
    async with asleep() as desk:
        desk.keep_back, job = True, desk.world.job()
        with anyio.move_on_after(0.02):
            await desk.at_once.insert(job)
        desk.keep_back = False
        await given_back(desk, job)


async def stays(desk: Desk, job: JobInfo) -> JobInfo:
    """The row, some time after its answer was lost."""
    desk.lose = UNSURE
    await desk.at_once.insert(job)
    await anyio.sleep(0.02)
    return await desk.world.row(job)


@pytest.mark.parametrize("where", ["running", "recording"])
async def test_a_row_that_began_here_all_the_same_is_not_given_back(asleep: Any, where: str) -> None:
    """A trigger, or the heartbeat, may have come first."""
    async with asleep() as desk:
        slots, job = desk.world.shared.slots, desk.world.job()
        if where == "recording":
            slots.recording.add(job.id)
        else:
            slots.running[job.id] = Attempt(job, JobContext(job))
        assert (await stays(desk, job)).status is JobStatus.RUNNING


async def test_a_row_that_another_claim_holds_is_not_given_back(asleep: Any) -> None:
    async with asleep() as desk:
        desk.world.store._rows.owners.clear()
        job, stored = desk.world.job(), desk.stored

        async def taken(writes: Sequence[Write]) -> Sequence[object]:
            results, desk.stored = await stored(writes), stored
            await desk.has(attrs.evolve(job, status=JobStatus.RUNNING, seq=job.seq + 1, owner=UUID(int=7)))
            return results

        desk.stored = taken
        row = await stays(desk, job)
        assert (row.status, row.owner) == (JobStatus.RUNNING, UUID(int=7))


async def test_a_row_that_cannot_be_given_back_is_reported(asleep: Any) -> None:
    """The heartbeat finds it (docs/protocol.md, C5)."""
    async with asleep() as desk:
        reads, busy, job = desk.world.shared.calls.get, StoreBusy("a file", "it is busy"), desk.world.job()

        async def fails(job_id: UUID) -> Any:
            raise busy

        desk.world.shared.calls.get = fails
        desk.lose = busy
        with pytest.raises(StoreBusy):
            await desk.at_once.insert(job)
        await eventually(lambda: "enqueueing" in desk.world.shared.problems.current)
        desk.world.shared.calls.get = reads
        assert ((await desk.world.row(job)).status, desk.reserved) == (JobStatus.RUNNING, 0)
