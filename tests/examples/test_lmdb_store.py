"""The LMDB store under real apps and real processes: restarts, `kill -9`, a held lock, a full map, two that claim."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import anyio
import pytest
from recovered import run_to_the_end

pytest.importorskip("lmdb", reason="the LMDB store needs: pip install lmdb")

from lmdb_store import LMDBStore
from lmdb_store.environment import Environment
from lmdb_store.rows import LMDBRows, job_entries, run_entries

from aether_bg import Aether, Backoff, JobStatus, RunOutcome, UnitOfWork
from aether_bg.errors import NotADatabase, NotStarted, StoreBusy, StoreFolderMissing, StoreFull, Unsupported
from aether_bg.model import Insert, Query
from aether_bg.owners import OwnerFolder
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
WORKER = Path(__file__).with_name("lmdb_worker.py")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the environment is; when a test is done with it, index and rows must agree."""
    yield tmp_path / "jobs.lmdb"
    if (tmp_path / "jobs.lmdb").is_dir():
        assert_consistent(tmp_path / "jobs.lmdb")


def assert_consistent(folder: Path) -> None:
    environment = Environment(folder, 16 << 30)
    with environment.env.begin() as txn:
        rows, wanted = LMDBRows(txn, environment, OwnerFolder(folder / "owners")), dict[bytes, bytes]()
        for job in rows.jobs():
            wanted |= job_entries(job)
        for run in rows.runs():
            wanted |= run_entries(run)
        assert dict(rows.scan(b"")) == wanted
    environment.env.close()


@contextmanager
def program(name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, killed at the end if it still runs."""
    command = [sys.executable, str(WORKER), name, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def an_app(folder: Path, *, clock: FakeClock | None = None, store: LMDBStore | None = None) -> Aether:
    """`Tick` ends at once, `Long` too: here nothing hangs."""
    app = Aether(store or LMDBStore(folder), scheduler="timer", lease=600, grace=1, clock=clock)
    app.handler("Tick")(lambda n: None)
    app.handler("Long")(lambda n: None)
    return app


# -- one process --


async def test_jobs_survive_a_restart_and_run(folder: Path) -> None:
    async with an_app(folder).client() as jobs:
        job = await jobs.enqueue("Tick", "tick", 1, metadata={"even": False})
    app = an_app(folder)
    async with app:
        row = await app.wait(job, timeout=10)
        (run,) = await app.store.history(job)
    assert (row.status, row.payload, row.metadata, row.attempt) == (JobStatus.COMPLETED, 1, {"even": False}, 1)
    assert (run.outcome, run.token) == (RunOutcome.COMPLETED, row.seq - 1)
    async with an_app(folder).client() as jobs:
        assert await jobs.enqueue("Tick", "tick", 1, metadata={"even": False}) == job  # its name is held


async def test_retries_and_history(folder: Path) -> None:
    app = an_app(folder)

    @app.handler("Fails", retries=2, backoff=Backoff(first=0.01))
    async def fails() -> None:
        raise LookupError("nobody")

    async with app:
        row = await app.wait(await app.enqueue(fails), timeout=10)
        runs = await app.store.history(row.id)
    assert (row.status, row.retry_count) == (JobStatus.FAILED, 2)
    assert [(run.attempt, run.outcome) for run in runs] == [(n, RunOutcome.FAILED) for n in (3, 2, 1)]


async def test_a_recurring_job_runs_pauses_and_keeps_its_history(folder: Path) -> None:
    clock = FakeClock()
    app = an_app(folder, clock=clock)
    async with app:
        job = await app.enqueue("Tick", "hourly", 1, "@every 1h", misfire="skip")
        for _ in range(30):
            clock.advance(hours=1)
            await app.drain()
        row = await app.store.get(job)
        assert row is not None
        assert (row.status, row.occurrences) == (JobStatus.SCHEDULED, 30)
        await app.pause(job)
        assert (await app.store.stats()).paused == 1
        clock.advance(hours=5)
        await app.drain()
        assert len(await app.store.history(job, limit=100)) == 30


async def test_what_is_enqueued_in_a_unit_of_work_is_all_there_or_not_at_all(folder: Path) -> None:
    app = an_app(folder)

    @app.handler("Splits")
    async def splits(uow: UnitOfWork) -> None:
        for n in range(3):
            await app.enqueue("Tick", payload=n)

    async with app:
        await app.wait(await app.enqueue(splits), timeout=10)
        assert len(await app.store.find(handler_name="Tick")) == 3
        with pytest.raises(Unsupported, match="no SQL"):
            await with_sql(app)
        assert len(await app.store.find(handler_name="Tick")) == 3


async def with_sql(app: Aether) -> None:
    async with app.unit_of_work() as uow:
        await app.enqueue("Tick", payload=4)
        uow.execute("SELECT 1")


async def test_apps_and_clients_share_a_store_or_a_folder(folder: Path) -> None:
    store = LMDBStore(folder)
    app = an_app(folder, store=store)
    async with app, an_app(folder, store=store).client() as jobs, an_app(folder).client() as others:
        for each in (jobs, others):
            job = await each.enqueue("Tick", payload=1)
            assert (await each.wait(job, timeout=10)).status is JobStatus.COMPLETED
    with pytest.raises(NotStarted):
        await store.store_stats()


async def test_pages_by_id_and_by_due(folder: Path) -> None:
    async with an_app(folder).client() as jobs:
        ids = [await jobs.enqueue("Tick", payload=n, schedule=timedelta(hours=9 - n)) for n in range(9)]
        for order, expected in (("created", ids), ("due", ids[::-1])):
            seen, after = list[UUID](), None
            while page := await jobs.store.find(order=order, after=after, limit=4):
                seen += [job.id for job in page]
                after = page[-1].id
            assert seen == expected, order


async def test_metadata_is_compared_as_json(folder: Path) -> None:
    async with an_app(folder).client() as jobs:
        one, true = [await jobs.enqueue("Tick", payload=1, metadata={"x": x}) for x in (1, True)]
        assert [job.id for job in await jobs.store.find(metadata={"x": 1})] == [one]
        assert [job.id for job in await jobs.store.find(metadata={"x": True})] == [true]


async def test_a_full_map_is_an_error_and_loses_nothing(folder: Path) -> None:
    ids, pad = list[UUID](), {"pad": "x" * 4000}
    async with an_app(folder, store=LMDBStore(folder, map_size=1 << 20)).client() as jobs:
        try:
            while len(ids) < 1000:
                ids.append(await jobs.enqueue("Tick", payload=1, metadata=pad))
        except StoreFull as error:
            assert "larger map_size" in str(error)  # noqa: PT017
    assert 0 < len(ids) < 1000
    async with an_app(folder).client() as jobs:
        assert [job.id for job in await jobs.store.find()] == ids
        await jobs.enqueue("Tick", payload=1)


async def test_wrong_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(b"x" * 8192)
    for path, error in (("no/folder", StoreFolderMissing), ("file", NotADatabase), ("other", NotADatabase)):
        with pytest.raises(error):
            async with an_app(tmp_path / path).client():
                pass


# -- several processes --


@pytest.mark.parametrize("seconds", [0.05, 0.3])
async def test_kill_9_loses_nothing_that_was_promised(folder: Path, seconds: float) -> None:
    with program("flood", folder) as process:
        said = [line(process)]
        while said.count("long 0") == 0 or len(said) < 2:  # in any order
            said.append(line(process))
        time.sleep(seconds)
        process.kill()
        assert process.stdout is not None
        said += process.stdout.read().split("\n")
    promised = [UUID(text) for text in said if len(text) == 36]
    assert promised
    assert_consistent(folder)
    app = an_app(folder)
    async with app:
        rows = await run_to_the_end(app)
        assert rows.keys() >= set(promised)
        assert {job.status for job in rows.values()} == {JobStatus.COMPLETED}
        (long,) = await app.store.find(handler_name="Long")
        outcomes = [run.outcome for run in await app.store.history(long.id)]
    assert outcomes == [RunOutcome.COMPLETED, RunOutcome.CRASHED]


async def test_a_writer_that_does_not_let_go_makes_a_busy_store(folder: Path) -> None:
    async with an_app(folder, store=LMDBStore(folder, busy=0.5)).client() as jobs:
        with program("hold", folder) as process:
            assert line(process) == "held"
            with pytest.raises(StoreBusy, match="has held its lock"):
                await jobs.enqueue("Tick", "late", 1)
            assert await jobs.store.get_by_job_name("late") is None
        assert (await jobs.store.stats()).total == 0  # a cancelled write did not happen afterwards
        job = await jobs.enqueue("Tick", payload=1)  # the writer was killed in its transaction, and blocks no other
        async with an_app(folder).client() as later:
            assert [row.id for row in await later.store.find()] == [job]


async def test_two_processes_run_each_job_once(folder: Path) -> None:
    with program("work", folder) as one, program("work", folder) as two:
        assert {line(one), line(two)} == {"ready"}
        async with an_app(folder).client() as jobs:
            owners = set[UUID | None]()
            with anyio.fail_after(60):
                while len(owners) < 2:  # until both had their share
                    for n in range(50):
                        await jobs.enqueue("Tick", payload=n)
                    while await jobs.store.get_active():
                        await anyio.sleep(0.01)
                    rows = await jobs.store.find(limit=100_000)
                    owners = {(await jobs.store.history(job.id))[0].owner for job in rows}
    assert {(job.status, job.attempt) for job in rows} == {(JobStatus.COMPLETED, 1)}


async def test_a_dead_process_is_proven_dead_long_before_its_lease(folder: Path) -> None:
    app = an_app(folder)
    async with app.client() as jobs:
        job = await jobs.enqueue("Long", payload=0)
    with program("work", folder) as process:
        assert {line(process), line(process)} == {"ready", "long 0"}
    async with app:
        row = await app.wait(job, timeout=20)  # the lease is 600 s
        assert row.attempt == 2
        assert (await app.store.stats()).owners == 1
    assert list((folder / "owners").iterdir()) == []


async def test_an_operation_that_fails_leaves_those_it_shares_a_commit_with(folder: Path) -> None:
    store = LMDBStore(folder)
    async with an_app(folder, store=store).client() as jobs:
        await jobs.enqueue("Tick", "held", 1)
        (held,) = await store.store_find(Query(job_name="held"))
        errors = list[Exception]()

        async def again() -> None:
            try:
                await store.store_transact([Insert(held)])
            except Exception as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(again)
                tasks.start_soon(partial(jobs.enqueue, "Tick", payload=n))
        assert len(errors) == 20
        assert (await jobs.store.stats()).total == 21
