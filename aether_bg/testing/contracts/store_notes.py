"""A store's notes: what attempts report while they run, only under their token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs

from aether_bg.errors import Stale
from aether_bg.model import JobInfo, JobStatus, Note, Progress, Update
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same, refused
from aether_bg.testing.contracts.values import (
    PAYLOADS,
    a_job,
    alike,
    back_to_waiting,
    cancelled,
    change,
    completed,
    now,
)


def note(job: JobInfo, **fields: Any) -> Note:
    return Note(job_id=job.id, seq=job.seq, **fields)


@STORE.rule("G1", "progress is kept, and moves nothing else", because="a note is no change of the job's state")
async def progress_is_kept(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        for progress in (Progress(0, None, None, now()), Progress(2.5, 10, "Kunden: 🦊", now())):
            (result,) = await store.transact(note(job, progress=progress))
            expect_same(result, None, "the result of a Note")
            job = attrs.evolve(job, progress=progress)
            await store.same(job, "a row after its attempt has reported progress")
        await store.save(completed(job))
        expect_same((await store.the(job)).progress, job.progress, "progress after the outcome")


@STORE.rule("G1", "a claim clears progress", because="it is that of an attempt, and the next one has made none")
async def a_claim_clears_progress(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        job = await store.running(owner)
        await store.transact(note(job, progress=Progress(1, 2, None, now()), checkpoint=[1]))
        await store.save(back_to_waiting(job))
        row = await store.the(job)
        expect(row.progress is not None, "progress of a job put back is gone before its next attempt")
        again = (await store.claim(owner, job_id=row.id, seq=row.seq)).jobs[0]
        expect_same(again.progress, None, "progress of a row as a claim answers it")
        expect_same(again.checkpoint, [1], "the checkpoint of a row as a claim answers it")
        await store.same(again, "a row that was claimed again")


@STORE.rule("G2", "a checkpoint keeps every JSON value to the digit", because="the next attempt goes on from it")
async def a_checkpoint_is_kept(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        for value in PAYLOADS:
            await store.transact(note(job, checkpoint=value))
            kept = (await store.the(job)).checkpoint
            expect(alike(kept, value), f"a checkpoint came back changed: {kept!r:.200}, was {value!r:.200}")
        await store.transact(note(job, checkpoint={"row": 1}), note(job, progress=Progress(1, None, None, now())))
        expect_same((await store.the(job)).checkpoint, {"row": 1}, "a checkpoint after a Note of progress alone")


@STORE.rule(
    "G2", "a checkpoint lasts while its occurrence does", because="the next occurrence would begin in its middle"
)
async def a_checkpoint_lasts_with_its_occurrence(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        await store.transact(note(job, checkpoint=7))
        await store.save(change(job, next_seq=job.seq, next_rev=job.schedule_rev + 1, paused=True))
        expect_same((await store.the(job)).checkpoint, 7, "the checkpoint after an update of the running job")
        due = now() + timedelta(hours=1)
        row = await store.the(job)
        await store.save(change(row, status=JobStatus.SCHEDULED, owner=None, attempt=0, due_at=due, occurrence=due))
        expect_same((await store.the(job)).checkpoint, None, "the checkpoint once the next occurrence waits")
        for ends in (completed, cancelled):
            other = await store.running()
            await store.transact(note(other, checkpoint=7))
            await store.save(ends(other))
            expect_same((await store.the(other)).checkpoint, None, f"the checkpoint of a {ends.__name__} job")


@STORE.rule("G2", "a Note needs the token of the attempt", because="a job taken over would lose what its heir has done")
async def an_old_token_writes_nothing(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        first = await store.running(owner)
        await store.save(back_to_waiting(first))
        waiting = await store.the(first)
        await refused(store.transact(note(waiting, checkpoint=0)), Stale, "a Note for a job that only waits")
        second = (await store.claim(owner, job_id=first.id, seq=first.seq + 1)).jobs[0]
        old = note(first, progress=Progress(9, 9, None, now()), checkpoint="old")
        stale = await refused(store.transact(old), Stale, "a Note with the token of an earlier claim")
        expect(stale.current is not None and stale.current == second, "Stale does not carry the row as it is now")
        await refused(store.transact(note(second, checkpoint=1), old), Stale, "a batch with a stale Note")
        await store.same(second, "the row after refused notes")
        lost = await refused(store.transact(note(a_job(), checkpoint=1)), Stale, "a Note of an unknown id")
        expect(lost.current is None, "Stale carries a row, though there is none")


@STORE.rule("G1", "a Note and an outcome share a transaction", because="they come in one batch")
async def a_note_and_an_outcome(world: StoreWorld) -> None:
    async with world.open() as store:
        job = await store.running()
        last = Progress(3, 3, "done", now())
        await store.transact(note(job, progress=last, checkpoint=3), Update(completed(job)))
        row = await store.the(job)
        expect_same((row.status, row.progress, row.checkpoint), (JobStatus.COMPLETED, last, None), "the row after both")


@STORE.rule("G1", "an Update takes progress along", because="the last progress is written with the outcome")
async def an_outcome_takes_progress_along(world: StoreWorld) -> None:
    async with world.open() as store:
        first, second = await store.running(), await store.running()
        before, last = Progress(1, 3, None, now()), Progress(3, 3, "done", now())
        await store.transact(note(first, progress=before), note(second, progress=before))
        await store.save(completed(first, progress=last), completed(second, progress=None))
        expect_same((await store.the(first)).progress, last, "progress that came with the outcome")
        expect_same((await store.the(second)).progress, before, "progress after an outcome that brought none")
        other = await store.running()
        await store.save(completed(other, progress=last))
        expect_same((await store.the(other)).progress, last, "progress that came with a single outcome")


@STORE.rule("N9", "declared rows that have not ended are found", because="at each start their code may be gone")
async def declared_rows_are_found(world: StoreWorld) -> None:
    async with world.open() as store:
        plain, declared, ended = a_job(), a_job(declared=True), a_job(declared=True)
        await store.add(plain, declared, ended)
        await store.save(cancelled(ended))
        expect_same([row.id for row in await store.find(declared=True)], [declared.id], "what `declared` finds")


@STORE.rule("N9", "a heartbeat answers what living owners declare", because="what they declare is not pruned")
async def declarations_of_owners(world: StoreWorld) -> None:
    async with world.open() as store:
        mine, theirs = ("nightly", "🦊 'x'"), ("hourly",)
        me, other = await store.owner(declares=mine), await store.owner(declares=theirs)
        seen = (await store.beat(me, declares=mine)).declared
        expect_same(seen, {*mine, *theirs}, "what two owners declare")
        await store.beat(other, stopping=True, declares=theirs)
        seen = (await store.beat(me, declares=mine)).declared
        expect_same(seen, {*mine}, "what is declared once one of them stops")
