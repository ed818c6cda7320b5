"""A store's links: children that run after their parents, and names that are held for a while."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import attrs

from aether_bg.errors import JobNotFound, NameHeld
from aether_bg.model import Insert, JobInfo, JobStatus, Settled, Update, Write
from aether_bg.testing.contracts.opening import STORE, Opened, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same, refused
from aether_bg.testing.contracts.values import (
    PAYLOADS,
    a_job,
    a_run,
    alike,
    cancelled,
    change,
    completed,
    failed,
    new_id,
    now,
)


def a_child(*parents: JobInfo, name: str | None = None, after_any: bool = False, due: float = -1) -> Insert:
    """A job that runs after `parents`; by its own schedule it is due in `due` seconds."""
    job = a_job(
        name, parents=len(parents), waits_for=len(parents), after_any=after_any, due_at=now() + timedelta(seconds=due)
    )
    return Insert(job, tuple(parent.id for parent in parents))


async def told(store: Opened, *writes: Write) -> dict[UUID, Settled]:
    """Carries them out; returns the children that their results report, by id."""
    results = await store.transact(*writes)
    expect_same(len(results), len(writes), "the number of results of store_transact")
    found: dict[UUID, Settled] = {}
    for result in results:
        found |= {one.job_id: one for one in cast(Sequence[Settled], result or ())}
    return found


@STORE.rule("A1", "a child waits for its parents", because="it would read what they have not made")
async def a_child_waits(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        first, second = await store.running(owner), a_job(due_at=now() + timedelta(days=1))
        child = a_child(first, second)
        expect_same(await told(store, Insert(second), child), {}, "what is settled by an Insert that must wait")
        row = await store.the(child.job)
        expect_same((row.status, row.waits_for, row.parents), (JobStatus.SCHEDULED, 2, 2), "the child as it waits")
        expect_same((await store.claim(owner)).jobs, (), "what a claim takes while the child waits")
        exactly = await store.claim(owner, job_id=child.job.id, seq=row.seq)
        expect_same(exactly.jobs, (), "what a claim of exactly the child takes while it waits")
        await store.save(completed(first))
        expect_same((await store.the(child.job)).waits_for, 1, "how many it waits for after one of two has ended")
        expect_same((await store.claim(owner)).jobs, (), "what a claim takes while one parent has not ended")
        expect_same((await store.stats()).due, 0, "due in stats")


@STORE.rule("A2", "the last parent's outcome releases the child", because="a crash in between would lose it")
async def a_child_is_released(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        first, second = await store.running(owner), await store.running(owner)
        child, later = a_child(first, second), a_child(first, second, due=3600)
        await store.transact(child, later)
        await store.save(completed(first))
        ended = completed(second)
        settled = await told(store, Update(ended))
        row, waits = await store.the(child.job), await store.the(later.job)
        expect_same((row.status, row.waits_for), (JobStatus.SCHEDULED, 0), "the child after its parents")
        expect_same(row.seq, child.job.seq + 1, "seq after the release, which moves its due instant")
        expect_same(row.due_at, ended.modified_at, "due_at of a child whose own instant has passed")
        expect_same(row.occurrence, child.job.occurrence, "its occurrence")
        expect_same(waits.due_at, later.job.due_at, "due_at of a child whose own instant is still to come")
        expect_same(
            settled,
            {one.id: Settled(one.id, one.seq, one.due_at) for one in (row, waits)},
            "what the results say of the children",
        )
        taken = (await store.claim(owner)).jobs
        expect_same([job.id for job in taken], [child.job.id], "what is claimed after the release")


@STORE.rule("A1", "a parent that has ended counts at once", because="the child would wait for ever")
async def a_parent_may_have_ended(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        done, lost = await store.running(owner), await store.running(owner)
        await store.save(completed(done), failed(lost, last_error="boom\nin line 7"))
        good, bad, anyway = a_child(done), a_child(done, lost), a_child(lost, after_any=True)
        settled = await told(store, good, bad, anyway)
        rows = [await store.the(one.job) for one in (good, bad, anyway)]
        expect_same([row.waits_for for row in rows], [0, 0, 0], "waits_for")
        expect_same(
            [row.status for row in rows],
            [JobStatus.SCHEDULED, JobStatus.CANCELLED, JobStatus.SCHEDULED],
            "children of a COMPLETED one, of a FAILED one, and of that one with after_any",
        )
        expect("failed: boom" in (rows[1].last_error or ""), f"the reason is {rows[1].last_error!r}")
        expect(not rows[1].holds_name, "a child that is cancelled holds its name")
        expect_same(settled.keys(), {row.id for row in rows}, "the children that the results report")


@STORE.rule("N1", "a child of a failed job needs its name too", because="an identical enqueue would store it again")
async def a_cancelled_child_takes_its_name(world: StoreWorld) -> None:
    async with world.open() as store:
        lost, holder, leaving = await store.running(), a_job("held"), await store.running(job_name="left")
        ended = completed(leaving, handled_time=now() - timedelta(seconds=60))
        await store.save(failed(lost), ended)
        await store.add(holder)
        child = a_child(lost, name="held")
        await refused(
            store.transact(Insert(a_job("with it")), child), NameHeld, "a child of a FAILED job, its name held"
        )
        expect(not await store.find(job_name="with it"), "an Insert beside the refused child has happened")
        gone = a_child(lost, name="left")
        await store.transact(attrs.evolve(gone, job=attrs.evolve(gone.job, unique_for=30.0)))
        rows = [await store.the(leaving), await store.the(gone.job)]
        expect_same(
            [row.holds_name for row in rows], [False, False], "who holds the name that the cancelled child took"
        )


@STORE.rule("A1", "a parent must be there", because="a child of nothing would wait for ever")
async def a_parent_must_exist(world: StoreWorld) -> None:
    async with world.open() as store:
        known, unknown = a_job(), a_job()
        await store.add(known)
        child = a_child(known, unknown, name="child")
        await refused(store.transact(Insert(a_job("with it")), child), JobNotFound, "a child of an unknown job")
        expect(not await store.find(job_name="with it"), "an Insert beside the refused child has happened")
        await store.add(a_job("child"))
        await refused(store.transact(child), NameHeld, "a child of an unknown job, under a held name")
        parent = a_job()
        await store.transact(Insert(parent), a_child(parent, known))  # the same transaction has it


@STORE.rule("A2", "a parent that fails cancels its children, and theirs", because="they could never run")
async def a_failure_cascades(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        parent, other = await store.running(owner), await store.running(owner)
        child = a_child(parent, other)
        grandchild, anyway = a_child(child.job, name="grandchild"), a_child(child.job, after_any=True)
        await store.transact(child, grandchild, anyway)
        ended = failed(parent, last_error="boom\nin line 7")
        settled = await told(store, Update(ended))
        rows = [await store.the(one.job) for one in (child, grandchild)]
        for row in rows:
            expect_same((row.status, row.due_at), (JobStatus.CANCELLED, None), "a descendant of the FAILED job")
            expect_same(row.handled_time, ended.modified_at, "its handled_time")
            expect_same(row.last_error, f"parent {parent.job_name!r} failed: boom", "its last_error")
            expect_same((row.waits_for, row.seq), (0, 1), "its waits_for and seq")
        free = await store.the(anyway.job)
        expect_same((free.status, free.waits_for), (JobStatus.SCHEDULED, 0), "a child with after_any")
        expect_same(settled.keys(), {free.id, *(row.id for row in rows)}, "the children that the results report")
        await store.save(completed(other))
        await store.same(rows[0], "a cancelled child, once its other parent has completed")
        await store.add(a_job("grandchild"))  # its name is free


@STORE.rule("A2", "a cancelled parent counts as a failed one", because="its child would wait for ever")
async def a_cancelled_parent(world: StoreWorld) -> None:
    async with world.open() as store:
        parent = a_job(due_at=now() + timedelta(days=1))
        child, anyway = a_child(parent), a_child(parent, after_any=True)
        await store.transact(Insert(parent), child, anyway)
        await store.save(cancelled(parent))
        expect_same((await store.the(child.job)).status, JobStatus.CANCELLED, "the child of a deleted job")
        expect_same((await store.the(anyway.job)).waits_for, 0, "waits_for of a child with after_any")


@STORE.rule("A3", "a child that was cancelled can wait again", because="`retry` must not run it before its parents")
async def a_child_rejoins(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        parent, other = await store.running(owner), await store.running(owner)
        child = a_child(parent, other)
        await store.transact(child)
        await store.save(cancelled(child.job))
        await store.save(completed(other))
        row = await store.the(child.job)
        back = change(row, status=JobStatus.SCHEDULED, due_at=row.anchor, holds_name=True, rejoins=True)
        await store.save(back)
        expect_same((await store.the(child.job)).waits_for, 1, "waits_for after an Update that rejoins")
        await store.save(completed(parent))
        expect_same((await store.the(child.job)).waits_for, 0, "waits_for once that parent has ended, too")
        taken = (await store.claim(owner, job_id=child.job.id, seq=back.next_seq + 1)).jobs
        expect_same(len(taken), 1, "how many a claim of the released child takes")


@STORE.rule("A4", "a parent stays while a child needs it", because="the child reads what its parents returned")
async def a_parent_is_not_purged(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        parent, other, alone = [await store.running(owner) for _ in range(3)]
        child = a_child(parent, other)
        await store.transact(child)
        await store.save(completed(parent), completed(alone))
        expect_same(await store.purge(), 1, "how many a purge deletes: a job without children, not the parent")
        expect(await store.row(parent) is not None, "the parent of a waiting child was purged")
        await store.save(completed(other))
        taken = (await store.claim(owner)).jobs
        await store.save(completed(taken[0]))
        expect_same(await store.purge(limit=1), 1, "how many a purge of one deletes afterwards")
        expect_same(await store.purge(), 2, "how many a purge deletes in the end")


@STORE.rule("store_find", "links are found from both ends", because="`explain` and `ctx.parents()` read them")
async def links_are_found(world: StoreWorld) -> None:
    async with world.open() as store:
        jobs = [a_job() for _ in range(5)]
        await store.add(*jobs)
        given = [jobs[index] for index in (3, 0, 4)]
        child, other = a_child(*given), a_child(jobs[0])
        await store.transact(child, other)
        found = await store.find(parents_of=child.job.id)
        expect_same([job.id for job in found], [job.id for job in given], "parents, in the order given")
        page = await store.find(parents_of=child.job.id, after=given[0].id, limit=1)
        expect_same([job.id for job in page], [given[1].id], "a page of parents")
        children = await store.find(children_of=jobs[0].id)
        expect_same([job.id for job in children], [child.job.id, other.job.id], "children")
        named = await store.find(parents_of=child.job.id, job_name=given[2].job_name)
        expect_same([job.id for job in named], [given[2].id], "a parent by name")
        expect_same(await store.find(parents_of=new_id()), [], "parents of no job")
        expect_same(await store.find(children_of=child.job.id), [], "children of a job without")
        others: list[dict[str, Any]] = [
            {"ids": (jobs[1].id,)}, {"job_name": jobs[1].job_name}, {"due_before": now(), "order": "due"}
        ]  # fmt: skip
        for fields in others:
            expect_same(await store.find(children_of=jobs[0].id, **fields), [], f"children that match {fields}")


@STORE.rule("A2", "a thousand parents are one child's", because="a fan-in must not be slow or lose count")
async def a_wide_fan_in(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        parents = [a_job() for _ in range(1000)]
        await store.add(*parents)
        child = a_child(*parents)
        await store.transact(child)
        left = 1000
        while taken := (await store.claim(owner, limit=300)).jobs:
            expect(child.job.id not in {job.id for job in taken}, "the child was claimed before its parents had ended")
            await store.save(*map(completed, taken))
            left -= len(taken)
            if left:
                expect_same((await store.the(child.job)).waits_for, left, "waits_for on the way")
            else:
                break
        expect_same((await store.the(child.job)).waits_for, 0, "waits_for in the end")


@STORE.rule("N10", "a holder gives way once its window has passed", because="`unique_for` is how a name is used again")
async def a_holder_gives_way(world: StoreWorld) -> None:
    async with world.open() as store:
        first = await store.running(job_name="digest")
        await refused(store.add(a_job("digest", unique_for=0.0)), NameHeld, "the name of a RUNNING job")
        ended = completed(first, handled_time=now() - timedelta(seconds=60))
        await store.save(ended)
        await refused(store.add(a_job("digest")), NameHeld, "the name of a job that keeps it")
        await refused(store.add(a_job("digest", unique_for=3600.0)), NameHeld, "a name whose window has not passed")
        second = a_job("digest", unique_for=30.0)
        await store.transact(*(Insert(a_job()) for _ in range(130)), Insert(second), Insert(a_job()))
        expect_same((await store.find(job_name="digest"))[0].id, second.id, "the holder afterwards")
        row = await store.the(first)
        expect_same((row.holds_name, row.status), (False, JobStatus.COMPLETED), "the holder before, afterwards")
        expect_same(row.schedule_rev, ended.next_rev + 1, "its schedule_rev")
        third = a_job("digest")
        await store.save(completed(second, handled_time=now() - timedelta(seconds=31)))
        await store.add(third)  # by the window of the holder
        expect_same((await store.find(job_name="digest"))[0].id, third.id, "the holder in the end")


@STORE.rule("store_history", "results come back as they were", because="another job reads them")
async def results_come_back(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        jobs = [await store.running(owner) for _ in PAYLOADS]
        for job, value in zip(jobs, PAYLOADS, strict=True):
            outcome = completed(job).runs[0].outcome
            run = a_run(job, outcome=outcome, finished_at=now(), result=value, has_result=True)
            await store.save(completed(job, runs=(run,)))
            back = (await store.history(job.id))[0]
            expect(back.has_result and alike(back.result, value), f"result {value!r:.100} came back as {back.result!r}")
        without = await store.running(owner)
        await store.save(completed(without))
        back = (await store.history(without.id))[0]
        expect_same((back.has_result, back.result), (False, None), "a run without a result")
