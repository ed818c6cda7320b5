"""Where the time of a drain and of an enqueue goes, layer by layer, in µs per job: `nox -s bench -- --layers`.

Each layer is measured alone, doing what it does in a drain, so that the lines can be compared; they add up only
roughly, since the writer's thread works beside the event loop.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import anyio
import attrs
from no_store import NoStore, claimed
from pieces import BATCH, fsync, hook, hop, task
from timed_store import TimedStore

from aether_bg import Aether, JobInfo, SQLiteStore
from aether_bg.model import Change, Claim, Heartbeat, Insert, JobRun, JobStatus, RunOutcome, Update
from aether_bg.plugins.sqlite import changes, claims, files, guard, rows

JOBS = 10_000


@attrs.define
class Letter:
    to: str
    subject: str
    tags: list[str]


LETTER = {"to": "ada@example.org", "subject": "hello", "tags": ["a", "b"]}


def app_for(store: Any, count: int) -> tuple[Aether, anyio.Event]:
    """An app with a no-op handler with and without payload; the event: that many have run."""
    app, finished, left = Aether(store, scheduler="timer"), anyio.Event(), count

    def one() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            finished.set()

    @app.handler("Noop")
    async def noop() -> None:
        one()

    @app.handler("Letter")
    async def letter(args: Letter) -> None:
        one()

    return app, finished


async def fill(app: Aether, count: int) -> None:
    async with app.client() as jobs:
        for _ in range(0, count, 500):
            async with jobs.unit_of_work():
                for _ in range(500):
                    await jobs.enqueue("Noop")


async def drained(app: Aether, finished: anyio.Event) -> float:
    """Seconds from the start of the app to its last job."""
    async with app:
        began = time.perf_counter()
        await finished.wait()
        return time.perf_counter() - began


async def kernel(handler: str = "Noop", payload: Any = None) -> float:
    best = 9.9
    for _ in range(3):
        app, finished = app_for(NoStore(claimed(JOBS, handler, payload)), JOBS)
        best = min(best, await drained(app, finished))
    return best / JOBS


async def whole(path: Path) -> tuple[float, TimedStore]:
    store = TimedStore(SQLiteStore(path))
    app, finished = app_for(store, JOBS)
    await fill(app, JOBS)
    store.spent.clear()
    return await drained(app, finished) / JOBS, store


def completion(job: JobInfo) -> Update:
    """What the kernel writes when a one-shot has run."""
    now = datetime.now(UTC)
    run = JobRun(
        job_id=job.id, token=job.seq, attempt=1, occurrence=job.occurrence, outcome=RunOutcome.COMPLETED,
        started_at=job.started_at, finished_at=now, owner=job.owner,
    )  # fmt: skip
    return Update(Change(
        job_id=job.id, seq=job.seq, schedule_rev=job.schedule_rev, next_seq=job.seq + 1, next_rev=job.schedule_rev,
        status=JobStatus.COMPLETED, due_at=None, occurrence=job.occurrence, last_occurrence=job.occurrence,
        occurrences=1, attempt=1, retry_count=0, crash_count=0, last_error=None, handled_time=now, paused=False,
        manual=False, off_schedule=False, trigger_pending=False, holds_name=True, armed_seq=job.armed_seq, owner=None,
        modified_at=now, modified_by=None, runs=(run,),
    ))  # fmt: skip


def sql(path: Path) -> dict[str, float]:
    """The statements of a drain on one connection, one thread: seconds per job."""
    conn = files.connect(path)
    watch = guard.Guard(conn)
    owner = uuid4()
    beat = Heartbeat(owner=owner, handlers=("Noop",), now=datetime.now(UTC), interval=5, keep_for=50)
    spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        spent[what] += time.perf_counter() - began

    def begin() -> None:
        conn.execute(f"BEGIN IMMEDIATE {watch.mark}")

    begin()
    claims.join(conn, beat)
    conn.execute(f"COMMIT {watch.mark}")
    done = 0
    while True:
        wanted = Claim(owner=owner, now=datetime.now(UTC), limit=BATCH, handlers=("Noop",))
        begin()
        with timed("SQL: claim"):
            text, _ = claims.claim(conn, wanted)
        with timed("commit (fsync)"):
            conn.execute(f"COMMIT {watch.mark}")
        with timed("rows to JobInfo"):
            jobs = rows.read_jobs(text)
        if not jobs:
            break
        saves = [completion(job) for job in jobs]
        begin()
        with timed("SQL: outcomes"):
            changes.transact(conn, saves, watch)
        with timed("commit (fsync)"):
            conn.execute(f"COMMIT {watch.mark}")
        done += len(jobs)
    conn.close()
    return {what: seconds / done for what, seconds in spent.items()}


async def functions(top: int = 28) -> str:
    """The kernel's own functions by time spent in them, on a store that costs nothing."""
    app, finished = app_for(NoStore(claimed(JOBS)), JOBS)
    profile = cProfile.Profile()
    async with app:
        profile.enable()
        await finished.wait()
        profile.disable()
    stats = pstats.Stats(profile)
    lines = []
    own: list[Any] = sorted(stats.stats.items(), key=lambda item: -item[1][2])  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, inside, cumulative, _) in own[:top]:
        place = f"{file[file.rfind('aether_bg/') :] if 'aether_bg/' in file else Path(file).name}:{line}"
        lines.append(f"{inside / JOBS * 1e6:7.2f} {cumulative / JOBS * 1e6:8.2f} {calls / JOBS:6.2f}  {place} {name}")
    return "\n".join(["    own    total  calls  per job, µs, under cProfile (about twice as slow)", *lines])


async def enqueued(store: Any, count: int) -> float:
    """Seconds per enqueue, one at a time, by a client of this store."""
    app, _ = app_for(store, 1)
    async with app.client() as jobs:
        began = time.perf_counter()
        for _ in range(count):
            await jobs.enqueue("Noop")
        return (time.perf_counter() - began) / count


def inserted(path: Path, count: int) -> tuple[float, float]:
    """Seconds per row and per commit, one row each, with the same rows and statements but no threads: medians."""
    conn = files.connect(path)
    watch = guard.Guard(conn)
    rows, commits = [], []
    for job in claimed(count):
        began = time.perf_counter()
        conn.execute(f"BEGIN IMMEDIATE {watch.mark}")
        changes.transact(conn, [Insert(job)], watch)
        between = time.perf_counter()
        conn.execute(f"COMMIT {watch.mark}")
        rows.append(between - began)
        commits.append(time.perf_counter() - between)
    conn.close()
    return median(rows), median(commits)


def print_table(what: str, rows: list[tuple[str, float, str]]) -> None:
    print(what)
    for name, seconds, remark in rows:
        print(f"  {name:40}{seconds * 1e6:8.2f} µs/job   {remark}")
    print()


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await whole(folder / "warm.db")
        runs = [await whole(folder / f"{n}.db") for n in range(3)]
        total, store = min(runs, key=lambda run: run[0])
        plain, typed = await kernel(), await kernel("Letter", LETTER)
        app, _ = app_for(folder / "sql.db", 1)
        await fill(app, JOBS)
        alone = sql(folder / "sql.db")
        one = min([await enqueued(folder / f"{n}.db", 1000) for n in range(3)])
        one_kernel = min([await enqueued(NoStore([]), 1000) for _ in range(3)])
        row, commit = inserted(folder / "sql.db", 1000)
        writes = sum(len(store.spent[hook]) for hook in ("store_claim", "store_transact")) / JOBS
        hop_, sync, task_, hook_ = await hop(), fsync(folder), await task(), hook()
    print_table("drain", [
        ("whole", total, ""),
        ("kernel on a store that costs nothing", plain, "claim to outcome, no payload"),
        ("  of it: one task", task_, "alone, started and ended"),
        ("  of it: hook calls", writes * hook_, f"{writes:.4f} per job × {hook_ * 1e6:.2f} µs"),
        ("typing: payload to an attrs class", typed - plain, "three fields"),
        ("thread hops", writes * hop_, f"{writes:.4f} per job × {hop_ * 1e6:.0f} µs there and back"),
        *((name, seconds, f"batches of {BATCH}, no threads") for name, seconds in alone.items()),
        ("  of it: fsync", 2 / BATCH * sync, f"2 per {BATCH} jobs × {sync * 1e6:.0f} µs (fdatasync of 4 KiB)"),
    ])  # fmt: skip
    print_table("enqueue, one at a time", [
        ("whole", one, "a client: no scheduler beside it"),
        ("kernel on a store that costs nothing", one_kernel, "checks, ids, tasks"),
        ("thread hop", hop_, "there and back"),
        ("SQL: one row", row, "no threads"),
        ("commit (fsync)", commit, f"of it fsync {sync * 1e6:.0f} µs"),
    ])  # fmt: skip
    print(await functions())


if __name__ == "__main__":
    anyio.run(main)
