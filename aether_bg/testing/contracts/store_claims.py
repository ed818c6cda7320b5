"""A store's claims: which rows go to which owner, once, in which order, and what else the store answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import attrs

from aether_bg.errors import Stale
from aether_bg.model import JobInfo, JobStatus
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same
from aether_bg.testing.contracts.values import (
    a_job,
    a_run,
    ago,
    back_to_waiting,
    cancelled,
    completed,
    difference,
    new_id,
    now,
)


@STORE.rule(
    "store_claim", "a claim makes the row RUNNING, with token, attempt, owner and start",
    because="the kernel runs what the claim says",
)  # fmt: skip
async def a_claim_changes_the_row(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        job = a_job(seq=4, schedule_rev=2, attempt=1, retry_count=1, crash_count=1, off_schedule=True, payload={"a": 1})
        await store.add(job)
        at = now()
        claimed = (await store.claim(owner, now=at)).jobs
        expect_same(len(claimed), 1, "rows taken of one that is due")
        wanted = attrs.evolve(
            job, status=JobStatus.RUNNING, seq=5, attempt=2, owner=owner, started_at=at,
            modified_at=claimed[0].modified_at,
        )  # fmt: skip
        differs = difference(claimed[0], wanted)
        expect(not differs, f"the row that the claim answered: {differs}")
        await store.same(wanted, "the row as stored")


@STORE.rule(
    "store_claim", "a claim begins a history row whose token is the new seq", because="a crash must leave a trace"
)
async def a_claim_begins_history(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        rows = await store.history(job.id)
        expect_same(len(rows), 1, "history rows after one claim")
        differs = difference(rows[0], a_run(job))
        expect(not differs, f"the history row of a claim: {differs}")


@STORE.rule("C1", "a claim hands out each job once", because="two holders of one job run its effects twice")
async def each_job_once(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        await store.add(*(a_job() for _ in range(60)))
        taken: list[JobInfo] = []

        async def take() -> None:
            while (jobs := (await store.claim(me, limit=3)).jobs) and len(taken) < 200:
                taken.extend(jobs)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(take)
        expect_same(len({job.id for job in taken}), 60, "different jobs taken by 8 claimers of 60 jobs")
        expect_same(len(taken), 60, "jobs taken by 8 claimers of 60 jobs")
        expect(not (await store.claim(me)).jobs, "a RUNNING job was handed out again")


@STORE.rule("store_claim", "the earliest due are taken first, at most `limit`", because="late jobs must not starve")
async def the_earliest_first(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner(handlers=("Work", "Other"))
        jobs = [a_job(due_at=ago(n), handler_name="Work" if n % 3 else "Other") for n in (5, 9, 2, 7, 3, 8, 1, 6, 4)]
        await store.add(*jobs)
        order = [job.id for job in sorted(jobs, key=lambda job: job.due_at or now())]
        got: list[JobInfo] = []
        for limit in (4, 0, 1, 10):
            some = (await store.claim(owner, limit=limit, handlers=("Work", "Other"))).jobs
            expect(len(some) <= limit, f"a claim with limit={limit} took {len(some)}")
            got += some
        expect([job.id for job in got] == order, f"order of due instants taken: {[str(job.due_at) for job in got]}")


@STORE.rule("store_claim", "only what is due, waiting and not paused is taken", because="early is as wrong as twice")
async def only_what_is_due(world: StoreWorld) -> None:
    async with world.open() as store:
        owner, at = await store.owner(), now()
        yes = [a_job(due_at=at), a_job(due_at=ago(86_400)), a_job(paused=True, manual=True)]
        no = {
            "due a microsecond later": a_job(due_at=at + timedelta(microseconds=1)),
            "paused": a_job(paused=True),
            "COMPLETED": a_job(status=JobStatus.COMPLETED),
            "FAILED": a_job(status=JobStatus.FAILED),
            "CANCELLED": a_job(status=JobStatus.CANCELLED),
            "RUNNING": a_job(status=JobStatus.RUNNING, owner=owner),
            "of another handler": a_job(handler_name="Other"),
        }
        await store.add(*yes, *no.values())
        claimed = (await store.claim(owner, now=at)).jobs
        taken = {job.id for job in claimed}
        wrong = [what for what, job in no.items() if job.id in taken]
        expect(not wrong, f"taken although {', '.join(wrong)}")
        missing = [str(job.due_at) for job in yes if job.id not in taken]
        expect(not missing, f"not taken though due (one of them paused, but `manual`): {missing}")
        manual = next(job for job in claimed if job.id == yes[2].id)
        expect(not manual.manual, "the claim of a `manual` row did not clear `manual` (docs/protocol.md, U3)")
        expect(manual.paused, "the claim of a paused `manual` row ended the pause (docs/protocol.md, U3)")


@STORE.rule(
    "P4", "an owner that is not registered gets nothing", because="it was declared dead, and its jobs were taken over"
)
async def strangers_get_nothing(world: StoreWorld) -> None:
    async with world.open() as store:
        job = a_job()
        await store.add(job)
        one: dict[str, Any] = {"job_id": job.id, "seq": 0}
        for exactly in ({}, one):
            expect(not (await store.claim(new_id(), **exactly)).jobs, "an owner that never joined was given a job")
        await store.same(job, "a row after such a claim")


@STORE.rule("C1", "a claim of one job wants its current seq", because="an old trigger would start a retry early")
async def exactly_one(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        wanted, other, later = a_job(seq=3), a_job(), a_job(due_at=now() + timedelta(hours=1))
        await store.add(wanted, other, later)
        for seq in (2, 4):
            expect(not (await store.claim(owner, job_id=wanted.id, seq=seq)).jobs, f"seq 3 was claimed with seq={seq}")
        expect(not (await store.claim(owner, job_id=later.id, seq=0)).jobs, "a job was claimed an hour early")
        expect(not (await store.claim(owner, job_id=new_id(), seq=0)).jobs, "an unknown id was claimed")
        not_now = [a_job(paused=True), *(a_job(status=status) for status in JobStatus if status)]
        await store.add(*not_now)
        for job in not_now:
            taken = (await store.claim(owner, job_id=job.id, seq=0)).jobs
            expect(not taken, f"a job that is {'paused' if job.paused else job.status.name} was claimed by its id")
        taken = (await store.claim(owner, job_id=wanted.id, seq=3)).jobs
        expect_same([job.id for job in taken], [wanted.id], "ids taken by a claim of exactly one")


@STORE.rule(
    "R3", "of rows with two crashes one is taken, if `suspect`", because="one poisoned job would take others along"
)
async def suspects_come_alone(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        await store.add(*(a_job(crash_count=2 + n, due_at=ago(60)) for n in range(3)), a_job(crash_count=1), a_job())
        calm = (await store.claim(owner, suspect=False)).jobs
        expect_same(sorted(job.crash_count for job in calm), [0, 1], "crash counts taken with suspect=False")
        await store.add(a_job())
        one = (await store.claim(owner, suspect=True)).jobs
        expect_same(sum(job.crash_count >= 2 for job in one), 1, "suspects taken with suspect=True")
        expect_same(len(one), 2, "rows taken, with one that is no suspect")


@STORE.rule(
    "store_claim", "`next_due` is when the next row of these handlers waits", because="the timer sleeps until then"
)
async def when_the_next_is_due(world: StoreWorld) -> None:
    async with world.open() as store:
        owner, at = await store.owner(), now()
        expect_same((await store.claim(owner)).next_due, None, "next_due of an empty store")
        soon, late = (at + timedelta(minutes=n) for n in (10, 20))
        await store.add(a_job(due_at=late), a_job(due_at=soon), a_job(due_at=ago(5)), a_job(due_at=ago(4)))
        await store.add(a_job(handler_name="Other", due_at=ago(9)), a_job(paused=True, due_at=ago(9)))
        partly = await store.claim(owner, limit=1)
        expect(
            partly.next_due is not None and partly.next_due <= at,
            f"next_due is {partly.next_due} though a due row was left over",
        )
        expect_same((await store.claim(owner)).next_due, soon, "next_due, two rows waiting")
        none = (await store.claim(owner, handlers=("Nobody",))).next_due
        expect_same(none, None, "next_due of a handler that has no rows")


@STORE.rule(
    "C8", "rows with an `unreadable` schedule are left, and `next_due` leaves them out",
    because="this process would put them back and claim them again without end",
)  # fmt: skip
async def unreadable_schedules_are_left(world: StoreWorld) -> None:
    async with world.open() as store:
        owner, at = await store.owner(), now()
        soon = at + timedelta(minutes=10)
        left = [
            a_job(expression_value="@lunch", due_at=ago(9)), a_job(expression_value="@süß \"1\"", due_at=ago(8)),
            a_job(expression_value="@lunch", timezone="Mars/Base", due_at=ago(7)),
            a_job(expression_value="@lunch", due_at=ago(6), crash_count=2),
        ]  # fmt: skip
        taken = [a_job(due_at=ago(5)), a_job(expression_value="@lunch", timezone="Europe/Berlin", due_at=ago(4))]
        await store.add(*left, *taken, a_job(due_at=soon))
        unreadable = (("@lunch", None), ('@süß "1"', None), ("@lunch", "Mars/Base"))
        first = await store.claim(owner, limit=1, unreadable=unreadable)
        rest = await store.claim(owner, unreadable=unreadable)
        got = [job.id for job in (*first.jobs, *rest.jobs)]
        expect_same(got, [job.id for job in taken], "rows claimed by one that cannot read the schedules of the others")
        expect_same(rest.next_due, soon, "next_due with only unreadable rows due")
        other = await store.claim(owner, unreadable=(("@other", None),))
        expect_same(len(other.jobs), len(left), "rows claimed by one that can read them")


@STORE.rule("C7", "many handlers are all served", because="a kind of work must not wait for another to be done")
async def many_handlers(world: StoreWorld) -> None:
    async with world.open() as store:
        names = tuple(f"Kind{n}" for n in range(120))
        owner = await store.owner(handlers=names)
        await store.add(*(a_job(handler_name=name) for name in names))
        taken: set[str] = set()
        for _ in names:
            jobs = (await store.claim(owner, limit=200, handlers=names)).jobs
            taken |= {job.handler_name for job in jobs}
            if not jobs:
                break
        expect_same(len(taken), 120, "handlers served, of 120")


@STORE.rule("C1", "each attempt has a token of its own", because="the outcome of the first must not end the second")
async def tokens_grow(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        job = await store.running(owner)
        tokens, attempts = [job.seq], [job.attempt]
        for _ in range(3):
            await store.save(back_to_waiting(job))
            (job,) = (await store.claim(owner)).jobs
            tokens.append(job.seq)
            attempts.append(job.attempt)
        expect(tokens == sorted(set(tokens)), f"the tokens of four attempts: {tokens}")
        expect_same(attempts, [1, 2, 3, 4], "the attempt numbers of four claims")
        await store.save(completed(job))
        history = [(run.token, run.attempt) for run in reversed(await store.history(job.id))]
        expect_same(history, list(zip(tokens, attempts, strict=True)), "(token, attempt) in the history")


@STORE.rule("U2", "of a claim and a delete at once one wins", because="a cancelled job must not start")
async def a_claim_against_a_delete(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        for _ in range(5):
            job = a_job()
            await store.add(job)
            won: list[str] = []

            async def delete(job: JobInfo = job, won: list[str] = won) -> None:
                try:
                    await store.save(cancelled(job))
                    won.append("delete")
                except Stale:
                    pass

            async def claim(job: JobInfo = job, won: list[str] = won) -> None:
                won += ["claim" for _ in (await store.claim(owner, job_id=job.id, seq=0)).jobs]

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(delete)
                tasks.start_soon(claim)
            expect(len(won) == 1, f"winners: {won or 'none'}")
            status = JobStatus.CANCELLED if won == ["delete"] else JobStatus.RUNNING
            expect_same((await store.the(job)).status, status, f"the row after {won[0]} won")
