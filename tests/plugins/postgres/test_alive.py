"""Who is alive: killed and stopped processes, ended sessions, a server that goes away and comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from aether_bg import Aether, JobStatus, PostgresStore, RunOutcome
from aether_bg.testing.postgres import PostgresCluster, postgres_fixture, require_pgbouncer

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresCluster]:
    """A server that these tests may kill."""
    yield from postgres_fixture()


@pytest.fixture
def worker(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs jobs, ready."""
    with start(url) as process:
        yield process


def start(url: str) -> Any:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker.py")), url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return _Ended(process)


class _Ended:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def app_on(store: Any, **options: Any) -> Aether:
    app = Aether(store, scheduler="timer", grace=1, **options)

    @app.handler("Sleep")
    async def sleep(payload: float) -> None:
        await anyio.sleep(payload)

    @app.handler("Other")
    async def other() -> None: ...

    return app


async def attempt(app: Any, job_id: Any, number: int, within: float = 20.0) -> float:
    """Wait until this attempt runs; seconds it took."""
    began = time.monotonic()
    with anyio.fail_after(within):
        while (job := await app.store.get(job_id)).status is not JobStatus.RUNNING or job.attempt < number:
            await anyio.sleep(0.02)
    return time.monotonic() - began


async def outcomes(app: Aether, job_id: Any) -> list[RunOutcome | None]:
    return [run.outcome for run in await app.store.history(job_id)]


async def test_a_killed_process_is_noticed_at_once(url: str, worker: subprocess.Popen[str]) -> None:
    async with app_on(url).client() as client:
        job = await client.enqueue("Sleep", payload=60.0)
        await attempt(client, job, 1)
    async with app_on(url, lease=60) as app:
        worker.kill()
        assert await attempt(app, job, 2) < 10  # 1.3 s on a machine with time; never the lease
        assert (await outcomes(app, job))[-1] is RunOutcome.CRASHED


async def test_a_stopped_process_loses_its_jobs_with_its_lease(url: str, worker: subprocess.Popen[str]) -> None:
    async with app_on(url).client() as client:
        job = await client.enqueue("Sleep", payload=60.0)
        await attempt(client, job, 1)
    async with app_on(url, lease=2) as app:
        worker.send_signal(signal.SIGSTOP)  # its session is open, and its lock held
        assert await attempt(app, job, 2) > 1.5
        worker.send_signal(signal.SIGCONT)
        await app.delete(job)


async def test_ended_sessions_are_made_again(url: str) -> None:
    """Nothing is taken over, and nothing runs twice, although the locks were free for a moment."""
    async with app_on(url) as app, app_on(url) as other:
        jobs = [await app.enqueue("Sleep", payload=3.0) for _ in range(3)]
        for job in jobs:
            await attempt(app, job, 1)
        with psycopg.connect(url, autocommit=True) as conn:
            for _ in range(4):
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'aether_bg' AND datname = current_database()"
                )
                await anyio.sleep(0.4)
        for job in jobs:
            assert (await other.wait(job, timeout=20)).status is JobStatus.COMPLETED
            assert await outcomes(app, job) == [RunOutcome.COMPLETED]


async def test_a_server_that_crashes_and_comes_back(own: PostgresCluster) -> None:
    with own.database() as url:
        async with app_on(url, lease=2) as app, app_on(url, lease=2) as other:
            jobs = [await app.enqueue("Sleep", payload=3.0) for _ in range(3)]
            for job in jobs:
                await attempt(app, job, 1)
            own.server.kill()
            await anyio.sleep(3)  # longer than the lease
            await anyio.to_thread.run_sync(own.server.start)
            for job in jobs:
                assert (await other.wait(job, timeout=30)).status is JobStatus.COMPLETED
                assert await outcomes(app, job) == [RunOutcome.COMPLETED]
            assert (await app.wait(await other.enqueue("Other"), timeout=10)).status is JobStatus.COMPLETED


async def test_a_fenced_process_gives_up_its_attempts(own: PostgresCluster) -> None:
    with own.database() as url:
        async with app_on(PostgresStore(url, fence=True, busy=0.5), lease=1.5) as app:
            job = await app.enqueue("Sleep", payload=60.0)
            await attempt(app, job, 1)
            own.server.kill()
            await anyio.sleep(2.5)  # the attempt is cancelled meanwhile
            await anyio.to_thread.run_sync(own.server.start)
            await attempt(app, job, 2)
            assert (await outcomes(app, job))[-1] is RunOutcome.CRASHED


@pytest.mark.parametrize("session", [False, True])
async def test_through_a_pooler(own: PostgresCluster, session: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Its locks cannot be trusted, so there is none; with a session of its own there is."""
    require_pgbouncer()
    with own.database() as url:
        pooled = own.pgbouncer("transaction").url(url.rsplit("/", 1)[1])
        async with app_on(PostgresStore(pooled, session=url if session else None)) as app:
            assert ("a pooler is in between" in caplog.text) is not session
            assert (await app.wait(await app.enqueue("Other"), timeout=10)).status is JobStatus.COMPLETED
            with psycopg.connect(url) as conn:
                locks = conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
                epochs = conn.execute("SELECT count(epoch) FROM aether_bg.owners").fetchone()
            assert locks == epochs == (int(session),)
