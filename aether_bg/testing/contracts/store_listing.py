"""Lists for people: newest and last ended first, names with a common beginning, all attempts, failures in groups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import attrs

from aether_bg.model import JobInfo, JobStatus, RunOutcome
from aether_bg.model.job import error_line
from aether_bg.testing.contracts.opening import STORE, Opened, StoreWorld
from aether_bg.testing.contracts.suite import expect, expect_same
from aether_bg.testing.contracts.values import NAMES, TEXTS, a_job, a_run, ago, change, new_id, now


async def _lists(store: Opened, wanted: Sequence[JobInfo], **query: Any) -> None:
    """These rows and no others, in this order; and the same page by page."""
    shown = ", ".join(f"{name}={value!r:.90}" for name, value in query.items())
    names = [job.job_name for job in wanted]
    expect_same([row.job_name for row in await store.find(**query)], names, f"names listed by ({shown})")
    seen: list[str] = []
    after = None
    while page := await store.find(**query, after=after, limit=3):
        seen += [row.job_name for row in page]
        after = page[-1].id
        expect(len(seen) <= len(names), f"paging by ({shown}) does not end")
    expect_same(seen, names, f"names listed by ({shown}), page by page")


def _ended(name: str, seconds: float, status: JobStatus = JobStatus.COMPLETED, **fields: Any) -> JobInfo:
    return a_job(name, status=status, due_at=None, handled_time=ago(seconds), **fields)


@STORE.rule("store_find", "`newest` is the order of ids, backwards", because="people look at what came last")
async def newest_first(world: StoreWorld) -> None:
    async with world.open() as store:
        jobs = [a_job(f"n{n:02}", handler_name=("Work", "Other")[n % 2]) for n in range(8)]
        done = [_ended(f"done{n}", 60 - n) for n in range(4)]
        await store.add(*jobs[:4], *done, *jobs[4:])
        every = sorted([*jobs, *done], key=lambda job: job.id, reverse=True)
        scheduled = [job for job in every if job.status is JobStatus.SCHEDULED]
        await _lists(store, every, order="newest")
        await _lists(store, scheduled, order="newest", status=(JobStatus.SCHEDULED,))
        await _lists(store, every, order="newest", status=(JobStatus.COMPLETED, JobStatus.SCHEDULED))
        await _lists(store, [job for job in every if job.handler_name == "Other"], order="newest", handler_name="Other")
        await _lists(store, scheduled[::2], order="newest", handler_name="Other", status=(JobStatus.SCHEDULED,))
        await _lists(store, [], order="newest", status=())
        await store.purge(status=JobStatus.COMPLETED)
        found = [row.job_name for row in await store.find(order="newest", after=done[0].id)]
        expect_same(found, [job.job_name for job in jobs[::-1]], "names after a row that was purged")


@STORE.rule(
    "store_find", "`ended` lists terminal rows by `handled_time`, the latest first",
    because="people ask what failed last",
)  # fmt: skip
async def last_ended_first(world: StoreWorld) -> None:
    async with world.open() as store:
        failed = [_ended(f"f{n}", 50 - n, JobStatus.FAILED, handler_name=("Work", "Other")[n % 2]) for n in range(6)]
        at = failed[2].handled_time
        done = [a_job(f"d{n}", status=JobStatus.COMPLETED, due_at=None, handled_time=at) for n in range(4)]
        waits = a_job("has run before", handled_time=ago(1))
        never = a_job("no time", status=JobStatus.FAILED, due_at=None)
        await store.add(*done, waits, *failed, never)
        every = sorted([*failed, *done], key=lambda job: (job.handled_time or now(), job.id), reverse=True)
        await _lists(store, every, order="ended")
        await _lists(store, failed[::-1], order="ended", status=(JobStatus.FAILED,))
        await _lists(store, every, order="ended", status=(JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.RUNNING))
        await _lists(store, failed[1::2][::-1], order="ended", status=(JobStatus.FAILED,), handler_name="Other")
        await _lists(store, [], order="ended", status=(JobStatus.SCHEDULED,))
        expect_same(await store.find(order="ended", after=new_id()), [], "what follows an unknown row")


@STORE.rule("store_find", "a prefix is the beginning of a name, to the letter", because="`50%_` is no pattern")
async def names_that_begin_alike(world: StoreWorld) -> None:
    async with world.open() as store:
        jobs = [a_job(name) for name in NAMES if not name.startswith("x")]
        jobs += [a_job(name) for name in ("mail:1", "mail:2", "Mail:3", "mail", "mail;", "a*", "a%", "ab", "a_")]
        former = a_job("mail:1", holds_name=False, status=JobStatus.CANCELLED, due_at=None, handled_time=ago(3))
        await store.add(*jobs, former)
        newest = [former, *jobs[::-1]]
        for prefix in (
            "mail:",
            "mail",
            "Mail",
            "a%",
            "a_",
            "a*",
            "日",
            "🦊",
            "e",
            "é",
            "'",
            "\U0010ffff",
            "plain ",
            "",
            "'; D",
        ):
            wanted = [job for job in newest if job.job_name.startswith(prefix)]
            await _lists(store, wanted, name_prefix=prefix, order="newest")
            names = sorted(row.job_name for row in await store.find(name_prefix=prefix))
            expect_same(names, sorted(job.job_name for job in wanted), f"names that begin with {prefix!r}")
        await _lists(store, [former], name_prefix="mail:", order="ended")
        await _lists(store, [former], name_prefix="mail:", order="newest", status=(JobStatus.CANCELLED,))


@STORE.rule("store_find", "paused and recurring rows are found", because="people must see what they hold back")
async def paused_and_recurring(world: StoreWorld) -> None:
    async with world.open() as store:
        paused, over = a_job("paused", paused=True), _ended("over", 9, paused=True)
        texts = ("@every 5m", "30 2 * * *", "@once", "@ONCE", "@at 2031-01-01T00:00:00Z", "@after 90m", "@atlantis")
        jobs = [a_job(text, expression_value=text) for text in texts]
        await store.add(paused, over, *jobs)
        await _lists(store, [paused], paused=True, order="newest")
        await _lists(store, [jobs[6], jobs[1], jobs[0]], recurring=True, order="newest")
        expect_same(sorted(row.job_name for row in await store.find(recurring=True)),
                    ["30 2 * * *", "@atlantis", "@every 5m"], "recurring rows in the order of ids")  # fmt: skip


@STORE.rule("store_runs", "attempts of all jobs, the latest end first", because="a page draws the last hour from them")
async def attempts_of_all_jobs(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        kinds = [RunOutcome.COMPLETED, RunOutcome.FAILED, RunOutcome.TIMED_OUT, RunOutcome.CRASHED]
        seen: list[tuple[str, RunOutcome, str]] = []
        for n, outcome in enumerate(kinds):
            job = await store.running(me, name=f"job{n}")
            end, error = ago(40 - 10 * n), None if n == 0 else f"Boom {n}\ndetails"
            run = a_run(job, outcome=outcome, started_at=end - timedelta(seconds=2), finished_at=end, error=error)
            gap = a_run(job, gap=1, outcome=RunOutcome.SKIPPED, started_at=None, finished_at=end)
            await store.save(change(job, status=JobStatus.COMPLETED, due_at=None, owner=None, runs=(run, gap)))
            seen.insert(0, (job.job_name, outcome, error_line(error)))
        busy = await store.running(me)
        found = await store.runs()
        expect_same([(ran.job_name, ran.outcome, ran.error_line) for ran in found], seen, "attempts that have ended")
        expect_same({ran.handler_name for ran in found}, {"Work"}, "their handlers")
        expect_same([round(ran.seconds, 3) for ran in found], [2.0] * 4, "their lengths in seconds")
        expect(busy.id not in {ran.job_id for ran in found}, "an attempt that goes on is among those that have ended")
        for wanted, query in (
            (seen[:2], {"after": ago(25)}), (seen[2:], {"before": ago(25)}),
            (seen[1:2], {"after": ago(25), "before": ago(15)}),
            (seen[:3], {"limit": 3}), ([], {"handler_name": "Other"}), (seen, {"handler_name": "Work"}),
            (seen[1:3], {"outcomes": (RunOutcome.FAILED, RunOutcome.TIMED_OUT)}), ([], {"outcomes": ()}),
        ):  # fmt: skip
            got = [(ran.job_name, ran.outcome, ran.error_line) for ran in await store.runs(**query)]
            expect_same(got, wanted, f"attempts by {query}")


@STORE.rule(
    "store_runs", "of many jobs, the last attempt of each, with its whole row",
    because="a job that runs after a thousand others reads their results",
)  # fmt: skip
async def last_attempts_of_many(world: StoreWorld) -> None:
    async with world.open() as store:
        me = await store.owner()
        jobs, last = list[JobInfo](), dict[str, Any]()
        for n in range(6):
            job = await store.running(me, name=f"job{n}")
            early = a_run(job, outcome=RunOutcome.COMPLETED, token=job.seq, result=[n, "old"], has_result=True)
            failed = a_run(job, outcome=RunOutcome.FAILED, token=job.seq + 2, error="Boom\ndetails")
            done = a_run(job, outcome=RunOutcome.COMPLETED, token=job.seq + 1, result={"n": n}, has_result=True)
            done = attrs.evolve(done, occurrence=ago(500))
            timed = [
                attrs.evolve(run, started_at=ago(90 - n), finished_at=ago(80 - 10 * n - run.token + job.seq))
                for run in (early, failed, done)[: n + 1]
            ]
            gap = a_run(job, gap=1, token=job.seq + 3, outcome=RunOutcome.SKIPPED, started_at=None, finished_at=ago(1))
            await store.save(change(job, status=JobStatus.FAILED, due_at=None, owner=None, runs=(*timed, gap)))
            last[job.job_name] = next(run for run in (failed, done, early) if run.token in {t.token for t in timed})
            jobs.insert(0, job)
        waits = a_job("waits")
        await store.add(waits)
        ids = (waits.id, new_id(), *(job.id for job in jobs), jobs[0].id)
        names = [job.job_name for job in jobs]
        found = await store.runs(ids=ids, last=True, whole=True)
        expect_same([ran.job_name for ran in found], names, "jobs with a last attempt, the latest end first")
        for ran in found:
            wanted = last[ran.job_name]
            expect(ran.run is not None, "an attempt asked for as a whole comes without its row")
            assert ran.run is not None
            got = (ran.token, ran.run.token, ran.run.error, ran.run.result)
            expect_same(got, (wanted.token, wanted.token, wanted.error, wanted.result), f"last of {ran.job_name}")
        completed = await store.runs(ids=ids, last=True, outcomes=(RunOutcome.COMPLETED,), whole=True)
        results = [ran.run and ran.run.result for ran in completed]
        expect_same(results, [*({"n": n} for n in (5, 4, 3, 2)), [1, "old"], [0, "old"]], "results of those completed")
        expect_same({ran.run for ran in await store.runs(ids=ids, last=True)}, {None}, "rows that were not asked for")
        for wanted_names, query in (
            (names[:2], {"ids": ids, "limit": 2}), ([], {"ids": ()}), ([], {"ids": (waits.id,)}), (names, {}),
            (names[1:2], {"ids": (jobs[1].id,)}), ([], {"ids": ids, "handler_name": "Other"}),
            (names[:3], {"ids": ids, "after": ago(55)}), (names, {"ids": ids, "before": ago(1)}),
        ):  # fmt: skip
            seen = [ran.job_name for ran in await store.runs(**query, last=True)]
            expect_same(seen, wanted_names, f"last attempts by {query}")
        expect_same(len(await store.runs(ids=(jobs[0].id,))), 3, "all attempts of one job")


@STORE.rule("store_failures", "failed jobs are grouped by handler and first line", because="one cause, one line")
async def failures_in_groups(world: StoreWorld) -> None:
    async with world.open() as store:
        errors = ["Timeout: 5 s\nat a", "Timeout: 5 s\nat b", "Timeout: 6 s", "", *TEXTS]
        jobs = [_ended(f"f{n}", 500 - n, JobStatus.FAILED, last_error=error) for n, error in enumerate(errors)]
        jobs.append(_ended("without", 400, JobStatus.FAILED))
        other = _ended("other", 600, JobStatus.FAILED, handler_name="Other", last_error=errors[0])
        fine = [_ended("fine", 1, last_error="Timeout: 5 s"), a_job("waits", last_error="Timeout: 5 s")]
        await store.add(*jobs, other, *fine)
        wanted: dict[tuple[str, str], list[JobInfo]] = {}
        for job in sorted([*jobs, other], key=lambda job: job.handled_time or now(), reverse=True):
            wanted.setdefault((job.handler_name, error_line(job.last_error)), []).append(job)
        groups = await store.failures()
        got = [((g.handler_name, g.error_line), g.count, g.job_id, g.last_at, g.first_at) for g in groups]
        expect_same(
            got, [(key, len(of), of[0].id, of[0].handled_time, of[-1].handled_time) for key, of in wanted.items()],
            "groups: key, count, newest job, last and first time",
        )  # fmt: skip
        for (handler, line), of in wanted.items():
            query: dict[str, Any] = {"handler_name": handler, "error_line": line, "status": (JobStatus.FAILED,)}
            names = [row.job_name for row in await store.find(**query, order="ended")]
            expect_same(names, [job.job_name for job in of], f"failed jobs whose error begins {line!r:.90}")
        expect_same([g.handler_name for g in await store.failures(handler_name="Other")], ["Other"], "of one handler")
        expect_same(len(await store.failures(limit=2)), 2, "groups with limit=2")
        expect_same(sum(g.count for g in await store.failures(among=3)), 3, "jobs in the groups among=3")
