"""A store's values: what is written is read back, whole, and each write does what it says."""

from __future__ import annotations

from datetime import timedelta

import attrs

from aether_bg.errors import StoreError, Unsupported
from aether_bg.model import Call, Insert, JobInfo, JobStatus, RunOutcome, Transaction
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same, only_if, refused
from aether_bg.testing.contracts.values import (
    INSTANTS,
    NAMES,
    PAYLOADS,
    TEXTS,
    a_full_job,
    a_job,
    a_run,
    ago,
    change,
    completed,
    completion_of,
    definition_of,
    difference,
    new_id,
    now,
    whole_completion,
)


@STORE.rule("store_transact", "an added job is read back field by field", because="the kernel decides on the whole row")
async def an_added_job_is_read_back(world: StoreWorld) -> None:
    async with world.open() as store:
        for job in (a_job(), a_full_job()):
            await store.add(job)
            await store.same(job, "a job was added and read back")


@STORE.rule(
    "store_transact", "payload and metadata keep every JSON value to the digit",
    because="a handler must get what was enqueued",
)  # fmt: skip
async def payloads_are_read_back(world: StoreWorld) -> None:
    async with world.open() as store:
        small = {repr(value): value for value in PAYLOADS if len(repr(value)) < 2000}
        jobs = [a_job(payload=value, extra_properties={"v": small.get(repr(value))}) for value in PAYLOADS]
        await store.add(*jobs)
        rows = {row.id: row for row in await store.find(handler_name="Work")}
        for job in jobs:
            expect(job.id in rows, f"the job with payload {job.payload!r:.80} is gone")
            differs = difference(rows[job.id], job)
            expect(not differs, f"a value came back changed: {differs}")


@STORE.rule(
    "store_transact", "texts are kept to the character", because="names, errors and authors are compared and shown"
)
async def texts_are_read_back(world: StoreWorld) -> None:
    async with world.open() as store:
        jobs = [a_job(last_error=text, created_by=text) for text in TEXTS]
        jobs += [a_job(name, handler_name=name) for name in NAMES]
        await store.add(*jobs)
        for job in jobs:
            await store.same(job, "a text came back changed")
        for name in NAMES:
            expect_same([row.job_name for row in await store.find(job_name=name)], [name], f"found by {name!r:.80}")
            found = await store.find(handler_name=name)
            expect_same([row.job_name for row in found], [name], f"found by the handler {name!r:.80}")


@STORE.rule(
    "store_transact", "instants keep their microseconds and come back in UTC", because="an occurrence is an identity"
)
async def instants_are_read_back(world: StoreWorld) -> None:
    async with world.open() as store:
        jobs = [a_job(due_at=at, occurrence=at, start=at, until=at, last_occurrence=at) for at in INSTANTS]
        await store.add(*jobs)
        for job in jobs:
            await store.same(job, "an instant came back changed")


@STORE.rule(
    "store_transact", "an Update writes all of its change", because="what it leaves behind is a state of no job"
)
async def a_save_writes_everything(world: StoreWorld) -> None:
    async with world.open() as store:
        before, after = a_job(), a_full_job()
        await store.add(before)
        written = change(after, job_id=before.id, seq=0, schedule_rev=0, next_seq=5, next_rev=6)
        kept = {f.name: getattr(before, f.name) for f in attrs.fields(JobInfo) if not hasattr(written, f.name)}
        await store.save(written)
        wanted = attrs.evolve(after, **{**kept, "seq": 5, "schedule_rev": 6, "modified_at": written.modified_at})
        await store.same(wanted, "the row after an Update, without a definition")


@STORE.rule(
    "store_transact", "a definition is replaced whole, or left as it is", because="an update must not mix two schedules"
)
async def a_definition_is_replaced(world: StoreWorld) -> None:
    async with world.open() as store:
        before, other = a_job(payload={"old": 1}, extra_properties={"old": 1}), a_full_job()
        await store.add(before)
        await store.save(change(before, definition=definition_of(other)))
        row = await store.the(before)
        differs = [name for name in attrs.asdict(definition_of(other)) if getattr(row, name) != getattr(other, name)]
        expect(not differs, f"an Update with a definition left {', '.join(differs)} as before")
        await store.save(change(row, retry_count=1))
        again = await store.the(before)
        expect_same(definition_of(again), definition_of(row), "the definition after an Update without one")


@STORE.rule(
    "store_transact", "history rows are written whole, by (job_id, token, gap)",
    because="`did it run, and if not, why not` is answered from them",
)  # fmt: skip
async def history_is_written_whole(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        end = now()
        attempt = a_run(job, outcome=RunOutcome.FAILED, finished_at=end, error="boom 🦊")
        gap = a_run(
            job, gap=1, attempt=0, outcome=RunOutcome.COALESCED, started_at=None, owner=None, finished_at=end,
            occurrence=ago(50), last_occurrence=ago(10), count=41,
        )  # fmt: skip
        await store.save(change(job, status=JobStatus.FAILED, due_at=None, owner=None, runs=(attempt, gap)))
        rows = await store.history(job.id)
        expect_same([(row.token, row.gap) for row in rows], [(1, 1), (1, 0)], "history, newest first by (token, gap)")
        for row, wanted in zip(rows, (gap, attempt), strict=True):
            differs = difference(row, wanted)
            expect(not differs, f"a history row came back changed: {differs}")


@STORE.rule(
    "store_transact", "there is one answer per write, in order", because="a unit of work gives them to its user"
)
async def one_answer_per_write(world: StoreWorld) -> None:
    async with world.open() as store:
        expect_same(list(await store.transact()), [], "the answers to no writes")
        job = a_job()
        expect_same(
            list(await store.transact(Insert(job), Insert(a_job()))), [None, None], "the answers to two Inserts"
        )


@STORE.rule(
    "store_transact", "a Call is carried out, or refused with `Unsupported`",
    because="a unit of work that is silently dropped is lost work",
)  # fmt: skip
async def sql_is_done_or_refused(world: StoreWorld) -> None:
    async with world.open() as store:
        job, later, sql = a_job(), a_job(), f"SELECT 1, {store.placeholder}"

        def add_later(tx: Transaction) -> int:
            tx.add(later)
            return 42

        try:
            rows, answer = await store.transact(Call(lambda tx: tx.execute(sql, ["two"])), Call(add_later))
        except Unsupported:
            call = Call(lambda tx: 1)
            await refused(store.transact(Insert(job), call), Unsupported, "a Call in a store that has none")
            expect(await store.row(job) is None, "an Insert beside an unsupported write has happened")
            return
        expect_same(rows, [(1, "two")], "the rows of a statement")
        expect_same(answer, 42, "the answer of a Call")
        await store.same(later, "a job added by a Call")


class _Mine(Exception):
    """Raised by the user's function."""


@STORE.rule(
    "W5", "what a Call raises is raised as it is, and nothing has happened", because="it is the user's own error"
)
async def a_call_that_raises(world: StoreWorld) -> None:
    async with world.open() as store:
        job, other = a_job(), a_job()

        def fails(tx: Transaction) -> None:
            tx.add(other)
            raise _Mine("no")

        try:
            await store.transact(Call(lambda tx: None))
        except Unsupported:
            only_if(False, "it has no SQL")
        await refused(store.transact(Insert(job), Call(fails)), _Mine, "a function that raises")
        expect(await store.row(job) is None, "an Insert before a Call that raised has happened")
        expect(await store.row(other) is None, "what a Call added before it raised is there")


@STORE.rule("store_transact", "an id is used once", because="a row is its job's whole identity")
async def an_id_is_unique(world: StoreWorld) -> None:
    async with world.open() as store:
        job = a_job(payload="first")
        await store.add(job)
        twin = attrs.evolve(job, job_name="another", payload="second")
        await refused(
            store.transact(Insert(a_job("beside")), Insert(twin)), StoreError, "an Insert with an id that is there"
        )
        await store.same(job, "after a second Insert with its id")
        expect(not await store.find(job_name="beside"), "an Insert beside one that was refused has happened")


@STORE.rule("C6", "an occurrence completes once", because="nothing may be completed twice, under any token")
async def an_occurrence_completes_once(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        job = await store.running(owner)
        again = completed(job, status=JobStatus.SCHEDULED, due_at=job.due_at, occurrence=job.occurrence)
        await store.save(again)  # Completed, and yet waiting for the same occurrence: only a fault does that
        second = (await store.claim(owner, job_id=job.id, seq=again.next_seq)).jobs[0]
        await refused(store.save(completed(second)), StoreError, "a second Completed for one occurrence")
        row = await store.the(job)
        expect_same((row.status, row.seq), (JobStatus.RUNNING, second.seq), "the row after the refusal")
        done = [run for run in await store.history(job.id) if run.outcome is RunOutcome.COMPLETED]
        expect_same(len(done), 1, "Completed rows in the history")


@STORE.rule(
    "store_transact", "a Completion is the change that it stands for",
    because="most jobs end with one, and a store may write it in its own way",
)  # fmt: skip
async def a_completion_is_a_change(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        jobs = [
            await store.running(owner),
            await store.running(owner, crash_count=1, retry_count=2, last_error="before", trigger_pending=True),
            await store.running(owner, last_occurrence=ago(99), occurrences=3, paused=True, manual=True),
        ]
        meant = [whole_completion(job, by) for job, by in zip(jobs, ("me", None, "me"), strict=True)]
        for some in ([meant[0]], meant[1:]):
            await store.save(*(completion_of(jobs[meant.index(one)], one) for one in some))
        for job, one in zip(jobs, meant, strict=True):
            await store.same(one.applied_to(job), "after its Completion")
            (run,) = await store.history(job.id)
            expect_same(difference(run, one.runs[0]), "", "how the history row differs")
        lost, other = await store.running(owner), await store.running(owner)
        wrong = completion_of(attrs.evolve(lost, schedule_rev=7), whole_completion(lost))
        right = completion_of(other, whole_completion(other))
        await refused(store.save(right, wrong), StoreError, "two of which one's guard does not hold")
        await store.same(other, "after a Completion beside one that was refused")


@STORE.rule("store_transact", "five hundred writes are one transaction too", because="outcomes are written in batches")
async def a_large_batch(world: StoreWorld) -> None:
    async with world.open() as store:
        jobs = [a_job() for _ in range(500)]
        await store.add(*jobs)
        await store.save(*(change(job, due_at=job.anchor + timedelta(hours=1)) for job in jobs))
        rows = await store.find(handler_name="Work")
        expect_same((len(rows), {row.seq for row in rows}), (500, {1}), "rows and their seq")
        lost = change(attrs.evolve(rows[0], id=new_id()))
        await refused(
            store.save(*map(change, rows), lost), StoreError, "500 Updates and one for a job that is not there"
        )
        expect_same({row.seq for row in await store.find(handler_name="Work")}, {1}, "seq after a refused batch")
