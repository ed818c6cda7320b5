"""A store's reads: finding, paging, history, counts, and retention."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aether_bg.model import JobInfo, JobStatus, RunOutcome
from aether_bg.testing.contracts.opening import STORE, Opened, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same
from aether_bg.testing.contracts.values import a_job, a_run, ago, back_to_waiting, change, completed, new_id, now


async def _finds(store: Opened, wanted: list[JobInfo], **query: Any) -> None:
    """Finds exactly these rows, in the order by id unless the query has another."""
    found = [row.job_name for row in await store.find(**query)]
    ordered = wanted if "order" in query or "job_name" in query else sorted(wanted, key=lambda job: job.id)
    shown = ", ".join(f"{name}={value!r:.90}" for name, value in query.items())
    expect_same(found, [job.job_name for job in ordered], f"names found by ({shown})")


@STORE.rule("store_find", "every field of a query must hold", because="the kernel acts on each row it is given")
async def each_criterion(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        done = a_job("done", status=JobStatus.COMPLETED, due_at=None, handled_time=ago(5))
        other = a_job("other", handler_name="Other", created_at=ago(3600))
        plain, later = a_job("plain"), a_job("later", due_at=now() + timedelta(hours=1))
        await store.add(done, other, plain, later)
        busy = await store.running(me, name="busy")
        await _finds(store, [done, other, plain, later, busy])
        await _finds(store, [plain, done], ids=(done.id, new_id(), plain.id))
        await _finds(store, [], ids=())
        await _finds(store, [other], handler_name="Other")
        await _finds(store, [done, busy], status=(JobStatus.COMPLETED, JobStatus.RUNNING))
        await _finds(store, [busy], owner=me)
        await _finds(store, [other, plain], due_before=now())
        await _finds(store, [other], created_before=ago(1800))
        await _finds(store, [done, plain, later, busy], created_after=ago(1800))
        await _finds(store, [plain, later], handler_name="Work", status=(JobStatus.SCHEDULED,))
        await _finds(store, [], handler_name="Other", ids=(plain.id,))


@STORE.rule("store_find", "metadata is equal at the keys given, by type and value", because='{"OrderId": 1} is not "1"')
async def metadata_is_searched(world: StoreWorld) -> None:
    async with world.open() as store:
        values: list[Any] = [1, "1", True, None, {"a": [1, 2]}, "ü'%", 0, False, ""]
        jobs = [a_job(f"m{n}", extra_properties={"k": value, "n": n}) for n, value in enumerate(values)]
        bare = a_job("bare")
        await store.add(*jobs, bare)
        for job, value in zip(jobs, values, strict=True):
            if not isinstance(value, dict):
                await _finds(store, [job], metadata={"k": value})
        await _finds(store, [jobs[0]], metadata={"k": 1, "n": 0})
        await _finds(store, [], metadata={"k": 1, "n": 1})
        await _finds(store, [], metadata={"missing": None})
        await _finds(store, [*jobs, bare], metadata={})


@STORE.rule("N1", "by name the holder comes first, then the newest", because="a name means the job that holds it now")
async def by_name(world: StoreWorld) -> None:
    async with world.open() as store:
        former: dict[str, Any] = {"holds_name": False, "status": JobStatus.CANCELLED, "due_at": None}
        oldest, holder, newest = a_job("n", **former), a_job("n"), a_job("n", **former)
        await store.add(oldest, holder, newest, a_job("n2"))
        found = [row.id for row in await store.find(job_name="n")]
        expect_same(found, [holder.id, newest.id, oldest.id], "ids found by name")
        expect_same([row.id for row in await store.find(job_name="n", limit=1)], [holder.id], "and with limit=1")


@STORE.rule("D4", "`unarmed` finds waiting rows whose seq is not armed", because="what is not armed is never called")
async def what_is_not_armed(world: StoreWorld) -> None:
    async with world.open() as store:
        fresh, stale, manual = a_job("fresh"), a_job("stale", seq=3, armed_seq=2), a_job("m", paused=True, manual=True)
        armed, paused = a_job("armed", seq=2, armed_seq=2), a_job("paused", paused=True)
        await store.add(fresh, stale, manual, armed, paused, a_job("done", status=JobStatus.COMPLETED, due_at=None))
        await _finds(store, [fresh, stale, manual], unarmed=True)
        await store.save(change(fresh, next_seq=fresh.seq, armed_seq=fresh.seq))
        await _finds(store, [stale, manual], unarmed=True)


@STORE.rule(
    "R5", "`changed_after` finds waiting rows that were changed later than that",
    because="a clock that was set back must not hold up what was planned before",
)  # fmt: skip
async def what_was_changed(world: StoreWorld) -> None:
    async with world.open() as store:
        early: dict[str, Any] = {"created_at": ago(60), "modified_at": ago(60)}
        retry = a_job("retry", **early | {"modified_at": ago(10), "seq": 4, "attempt": 1})
        done = a_job("done", status=JobStatus.FAILED, due_at=None, modified_at=ago(10), seq=4)
        await store.add(retry, done, a_job("early", **early))
        await _finds(store, [retry], changed_after=ago(20))
        await _finds(store, [], changed_after=ago(5))
        fresh = a_job("fresh", created_at=ago(10), modified_at=ago(10))
        await store.add(fresh)
        await _finds(store, [retry, fresh], changed_after=ago(20))
        await _finds(store, [], changed_after=ago(5))


@STORE.rule(
    "R6", "`zoned` finds waiting rows with a time zone", because="the rules of a zone change under the jobs that wait"
)
async def what_is_zoned(world: StoreWorld) -> None:
    async with world.open() as store:
        zoned = a_job("zoned", timezone="Europe/Berlin")
        done = a_job("done", status=JobStatus.FAILED, due_at=None, timezone="Europe/Berlin")
        await store.add(zoned, done, a_job("plain"))
        await _finds(store, [zoned], zoned=True)


@STORE.rule("N8", "`holders` finds the rows that hold one of these names", because="a batch asks for all of its names")
async def who_holds_which_name(world: StoreWorld) -> None:
    async with world.open() as store:
        former = a_job("a", status=JobStatus.COMPLETED, due_at=None, handled_time=ago(9), holds_name=False)
        a, b, c = a_job("a"), a_job("b"), a_job("c")
        await store.add(former, a, b, c)
        await _finds(store, [a, c], holders=("c", "a", "nothing", "a'b", "\0"))
        await _finds(store, [c], holders=("c", "a"), after=a.id)
        await _finds(store, [], holders=())
        names = tuple(f"n{number}" for number in range(700))
        await _finds(store, [b], holders=(*names, "b"))


@STORE.rule(
    "store_find", "pages follow each other without gap or double", because="retention and outbox go page by page"
)
async def page_by_page(world: StoreWorld) -> None:
    async with world.open() as store:
        at = [ago(60), ago(50), ago(40), ago(30)]
        jobs = [a_job(f"p{n:02}", due_at=at[n % 4]) for n in range(23)]
        await store.add(*jobs)
        by_due = sorted(jobs, key=lambda job: (job.due_at or now(), job.id))
        for order, wanted in (("created", jobs), ("due", by_due)):
            seen: list[str] = []
            after = None
            while page := await store.find(order=order, after=after, limit=5):
                expect(len(page) <= 5, f"a page of limit=5 has {len(page)} rows")
                seen += [row.job_name for row in page]
                after = page[-1].id
                expect(len(seen) <= 23, "paging does not end")
            expect_same(seen, [job.job_name for job in wanted], f"names, page by page, in the order {order!r}")


@STORE.rule("store_find", "a page goes on after a row that was purged", because="retention runs while others read")
async def a_page_after_a_purge(world: StoreWorld) -> None:
    async with world.open() as store:
        ended: dict[str, Any] = {"status": JobStatus.COMPLETED, "due_at": None, "handled_time": ago(9)}
        last, rest = a_job("last", **ended), a_job("rest")
        await store.add(last, rest)
        expect_same(await store.purge(status=JobStatus.COMPLETED), 1, "rows purged")
        await _finds(store, [rest], after=last.id)


@STORE.rule(
    "store_find", "a page of due rows goes on after a row that has ended: from the first one that is due",
    because="rows end while others read, and those that are still due must not be missed",
)  # fmt: skip
async def a_page_after_an_end(world: StoreWorld) -> None:
    async with world.open() as store:
        owner = await store.owner()
        last, rest = await store.running(owner), a_job("rest")
        await store.add(rest)
        await store.save(completed(last))
        for asked in ({}, {"due_before": now()}, {"unarmed": True}):
            await _finds(store, [rest], order="due", after=last.id, status=(JobStatus.SCHEDULED,), **asked)


@STORE.rule("store_history", "the newest `limit` rows, newest first", because="the last attempt explains the state")
async def history_newest_first(world: StoreWorld) -> None:
    async with world.open() as store:
        expect_same(await store.history(new_id()), [], "the history of an unknown job")
        me = await store.owner()
        job = await store.running(me)
        for _ in range(5):
            await store.save(back_to_waiting(job))
            (job,) = (await store.claim(me)).jobs
        tokens = [run.token for run in await store.history(job.id)]
        expect_same(tokens, sorted(tokens, reverse=True), "tokens in the history")
        expect_same(len(tokens), 6, "history rows of six claims")
        expect_same([run.token for run in await store.history(job.id, 2)], tokens[:2], "with limit=2")
        outcomes = [run.outcome for run in await store.history(job.id)]
        expect_same(outcomes, [None, *[RunOutcome.RELEASED] * 5], "their outcomes")


@STORE.rule("store_stats", "counts are those of the rows", because="health and alarms are judged by them")
async def counts_are_true(world: StoreWorld) -> None:
    async with world.open() as store:
        empty = await store.stats()
        expect_same((empty.total, empty.due, empty.oldest_due, empty.runs), (0, 0, None, 0), "stats of an empty store")
        me, old = await store.owner(), ago(500)
        await store.add(
            a_job(due_at=old), a_job(due_at=now() + timedelta(hours=1)), a_job(paused=True, due_at=ago(900))
        )
        await store.add(*(a_job(status=s, due_at=None, handler_name="Other") for s in JobStatus if s.terminal))
        await store.running(me)
        s = await store.stats()
        counts = (s.scheduled, s.running, s.completed, s.failed, s.cancelled)
        expect_same(counts, (3, 1, 1, 1, 1), "rows that are scheduled, running, completed, failed, cancelled")
        expect_same(
            (s.paused, s.due, s.oldest_due), (1, 1, old), "paused, due (a paused row is not), and the oldest due"
        )
        expect_same((s.owners, s.runs), (1, 1), "owners and history rows")
        by_handler = {name: dict(count) for name, count in s.by_handler.items()}
        wanted = {"Work": {"scheduled": 3, "running": 1}, "Other": {"completed": 1, "failed": 1, "cancelled": 1}}
        expect_same(by_handler, wanted, "counts by handler")


@STORE.rule(
    "N5", "purge deletes terminal rows only, with their history", because="live work must survive any retention"
)
async def purge_spares_the_living(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        waiting, busy = a_job("waiting", handled_time=ago(9999)), await store.running(me)
        ended = [await store.running(me) for _ in range(2)]
        await store.add(waiting)
        await store.save(*map(completed, ended))
        expect_same(await store.purge(), 2, "rows purged of any status, no bounds")
        for job in ended:
            expect(await store.row(job) is None, "a purged row is still found")
            expect_same(await store.history(job.id), [], "the history of a purged job")
        await store.same(waiting, "a SCHEDULED row after a purge")
        await store.same(busy, "a RUNNING row after a purge")
        await store.add(a_job(ended[0].job_name))  # its name is free again
        for status in (JobStatus.SCHEDULED, JobStatus.RUNNING):
            expect_same(await store.purge(status=status), 0, f"rows purged with status={status.name}")


@STORE.rule(
    "store_purge", "age, count and bite bound what goes, the oldest first", because="retention keeps what it promised"
)
async def purge_is_bounded(world: StoreWorld) -> None:
    async with world.open() as store:
        aged = [a_job(f"a{n}", status=JobStatus.COMPLETED, due_at=None, handled_time=ago(99 - n)) for n in range(10)]
        failed = a_job("failed", status=JobStatus.FAILED, due_at=None, handled_time=ago(1000))
        await store.add(*reversed(aged), failed)
        completed_: dict[str, Any] = {"status": JobStatus.COMPLETED}
        expect_same(await store.purge(**completed_, before=aged[4].handled_time), 4, "rows handled before the fifth")
        expect_same(await store.purge(**completed_, keep=5, limit=500), 1, "rows beyond the newest five of six")
        expect_same(await store.purge(**completed_, keep=99), 0, "rows beyond the newest 99")
        expect_same(await store.purge(**completed_, limit=2), 2, "rows in one bite of two")
        await _finds(store, [*aged[7:], failed])


@STORE.rule(
    "store_purge", "both bounds must hold, and a row without `handled_time` has no age",
    because="what a user wants to keep must not go for one of them",
)  # fmt: skip
async def bounds_hold_together(world: StoreWorld) -> None:
    async with world.open() as store:
        done: dict[str, Any] = {"status": JobStatus.COMPLETED, "due_at": None}
        aged = [a_job(f"a{n}", **done, handled_time=ago(99 - n)) for n in range(6)]
        timeless = a_job("timeless", **done, handled_time=None)
        await store.add(timeless, *aged)
        bounds: dict[str, Any] = {"status": JobStatus.COMPLETED, "before": aged[2].handled_time}
        expect_same(await store.purge(**bounds, keep=5), 1, "rows handled before the third, and beyond the newest five")
        expect_same(await store.purge(**bounds, keep=0), 1, "rows handled before the third, of any number")
        await _finds(store, [timeless, *aged[2:]])
        expect_same(await store.purge(status=JobStatus.COMPLETED, keep=0), 4, "rows with a `handled_time`")
        expect_same(await store.purge(status=JobStatus.COMPLETED), 1, "rows in the end")


@STORE.rule("N5", "the history of one job can be trimmed", because="a recurring job would fill the disk")
async def history_is_trimmed(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        job, other = await store.running(me), await store.running(me)
        rows = tuple(a_run(job, token=n, outcome=RunOutcome.FAILED) for n in range(2, 22))
        await store.save(change(job, next_seq=30, runs=rows))
        await store.purge(job_id=job.id, history=5)
        expect_same([run.token for run in await store.history(job.id)], [21, 20, 19, 18, 17], "tokens that are left")
        skipped = tuple(a_run(job, token=n, outcome=RunOutcome.SKIPPED, gap=1) for n in range(2, 9))
        await store.save(change(await store.the(job), next_seq=31, runs=skipped))
        await store.purge(job_id=job.id, history=5)
        left = [run.token for run in await store.history(job.id)]
        expect_same(left, [21, 20, 19, 18, 17, 8, 7, 6, 5, 4], "tokens that are left, `skipped` rows counted apart")
        expect_same((await store.the(job)).status, JobStatus.RUNNING, "the job after its history was trimmed")
        expect_same(len(await store.history(other.id)), 1, "history rows of another job")
