"""Which due rows a store's claims take: limits and pauses of handlers, priority, slots that are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from aether_bg.model import Hold, JobInfo, JobStatus
from aether_bg.testing.contracts.opening import STORE, Opened, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same
from aether_bg.testing.contracts.values import a_job, ago, completed, now

_BOTH: Final = ("Work", "Other")


async def _hold(store: Opened, held: bool, handler: str = "Work") -> None:
    await store.transact(Hold(handler=handler, held=held, at=now(), by="ada"))


@STORE.rule(
    "L1", "no more jobs of a handler run than its limit, in all processes together",
    because="the other side of a limit, an API or a printer, counts every process",
)  # fmt: skip
async def limits_count_all_owners(world: StoreWorld) -> None:
    async with world.open() as store:
        me, other = await store.owner(handlers=_BOTH), await store.owner()
        limited: dict[str, Any] = {"handlers": _BOTH, "limits": {"Work": 3}}
        theirs = await store.running(other)
        jobs = [a_job() for _ in range(6)]
        await store.add(*jobs, *(a_job(handler_name="Other") for _ in range(4)))
        first = (await store.claim(me, **limited)).jobs
        kinds = [job.handler_name for job in first]
        expect_same((kinds.count("Work"), kinds.count("Other")), (2, 4), "Work and Other taken, one of three Work ran")
        expect_same(len((await store.claim(me, **limited)).jobs), 0, "rows taken of a handler that is full")
        left = next(job for job in jobs if job.id not in {job.id for job in first})
        exact = await store.claim(me, job_id=left.id, seq=0, limits={"Work": 3})
        expect(not exact.jobs, "a claim of exactly one job took it although its handler is full")
        await store.save(completed(theirs))
        expect_same(len((await store.claim(me, **limited)).jobs), 1, "rows taken after one of three has ended")
        more = await store.claim(me, handlers=_BOTH, limits={"Work": 5})
        expect_same(len(more.jobs), 2, "rows taken by a process whose own limit is higher")


@STORE.rule(
    "L2", "`next_due` leaves out a handler that is full, and `short` says so",
    because="the process would look again and again, or sleep past the slot that becomes free",
)  # fmt: skip
async def full_handlers_are_not_next(world: StoreWorld) -> None:
    async with world.open() as store:
        owner, soon = await store.owner(handlers=_BOTH), now() + timedelta(minutes=5)
        await store.add(a_job(), a_job(), a_job(handler_name="Other", due_at=soon))
        claimed = await store.claim(owner, handlers=_BOTH, limits={"Work": 1})
        expect_same(len(claimed.jobs), 1, "rows taken with a limit of one")
        expect_same(claimed.next_due, soon, "next_due beside a handler that is full")
        expect(claimed.short, "`short` is False although a due row waits for a limit")
        again = await store.claim(owner, handlers=_BOTH, limits={"Work": 1})
        expect_same((again.jobs, again.next_due, again.short), ((), soon, True), "a claim while a handler is full")
        free = await store.claim(owner, handlers=_BOTH)
        expect_same((free.next_due, free.short), (soon, False), "next_due and short with nothing held back")


@STORE.rule(
    "L3", "rows of a paused handler are not taken, not due and not unarmed, until it is resumed",
    because="after a pause of a kind of work, none of it may start anywhere",
)  # fmt: skip
async def paused_handlers_wait(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner(handlers=_BOTH)
        job, other = a_job(), a_job(handler_name="Other")
        await store.add(job, other)
        for _ in range(2):
            await _hold(store, True)
        later = a_job(due_at=ago(5))
        await store.add(later)
        for row in (job, later):
            exact = await store.claim(owner, job_id=row.id, seq=0)
            expect(not exact.jobs, "a claim of exactly one job took it although its handler is paused")
        expect_same([found.handler_paused for found in await store.find(ids=(job.id, other.id))], [True, False],
                    "`handler_paused` of the rows found")  # fmt: skip
        for asked in ({"due_before": now()}, {"unarmed": True}):
            found = [row.id for row in await store.find(**asked)]
            expect_same(found, [other.id], f"rows found by {asked}")
        alive, stats = await store.beat(owner, handlers=_BOTH), await store.stats()
        expect_same(alive.due, frozenset(("Other",)), "handlers that have due rows, by a heartbeat")
        expect_same((stats.paused_handlers, stats.due, stats.paused), (("Work",), 1, 0), "stats of a paused handler")
        claimed = await store.claim(owner, handlers=_BOTH)
        expect_same([row.id for row in claimed.jobs], [other.id], "rows taken beside a paused handler")
        expect_same(
            (claimed.next_due, claimed.short), (None, False), "next_due and short: paused rows wait for nothing"
        )
        await _hold(store, False)
        await _hold(store, False)
        expect_same((await store.stats()).paused_handlers, (), "paused handlers after the resume")
        taken = [row.id for row in (await store.claim(owner)).jobs]
        expect_same(taken, [later.id, job.id], "rows taken after the resume, with the seq that they had")


@STORE.rule("L3", "a `manual` row is taken though its handler is paused", because="`trigger` runs a paused job once")
async def triggered_rows_are_taken(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        await _hold(store, True)
        one, two = a_job(manual=True, due_at=ago(9)), a_job(manual=True, paused=True)
        await store.add(a_job(due_at=ago(20)), one, two)
        expect_same((await store.beat(owner)).due, frozenset(("Work",)), "handlers that have due rows")
        expect_same([row.id for row in await store.find(due_before=now())], [one.id, two.id], "rows that are due")
        taken = (await store.claim(owner)).jobs
        expect_same([row.id for row in taken], [one.id, two.id], "rows of a paused handler that were taken")


@STORE.rule(
    "L4", "a handler that runs nothing gets the first slot, and the last ones are kept for it",
    because="a slow kind of work would fill every slot, and a quick one wait for its end",
)  # fmt: skip
async def slots_are_kept(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner(handlers=_BOTH)
        about: dict[str, Any] = {"handlers": _BOTH, "busy": frozenset(("Work",)), "kept": 1}
        await store.add(*(a_job(due_at=ago(30 + n)) for n in range(8)))
        first = await store.claim(owner, limit=3, **about)
        expect_same(len(first.jobs), 2, "rows of a busy handler taken with three free slots, one of them kept")
        expect_same((first.next_due, first.short), (None, True), "next_due and short with a slot that is kept")
        late = a_job(handler_name="Other", due_at=ago(1))
        await store.add(late)
        then = (await store.claim(owner, limit=3, **about)).jobs
        expect(late.id in {job.id for job in then}, "a handler that runs nothing waits behind one that does")
        expect_same(len(then), 3, "rows taken with three free slots, once both handlers have some")
        await store.add(a_job(handler_name="Other", due_at=ago(1)))
        last = (await store.claim(owner, limit=1, handlers=_BOTH, busy=frozenset(_BOTH))).jobs
        expect_same([job.handler_name for job in last], ["Work"], "the next of two busy handlers: the earliest due")


@STORE.rule(
    "L5", "higher priority first, one more for each whole minute due, then the earliest",
    because="urgent work must not wait for the rest, nor the rest for ever",
)  # fmt: skip
async def priority_orders_what_is_due(world: StoreWorld) -> None:
    async with world.open() as store:
        owner, at = await store.owner(handlers=_BOTH), now()

        def due(seconds: float, priority: int, **fields: Any) -> JobInfo:
            return a_job(due_at=at - timedelta(seconds=seconds), priority=priority, **fields)

        wanted = [
            due(6300, -5), due(1, 100), due(2, 50, handler_name="Other"), due(59, 1), due(3, 1), due(65, -1),
            due(50, 0, handler_name="Other"), due(4, 0), due(179, -3), due(5, -50), due(59, -100),
        ]  # fmt: skip
        early = due(-1, 100)
        await store.add(*reversed(wanted), early)
        got: list[JobInfo] = []
        for limit in (1, 1, 2, 1, 3, 100):
            got += (await store.claim(owner, limit=limit, now=at, handlers=_BOTH, busy=frozenset(_BOTH))).jobs
        said = [f"{job.priority}, due {(at - (job.due_at or at)).total_seconds():g} s ago" for job in got]
        expect([job.id for job in got] == [job.id for job in wanted], f"the order in which rows were taken: {said}")
        expect_same((await store.the(early)).status, JobStatus.SCHEDULED, "a row of high priority, a second early")
