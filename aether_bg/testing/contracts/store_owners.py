"""A store's owners: who is alive, what they hold, and what is left when they are gone (docs/protocol.md, P1 to P7)."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from uuid import UUID

import anyio

from aether_bg.testing.contracts.opening import STORE, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same
from aether_bg.testing.contracts.values import a_job, back_to_waiting, completed, new_id, now


@STORE.rule(
    "P1", "an owner is known from join to leave", because="other processes decide by it whether its jobs are orphans"
)
async def owners_come_and_go(world: StoreWorld) -> None:
    async with world.open() as store:
        me = new_id()
        joined = await store.beat(me, join=True, handlers=("Work", "Süß"))
        expect(joined.known, "`known` is False in the answer to a join")
        expect(me in joined.beats, "an owner that joined is not in `beats`")
        expect({"Work", "Süß"} <= joined.advertised, f"`advertised` is {set(joined.advertised)}")
        expect((await store.beat(me)).known, "`known` is False in the beat after a join")
        left = await store.beat(me, leave=True)
        expect(not left.known and me not in left.beats, "an owner that left is still known")
        expect("Süß" not in left.advertised, "the handlers of an owner that left are still advertised")


@STORE.rule(
    "S7",
    "an owner that is stopping is named in `stopping`",
    because="what its end interrupts must not count as a crash",
)
async def a_stop_is_announced(world: StoreWorld) -> None:
    async with world.open() as store:
        me = new_id()
        expect(not (await store.beat(me, join=True, handlers=("Work", "Süß"))).stopping, "`stopping` after a join")
        job = await store.running(me)
        expect_same(set((await store.beat(me, stopping=True)).stopping), {me}, "`stopping` in the answer to its beat")
        answer = await store.beat(me, handlers=("Work", "Süß"))
        expect_same(set(answer.stopping), {me}, "`stopping` in the answer to a later beat, which does not repeat it")
        expect(answer.known and me in answer.beats, "an owner that is stopping is no longer known")
        expect("Süß" not in answer.advertised, "the handlers of an owner that is stopping are still advertised")
        expect_same(list(answer.running), [(job.id, job.seq)], "what it holds")
        expect_same(set((await store.beat(me, leave=True)).stopping), set(), "`stopping` after it left")


@STORE.rule(
    "S7", "a stop is announced while the event loop is blocked",
    because="the handler that blocks it may do so until the process ends",
)  # fmt: skip
async def a_stop_is_announced_off_the_loop(world: StoreWorld) -> None:
    async with world.open() as store:
        me, asked = await store.owner(), threading.Event()
        blocked = await store.owner(stop_asked=asked.is_set)
        expect_same(set((await store.beat(me)).stopping), set(), "`stopping` before `stop_asked`")
        asked.set()
        deadline, stopping = time.monotonic() + world.patience, set[UUID]()
        while blocked not in stopping and time.monotonic() < deadline:
            time.sleep(0.3)
            stopping = set((await store.beat(me)).stopping)
        expect_same(stopping, {blocked}, "`stopping`, although only `stop_asked` says so")


@STORE.rule("P4", "a beat without join registers no owner", because="an owner declared dead must join again, not go on")
async def a_beat_does_not_register(world: StoreWorld) -> None:
    async with world.open() as store:
        me = new_id()
        answer = await store.beat(me)
        expect(not answer.known and me not in answer.beats, "a beat without join registered its owner")
        await store.add(a_job())
        expect(not (await store.claim(me)).jobs, "and it was given a job")


@STORE.rule(
    "P3", "the store keeps the beat while the event loop is blocked", because="a busy handler must not look dead"
)
async def the_beat_goes_on_by_itself(world: StoreWorld) -> None:
    async with world.open() as store:
        me = new_id()
        before = (await store.beat(me, join=True, interval=0.05, keep_for=30.0)).beats[me]
        calls, after, deadline = 0, before, time.monotonic() + world.patience
        while after - before <= calls + 1 and time.monotonic() < deadline:  # a call itself may count as one
            time.sleep(0.3)
            after = (await store.beat(me, interval=0.05, keep_for=30.0)).beats[me]
            calls += 1
        expect(
            after - before > calls + 1,
            f"{world.patience:g} s of beats every 50 ms counted {after - before} in {calls} calls",
        )


@STORE.rule(
    "P6", "`beats` goes up by one with each beat",
    because="an owner sees by its own counter whether it can write, and otherwise declares no other one dead",
)  # fmt: skip
async def beats_are_counted(world: StoreWorld) -> None:
    async with world.open() as store:
        me, began = new_id(), time.monotonic()
        before = (await store.beat(me, join=True, interval=0.2, keep_for=30.0)).beats[me]
        await anyio.sleep(0.5)
        after = (await store.beat(me, interval=0.2, keep_for=30.0)).beats[me]
        most = (time.monotonic() - began) / 0.2 + 3  # two calls, and one more for the edges
        expect(after - before <= most, f"{after - before} beats counted, of which {most:.0f} are possible")


@STORE.rule(
    "P3", "the beat stands still after `keep_for`", because="an event loop that is stuck for good must look dead",
    needs="shared",
)  # fmt: skip
async def the_beat_ends(world: StoreWorld) -> None:
    async with world.open() as store, world.open() as observer:
        stuck, me = new_id(), await observer.owner()
        await store.beat(stuck, join=True, interval=0.05, keep_for=0.2)
        await anyio.sleep(0.5)
        first = (await observer.beat(me)).beats.get(stuck)
        await anyio.sleep(0.4)
        expect_same((await observer.beat(me)).beats.get(stuck), first, "the counter, 0.4 s later")


@STORE.rule("C5", "`running` is what this owner holds", because="the kernel releases claims that it does not know of")
async def what_an_owner_holds(world: StoreWorld) -> None:
    async with world.open() as store:
        other = await store.owner()
        theirs = await store.running(other)
        await store.beat(other, leave=True)
        me = await store.owner()
        mine, also = await store.running(me), await store.running(me)
        held = (await store.beat(me)).running
        expect_same(sorted(held), sorted((job.id, job.seq) for job in (mine, also)), "(id, token) of what it holds")
        await store.save(completed(mine), back_to_waiting(also))
        expect_same(list((await store.beat(me)).running), [], "what it holds after both outcomes")
        await store.same(theirs, "a RUNNING row of another owner")


@STORE.rule("P4", "owners of RUNNING rows that are not registered are `dead`", because="their jobs would hang for ever")
async def orphans_are_reported(world: StoreWorld) -> None:
    async with world.open() as store:
        gone = await store.owner()
        job = await store.running(gone)
        await store.beat(gone, leave=True)
        me = await store.owner()
        answer = await store.beat(me)
        expect(gone in answer.dead, "an owner that left a RUNNING row behind is not in `dead`")
        expect(me not in answer.dead, "the asking owner is in its own `dead`")
        expect_same([row.id for row in await store.find(owner=gone)], [job.id], "rows found by the owner that is gone")
        await store.save(back_to_waiting(job))
        expect(gone not in (await store.beat(me)).dead, "it is still `dead` after its row was recovered")


@STORE.rule("C7", "`due` names the handlers that have due rows", because="work that no process can do must be reported")
async def handlers_with_due_rows(world: StoreWorld) -> None:
    async with world.open() as store:
        me, at = await store.owner(), now()
        await store.add(
            a_job(handler_name="Due"), a_job(handler_name="Later", due_at=at + timedelta(hours=1)),
            a_job(handler_name="Paused", paused=True), a_job(handler_name="Manual", paused=True, manual=True),
        )  # fmt: skip
        expect_same(set((await store.beat(me, now=at)).due), {"Due", "Manual"}, "handlers with due rows")
        later = (await store.beat(me, now=at + timedelta(hours=2))).due
        expect_same(set(later), {"Due", "Later", "Manual"}, "two hours later")


@STORE.rule("P2", "a heartbeat's `size` and `now` may be missing", because="not every engine knows them")
async def what_a_store_may_know(world: StoreWorld) -> None:
    async with world.open() as store:
        answer = await store.beat(new_id(), join=True)
        expect(answer.size >= 0, f"`size` is {answer.size}: say 0 where it is unknown")
        at = answer.now
        expect(at is None or at.utcoffset() is not None, f"`now` is {at!r}, which has no time zone")


@STORE.rule("D3", "the store has one id", because="a trigger names the store it belongs to")
async def one_store_id(world: StoreWorld) -> None:
    async with world.open() as store:
        ids = {(await store.stats()).store_id, (await store.beat(await store.owner())).store_id}
        expect_same(len(ids), 1, f"ids given by stats and heartbeat ({ids})")


@STORE.rule(
    "P2",
    "an owner that is gone is dead, or its beat stands still",
    because="its jobs must be taken back",
    needs="shared",
)
async def a_dead_owner_is_seen(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        async with world.open() as other:
            gone = await other.owner(interval=0.05, keep_for=60.0)
            job = await other.running(gone)
            alive = await store.beat(me)
            expect(
                gone in alive.beats and gone not in alive.dead, "an owner that is alive is not seen, or seen as dead"
            )
        first = (await store.beat(me)).beats.get(gone)
        await anyio.sleep(0.3)
        answer = await store.beat(me)
        expect(
            gone in answer.dead or answer.beats.get(gone) == first,
            "its beat goes on although its store was closed",
        )
        expect_same((await store.the(job)).owner, gone, "the owner of the row it left RUNNING")


@STORE.rule(
    "S7", "`stopping` outlives the process", because="the next one must know that a stop interrupted its jobs",
    needs="shared",
)  # fmt: skip
async def a_stop_is_remembered(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        async with world.open() as other:
            gone = await other.owner(interval=0.05, keep_for=60.0)
            await other.running(gone)
            await other.beat(gone, stopping=True)
            expect_same(set((await store.beat(me)).stopping), {gone}, "`stopping`, seen by another process")
        expect_same(set((await store.beat(me)).stopping), {gone}, "`stopping` when its process has ended")
        expect_same(set((await store.beat(me, recovered=(gone,))).stopping), set(), "`stopping` when it is recovered")


@STORE.rule(
    "P4",
    "an owner that was recovered is unknown",
    because="it must notice that its jobs were taken over",
    needs="shared",
)
async def the_recovered_are_forgotten(world: StoreWorld) -> None:
    async with world.open() as store, world.open() as other:
        me, taken_for_dead = await store.owner(), await other.owner()
        await other.add(a_job())
        answer = await store.beat(me, recovered=(taken_for_dead,))
        expect(taken_for_dead not in answer.beats, "a recovered owner is still in `beats`")
        expect(not (await other.beat(taken_for_dead)).known, "`known` is True for an owner that was recovered")
        expect(not (await other.claim(taken_for_dead)).jobs, "a recovered owner was given a job")
        expect((await store.beat(me)).known, "the one that recovered it is unknown as well")
