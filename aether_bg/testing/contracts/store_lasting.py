"""A store's life: closed and opened again, shared by two, cancelled in the middle, and under a whole app."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio

from aether_bg import Aether
from aether_bg.errors import NameHeld
from aether_bg.model import Insert, JobInfo, JobStatus, RunOutcome
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same, refused
from aether_bg.testing.contracts.values import a_full_job, a_job, completed, difference


@STORE.rule(
    "store_transact", "what was written is there when opened again", because="nothing may be lost", needs="durable"
)
async def opened_again(world: StoreWorld) -> None:
    async with world.open() as store:
        full, done = a_full_job(), await store.running()
        await store.add(full)
        await store.save(completed(done))
        rows, history, id_ = await store.find(), await store.history(done.id), (await store.stats()).store_id
    async with world.open() as store:
        await store.same(full, "a job after the store was closed and opened again")
        expect_same([row.id for row in await store.find()], [row.id for row in rows], "ids of all rows")
        expect_same(await store.history(done.id), history, "the history")
        expect_same((await store.stats()).store_id, id_, "the store's id (docs/protocol.md, D3)")
        await refused(store.add(a_job(full.job_name)), NameHeld, "a second job under a name held before")


@STORE.rule(
    "store_find", "an opening sees what another has written", because="a client enqueues for a worker", needs="shared"
)
async def another_opening_sees_it(world: StoreWorld) -> None:
    async with world.open() as one, world.open() as two:
        job = a_job("shared")
        await one.add(job)
        await two.same(job, "a row, seen from another opening")
        await refused(two.add(a_job("shared")), NameHeld, "the same name from another opening")
        me = await one.owner()
        expect(me in (await two.beat(await two.owner())).beats, "an owner is not seen from another opening")
        expect_same((await two.stats()).store_id, (await one.stats()).store_id, "the store's id")


@STORE.rule("C1", "two openings never claim one job", because="several processes share a store", needs="shared")
async def two_openings_claim(world: StoreWorld) -> None:
    async with world.open() as one, world.open() as two:
        owners = [await one.owner(), await two.owner()]
        await one.add(*(a_job() for _ in range(40)))
        taken: list[JobInfo] = []

        async def take(number: int) -> None:
            while jobs := (await (one, two)[number].claim(owners[number], limit=3)).jobs:
                taken.extend(jobs)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, 0)
            tasks.start_soon(take, 1)
        twice = [id_ for id_, times in Counter(job.id for job in taken).items() if times > 1]
        expect(not twice, f"{len(twice)} of 40 jobs were handed out by both")
        expect_same(len(taken), 40, "jobs handed out of 40")


@STORE.rule("W2", "a cancelled write has happened wholly or not at all", because="the kernel cancels, and reads again")
async def a_write_is_cancelled(world: StoreWorld) -> None:
    async with world.open() as store:
        pairs = [(a_job(), a_job()) for _ in range(20)]
        for number, (one, two) in enumerate(pairs):
            with anyio.move_on_after(number * 0.0005):
                await store.transact(Insert(one), Insert(two))
        await store.add(a_job("after"))
        there = {row.id for row in await store.find()}
        half = [one.id for one, two in pairs if (one.id in there) != (two.id in there)]
        expect(not half, f"{len(half)} of 20 cancelled batches happened by half")


@STORE.rule("C5", "a cancelled claim is in `running`, or did not happen", because="an orphan would hang until the stop")
async def a_claim_is_cancelled(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        jobs = [a_job() for _ in range(20)]
        await store.add(*jobs)
        for number in range(10):
            with anyio.move_on_after(number * 0.0005):
                await store.claim(me, limit=1)
        held = {id_ for id_, _ in (await store.beat(me)).running}
        busy = {row.id for row in await store.find(status=(JobStatus.RUNNING,))}
        expect_same(held, busy, "ids in `running`, and those of RUNNING rows")
        rest = (await store.claim(me)).jobs
        expect_same(len(busy) + len(rest), 20, "jobs claimed in the end, of 20")


async def _flaky(payload: dict[str, Any]) -> None:
    if payload["fails"]:
        raise ValueError("no 🦊")


def _app(store: Any, **options: Any) -> Aether:
    app = Aether(store, scheduler="timer", grace=1, **options)
    app.handler("Work", retries=0)(_flaky)
    return app


@STORE.rule("store_transact", "an app runs its jobs on it", because="that is what a store is for")
async def an_app_runs_on_it(world: StoreWorld) -> None:
    async with world.plugin() as store, _app(store) as app:
        good = await app.enqueue("Work", "good", {"fails": False}, metadata={"n": 1})
        bad = await app.enqueue("Work", "bad", {"fails": True})
        paused = await app.enqueue("Work", "paused", {"fails": False}, "@yearly")
        await app.pause(paused)
        await app.resume(paused)
        expect_same((await app.wait(good, timeout=10)).status, JobStatus.COMPLETED, "a job that goes well")
        failed = await app.wait(bad, timeout=10)
        expect_same(failed.status, JobStatus.FAILED, "a job that raises")
        expect("no 🦊" in (failed.last_error or ""), f"last_error is {failed.last_error!r}")
        await app.retry(bad)
        await app.wait(bad, timeout=10)
        outcomes = [run.outcome for run in await app.store.history(bad)]
        expect_same(outcomes, [RunOutcome.FAILED, RunOutcome.FAILED], "the history of a job that failed twice")
        expect_same(await app.enqueue("Work", "good", {"fails": False}), good, "the id of the same job enqueued again")
        expect(await app.delete(paused), "a recurring job could not be deleted")


@STORE.rule(
    "store_transact", "a job whose owner died is run again", because="delivery is at least once", needs="durable"
)
async def an_app_recovers(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running(payload={"fails": False})
    async with world.plugin() as plugin, _app(plugin, lease=0.5) as app:
        row = await app.wait(job.id, timeout=15)
        expect_same((row.status, row.crash_count), (JobStatus.COMPLETED, 0), "status and crashes of the job, run again")
        outcomes = [run.outcome for run in await app.store.history(job.id)]
        expect_same(outcomes, [RunOutcome.COMPLETED, RunOutcome.CRASHED], "its history")
        differs = difference(row, job) if row.payload != job.payload else ""
        expect(not differs, f"the job, run again: {differs}")
