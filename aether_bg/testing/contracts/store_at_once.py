"""Jobs that a store begins with their insert, if it says that it can (docs/protocol.md, C9)."""

from __future__ import annotations

from typing import Any

import attrs

from aether_bg.errors import NameHeld
from aether_bg.model import Claim, Hold, Insert, JobInfo, JobStatus
from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same, refused
from aether_bg.testing.contracts.values import a_job, a_run, difference, new_id, now


@STORE.rule(
    "C9", "a store that begins jobs at once stores them as a claim leaves them", because="the kernel runs them at once",
)  # fmt: skip
async def begun_with_its_insert(world: StoreWorld) -> None:
    async with world.open() as store:
        me = new_id()
        if not (await store.beat(me, join=True)).begins_at_once:
            return
        job, at = a_job(payload={"a": [1]}, extra_properties={"b": 2}), now()
        claim = Claim(owner=me, now=at, limit=1, handlers=(job.handler_name,))
        row: Any = (await store.transact(Insert(job, claim=claim)))[0]
        expect(isinstance(row, JobInfo), f"the answer to an Insert with a claim is {row!r}")
        differs = difference(row, claim.take(job))
        expect(not differs, f"the answer to the Insert: {differs}")
        await store.same(claim.take(job), "the row as stored")
        expect_same([difference(run, a_run(row)) for run in await store.history(job.id)], [""], "its history row")

        waits = a_job()
        unknown = attrs.evolve(claim, owner=new_id())
        expect_same(list(await store.transact(Insert(waits, claim=unknown))), [None], "the answer to an unknown owner")
        await store.same(waits, "the row that it has not begun")
        await store.transact(Hold(handler=job.handler_name, held=True, at=at))
        held = a_job()
        expect_same(list(await store.transact(Insert(held, claim=claim))), [None], "the answer for a paused handler")
        expect((await store.the(held)).status is JobStatus.SCHEDULED, "a job of a paused handler has begun")
        twin = a_job(job_name=held.job_name)
        await refused(store.transact(Insert(twin, claim=claim)), NameHeld, "an Insert with a claim under a held name")
        expect((await store.row(twin)) is None, "a refused Insert left its row")
