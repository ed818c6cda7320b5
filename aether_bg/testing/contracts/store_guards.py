"""A store's guards: the fencing token, names, and all or nothing."""

from __future__ import annotations

from collections.abc import Awaitable

import anyio
import attrs

from aether_bg.errors import NameHeld, Stale, StoreError
from aether_bg.model import Insert, JobStatus, RunOutcome, Update, Write
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same, refused
from aether_bg.testing.contracts.values import a_job, a_run, back_to_waiting, cancelled, change, completed


@STORE.rule("C1", "only the holder of the current token records an outcome", because="a job taken over would end twice")
async def an_old_token_is_refused(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        first = await store.running(owner)
        await store.save(back_to_waiting(first))
        second = (await store.claim(owner, job_id=first.id, seq=first.seq + 1)).jobs[0]
        stale = await refused(store.save(completed(first)), Stale, "an outcome with the token of an earlier claim")
        expect(stale.current is not None and stale.current == second, "Stale does not carry the row as it is now")
        await store.same(second, "the row after a refused outcome")
        await store.save(completed(second))
        expect_same((await store.the(first)).status, JobStatus.COMPLETED, "after the outcome of the holder")


@STORE.rule(
    "U1", "an Update is guarded by schedule_rev as well", because="an update while it runs would be overwritten"
)
async def an_old_revision_is_refused(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        await store.save(change(job, next_seq=job.seq, next_rev=job.schedule_rev + 1))
        stale = await refused(store.save(completed(job)), Stale, "an outcome that had not seen the update")
        expect_same(stale.current and stale.current.schedule_rev, 1, "schedule_rev of the row that Stale carries")
        expect_same((await store.the(job)).status, JobStatus.RUNNING, "the row after a refused outcome")
        await store.save(completed(await store.the(job)))


@STORE.rule("C1", "an Update for a job that is gone is Stale", because="the kernel must learn that it was purged")
async def a_save_of_nothing(world: StoreWorld) -> None:
    async with world.open() as store:
        stale = await refused(store.save(change(a_job())), Stale, "an Update of an unknown id")
        expect(stale.current is None, "Stale carries a row, though there is none")


@STORE.rule("C1", "of Updates with one guard one wins", because="two decisions on one state contradict each other")
async def one_of_many_saves_wins(world: StoreWorld) -> None:
    async with world.open() as store:
        job = a_job()
        await store.add(job)
        outcomes = await _all_of([store.save(change(job, retry_count=n)) for n in range(12)])
        expect_same(outcomes.count("done"), 1, "how many of 12 Updates at once were accepted")
        expect_same(outcomes.count("Stale"), 11, f"how many were refused as Stale (of {outcomes})")
        expect_same((await store.the(job)).seq, 1, "seq afterwards")


@STORE.rule("store_transact", "writes happen all or not at all", because="half a unit of work is a lie about the rest")
async def all_or_nothing(world: StoreWorld) -> None:
    async with world.open() as store:
        held, other = a_job("held"), a_job()
        await store.add(held, other)
        failing: dict[str, Write] = {
            "an Insert under a held name": Insert(a_job("held")),
            "an Update with a stale guard": Update(change(attrs.evolve(held, seq=9))),
        }
        for what, fails in failing.items():
            for before in (True, False):
                added = a_job()
                good: list[Write] = [Insert(added), Update(change(other, last_error="written"))]
                batch = [*good, fails] if before else [fails, *good]
                await refused(store.transact(*batch), StoreError, what)
                where = f"{'before' if before else 'after'} {what}"
                expect(await store.row(added) is None, f"an Insert {where} has still happened")
                await store.same(other, f"an Update {where} has still happened")


@STORE.rule(
    "store_transact",
    "an Update may follow the Insert of its row at once",
    because="so jobs are copied with their history",
)
async def an_update_of_what_was_just_inserted(world: StoreWorld) -> None:
    async with world.open() as store:
        waiting = a_job()
        ended = a_job(seq=4, status=JobStatus.COMPLETED, due_at=None, handled_time=waiting.created_at)
        run = a_run(ended, outcome=RunOutcome.COMPLETED, finished_at=ended.handled_time)
        told = change(ended, next_seq=4, status=JobStatus.COMPLETED, due_at=None, runs=(run,))
        same = change(waiting, next_seq=waiting.seq, runs=())
        await store.transact(Insert(waiting), Insert(ended), Update(same), Update(told))
        expect_same((await store.the(ended)).seq, 4, "seq of a row that was inserted and updated")
        expect_same(await store.history(ended.id), [run], "history that an Update brought for it")
        expect_same((await store.the(waiting)).status, JobStatus.SCHEDULED, "the other row")


@STORE.rule("N1", "a name is held by one job", because="a fixed name is how users say `only once`")
async def a_name_is_unique(world: StoreWorld) -> None:
    async with world.open() as store:
        first = a_job("report")
        await store.add(first)
        held = await refused(store.add(a_job("report")), NameHeld, "a second job under a held name")
        expect(held.current.id == first.id, "NameHeld does not carry the holder")
        await refused(store.add(a_job("twice"), a_job("twice")), StoreError, "two jobs of one name in one batch")
        expect(not await store.find(job_name="twice"), "one of two jobs of one name was added")
        await store.add(a_job("Report"), a_job("report "))  # other names


@STORE.rule("N1", "of jobs added at once under one name one wins", because="enqueue is how a job is made idempotent")
async def one_of_many_adds_wins(world: StoreWorld) -> None:
    async with world.open() as store:
        outcomes = await _all_of([store.add(a_job("only")) for _ in range(12)])
        expect_same(outcomes.count("done"), 1, "how many of 12 Inserts at once were accepted")
        expect_same(outcomes.count("NameHeld"), 11, f"how many were refused as NameHeld (of {outcomes})")
        expect_same(len(await store.find(job_name="only")), 1, "rows of that name")


@STORE.rule("N1", "a name that was given up is free", because="a cancelled job must not block its successor")
async def a_name_can_be_given_up(world: StoreWorld) -> None:
    async with world.open() as store:
        for _ in range(3):
            job = a_job("again")
            await store.add(job)
            await store.save(cancelled(job))
        await store.add(a_job("again", holds_name=False, status=JobStatus.CANCELLED, due_at=None))
        successor = a_job("again")
        await store.add(successor)
        rows = await store.find(job_name="again")
        expect_same(rows[0].id, successor.id, "the first row found by name is the holder; its id")
        expect_same(len(rows), 5, "rows that have or had the name")


@STORE.rule("N3", "a name can be given up and taken in one batch", because="`replace` does both in one transaction")
async def a_name_changes_hands(world: StoreWorld) -> None:
    async with world.open() as store:
        old, new = a_job("handed"), a_job("handed")
        await store.add(old)
        await store.transact(Update(cancelled(old)), Insert(new))
        expect_same((await store.find(job_name="handed"))[0].id, new.id, "the holder after the batch")


@STORE.rule("U5", "an Update that takes back a held name is refused", because="`retry` must not make two holders")
async def a_name_taken_back(world: StoreWorld) -> None:
    async with world.open() as store:
        old, new = a_job("mine"), a_job("mine")
        await store.add(old)
        await store.save(cancelled(old))
        await store.add(new)
        row = await store.the(old)
        back = change(row, status=JobStatus.SCHEDULED, holds_name=True, due_at=row.anchor)
        held = await refused(store.save(back), NameHeld, "an Update with holds_name, the name being held")
        expect_same(held.current.id, new.id, "the holder that NameHeld carries")
        await store.same(row, "the row after the refusal")


async def _all_of(doing: list[Awaitable[object]]) -> list[str]:
    """Awaits all at once: "done", or the name of the `StoreError` raised."""
    outcomes: list[str] = []

    async def one(it: Awaitable[object]) -> None:
        try:
            await it
            outcomes.append("done")
        except StoreError as error:
            outcomes.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        for it in doing:
            tasks.start_soon(one, it)
    return outcomes
