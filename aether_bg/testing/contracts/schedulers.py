"""What a scheduler must bring about: each occurrence called, not early, once, and after every change and restart."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import anyio

from aether_bg.model import JobStatus, RunOutcome
from aether_bg.testing.contracts.scheduling import SCHEDULER, SchedulerWorld
from aether_bg.testing.contracts.suite import expect, expect_same, only_if
from aether_bg.testing.contracts.values import now

SECOND = timedelta(seconds=1)


@SCHEDULER.rule("schedule_run", "what is due is called at once, and nothing is reported", because="it is the whole job")
async def due_now(world: SchedulerWorld) -> None:
    async with world.app() as on:
        await on.app.enqueue("Note", "now")
        await world.until(lambda: world.of("now"), "a job due at once was called")
        await anyio.sleep(0.2)  # a schedule_run that has returned is reported after it
        expect(not on.problems, f"problems were reported: {on.problems}")


@SCHEDULER.rule("schedule_run", "a job is called at its instant, not early", because="a schedule is a promise")
async def at_its_instant(world: SchedulerWorld) -> None:
    async with world.app() as on:
        await on.app.enqueue("Note", "soon", schedule=timedelta(seconds=1.6))
        job = await on.app.store.get_by_job_name("soon")
        await world.until(lambda: world.of("soon"), "a job due in 1.6 s was called")
        (ran,) = world.of("soon")
        expect(job is not None and job.due_at is not None and ran.at >= job.due_at, f"due {job!r}, called at {ran.at}")


@SCHEDULER.rule(
    "schedule_run", "what came due while nothing ran is called at the start", because="nothing stored is forgotten"
)
async def past_due(world: SchedulerWorld) -> None:
    async with world.before(timedelta(hours=1)) as client:
        await client.enqueue("Note", "missed")
        await client.enqueue("Note", "later", schedule=timedelta(hours=1, seconds=1.5))
    async with world.app():
        await world.until(lambda: world.of("missed"), "a job due an hour before the start was called")
        await world.until(lambda: world.of("later"), "a job stored before the start, due 1.5 s after it, was called")


@SCHEDULER.rule("U1", "after an update the new instant counts, the old one does not", because="the user said so")
async def armed_again(world: SchedulerWorld) -> None:
    async with world.app() as on:
        put_off = await on.app.enqueue("Note", "put off", schedule=timedelta(seconds=0.7))
        brought_forward = await on.app.enqueue("Note", "brought forward", schedule=timedelta(hours=1))
        await on.app.update(put_off, timedelta(hours=1))
        await on.app.update(brought_forward, timedelta(seconds=0.7))
        await world.until(lambda: world.of("brought forward"), "a job brought forward to 0.7 s was called")
        await anyio.sleep(0.7)
        expect(not world.of("put off"), "a job was called at the instant it had before it was put off")
        await on.app.update(put_off, timedelta(seconds=0.2))
        await world.until(lambda: world.of("put off"), "a job put off, then brought forward, was called")


@SCHEDULER.rule(
    "U4", "what is deleted or paused is not called, what is resumed is", because="a pause must mean something"
)
async def forgotten(world: SchedulerWorld) -> None:
    async with world.app() as on:
        soon = timedelta(seconds=1.2)  # a busy machine needs a while to delete and pause them
        deleted = await on.app.enqueue("Note", "deleted", schedule=soon)
        paused = await on.app.enqueue("Note", "paused", schedule=soon)
        await on.app.delete(deleted)
        await on.app.pause(paused)
        await anyio.sleep(1.9)
        expect(not world.ran, f"called though deleted or paused: {[ran.name for ran in world.ran]}")
        await on.app.resume(paused)
        await world.until(lambda: world.of("paused"), "a job that was resumed, overdue, was called")


@SCHEDULER.rule("U3", "a trigger calls a paused job, once", because="`run now` is also for paused jobs")
async def triggered(world: SchedulerWorld) -> None:
    async with world.app() as on:
        job = await on.app.enqueue("Note", "yearly", schedule="@yearly")
        await on.app.pause(job)
        await on.app.trigger(job)
        await world.until(lambda: world.of("yearly"), "a paused job that was triggered was called")
        await anyio.sleep(0.3)
        row = await on.app.store.get(job)
        expect(row is not None and row.paused, "it is paused no longer")
        expect_same(len(world.of("yearly")), 1, "calls after one trigger")


@SCHEDULER.rule(
    "C3", "each occurrence of a recurring job is called once, in order", because="a chain that breaks stays broken"
)
async def recurring(world: SchedulerWorld) -> None:
    async with world.app() as on:
        job = await on.app.enqueue("Note", "tick", schedule="* * * * * *", repeats=3)
        await world.until(lambda: len(world.of("tick")) >= 3, "a job of each second was called three times")
        occurrences = [ran.occurrence for ran in world.of("tick")]
        expect(occurrences == sorted(set(occurrences)), f"occurrences in the order of the calls: {occurrences}")
        early = [ran for ran in world.of("tick") if ran.at < ran.occurrence]
        expect(not early, f"called early: {early}")
        expect_same(
            (await on.app.wait(job, timeout=world.patience)).status, JobStatus.COMPLETED, "the job after three of three"
        )


@SCHEDULER.rule(
    "schedule_run", "a job longer than its period never overlaps itself, and goes on", because="it would pile up"
)
async def longer_than_its_period(world: SchedulerWorld) -> None:
    async with world.app() as on:
        job = await on.app.enqueue("Slow", "slow", schedule="@every 1s")
        await world.until(lambda: len(world.of("slow")) >= 3, "a job of 1.4 s, due each second, was called three times")
        await on.app.delete(job)
        expect_same(world.busiest, 1, "the most calls at one time")
        starts = [ran.at for ran in world.of("slow")]
        expect(all(b - a >= 1.3 * SECOND for a, b in pairwise(starts)), f"calls began at {starts}")


@SCHEDULER.rule("C1", "jobs due at one instant are all called, each once", because="the hour is when everything is due")
async def many_at_once(world: SchedulerWorld) -> None:
    async with world.app() as on:
        at = now() + 1.2 * SECOND
        for number in range(60):
            await on.app.enqueue("Note", f"m{number}", schedule=at)
        await world.until(lambda: len({ran.name for ran in world.ran}) == 60, "60 jobs due at one instant were called")
        await anyio.sleep(0.3)
        twice = [name for name, times in Counter(ran.name for ran in world.ran).items() if times > 1]
        expect(not twice, f"called more than once: {twice}")


@SCHEDULER.rule(
    "schedule_run", "what was armed survives a stop and a new start", because="only the plugin can tell the next start"
)
async def started_again(world: SchedulerWorld) -> None:
    async with world.app() as on:
        job = await on.app.enqueue("Note", "later", schedule=timedelta(seconds=2.5))
        await on.app.enqueue("Note", "tick", schedule="* * * * * *")
        if on.pushes:
            await world.until(on.armed, "both jobs were armed")
    before = len(world.of("tick"))
    async with world.app() as on:
        await world.until(lambda: world.of("later"), "a job armed before a stop and due after the new start was called")
        await world.until(lambda: len(world.of("tick")) >= before + 2, "a recurring job went on after a new start")
        await anyio.sleep(0.2)
        expect_same((len(world.of("later")), await on.completed(job)), (1, 1), "calls and completions of the one-shot")


@SCHEDULER.rule("R1", "a retry is called at its backoff", because="it is one more instant, armed like any other")
async def retried(world: SchedulerWorld) -> None:
    async with world.app() as on:
        job = await on.app.enqueue("FailsFirst", "retried")
        row = await on.app.wait(job, timeout=world.patience)
        expect_same((row.status, row.retry_count), (JobStatus.COMPLETED, 1), "status and retries")
        first, second = (ran.at for ran in world.of("retried"))
        expect(second - first >= timedelta(seconds=0.4), f"the retry came after {second - first}, its backoff is 0.4 s")


@SCHEDULER.rule(
    "schedule_run", "an instant is an instant in every zone", because="schedules mean the same under every scheduler"
)
async def in_other_zones(world: SchedulerWorld) -> None:
    async with world.app() as on:
        local = datetime.now(ZoneInfo("Asia/Kathmandu")) + 0.6 * SECOND
        await on.app.enqueue("Note", "kathmandu", schedule=local)
        await on.app.enqueue("Note", "apia", schedule="CRON_TZ=Pacific/Apia * * * * * *", repeats=1)
        hour = datetime.now(ZoneInfo("America/St_Johns")).hour
        await on.app.enqueue(
            "Note", "newfoundland", schedule=f"* * {(hour + 3) % 24} * * *", timezone="America/St_Johns"
        )
        await world.until(lambda: world.of("kathmandu") and world.of("apia"), "jobs in Kathmandu and Apia were called")
        (ran,) = world.of("kathmandu")
        expect_same(ran.occurrence, local, "the occurrence in Kathmandu")
        expect(not world.of("newfoundland"), "a job of three hours later in Newfoundland was called now")


@SCHEDULER.rule(
    "R2", "what was missed is judged by the job's misfire policy", because="a push engine must not replay its own way"
)
async def misfires(world: SchedulerWorld) -> None:
    async with world.before(timedelta(minutes=65)) as client:
        await client.enqueue("Note", "skip", schedule="@every 20m", misfire="skip")
        await client.enqueue("Note", "once", schedule="@every 20m", misfire="once")
        await client.enqueue("Note", "all", schedule="@every 20m", misfire="all")
    async with world.app() as on:
        await world.until(lambda: len(world.of("all")) >= 3, "three missed occurrences of `all` were called")
        await world.until(lambda: world.of("once"), "one of three missed occurrences of `once` was called")
        skipped = await on.app.store.get_by_job_name("skip")
        assert skipped is not None

        async def noted() -> bool:
            return RunOutcome.SKIPPED in [run.outcome for run in await on.app.store.history(skipped.id)]

        await world.until(noted, "the missed occurrences of `skip` were closed in its history")
        await anyio.sleep(0.2)
        calls = Counter(ran.name for ran in world.ran)
        expect_same((calls["skip"], calls["once"], calls["all"]), (0, 1, 3), "calls of skip, once, all")


@SCHEDULER.rule(
    "S1", "it stops at once, and calls nothing afterwards", because="a deploy must not wait for a scheduler"
)
async def stopped(world: SchedulerWorld) -> None:
    async with world.app() as on:
        await on.app.enqueue("Note", "tick", schedule="* * * * * *")
        await on.app.enqueue("Note", "far", schedule=timedelta(days=1))
        await world.until(lambda: world.of("tick"), "a job of each second was called")
        began = time.monotonic()
    took = time.monotonic() - began
    expect(took < 5, f"the stop took {took:.1f} s, with nothing running and a grace of 0.5 s")
    calls = len(world.ran)
    await anyio.sleep(1.2)
    expect_same(len(world.ran), calls, "calls, 1.2 s after the stop")


@SCHEDULER.rule(
    "schedule_arm", "the far future is held, and disturbs no other job", because="some engines count in 32 bits"
)
async def far_away(world: SchedulerWorld) -> None:
    async with world.app() as on:
        for year in (2039, 2263, 9998):
            await on.app.enqueue("Note", f"{year}", schedule=datetime(year, 12, 31, 23, 59, tzinfo=ZoneInfo("UTC")))
        if on.pushes:
            await world.until(on.armed, "jobs of the years 2039, 2263 and 9998 were armed")
        await on.app.enqueue("Note", "now")
        await world.until(lambda: world.of("now"), "a job due now, beside jobs in the far future, was called")
        expect_same([ran.name for ran in world.ran], ["now"], "what was called")


@SCHEDULER.rule(
    "D1", "an arm that comes late displaces nothing", because="two calls for one job may arrive out of order"
)
async def an_old_arm(world: SchedulerWorld) -> None:
    async with world.app() as on:
        only_if(on.pushes, "it has no schedule_arm: nothing is armed")
        job = await on.app.enqueue("Note", "moved", schedule=timedelta(hours=1))
        await world.until(on.armed, "the job was armed")
        old = await on.app.store.get(job)
        assert old is not None
        await on.app.update(job, timedelta(seconds=1))
        await world.until(on.armed, "the job was armed again after an update")
        await on.arm(old)
        await world.until(lambda: world.of("moved"), "a job was called at its new instant, an old arm having come late")
