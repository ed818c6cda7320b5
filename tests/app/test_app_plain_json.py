"""What people and machines read: plain JSON, whole lists, and what a client knows of the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest

from aether_bg import Aether, JobInfo, JobRun, JobStatus, RunOutcome, SQLiteStore, WaitTimeout
from aether_bg.model import Heartbeat, Stats
from aether_bg.plugins.memory import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture
def work(app: Aether) -> Aether:
    app.handler("Work")(lambda args=None: None)
    return app


async def test_health_is_plain_json(work: Aether) -> None:
    async with work:
        await work.wait(await work.enqueue("Work"), 10)
        health = await work.health()
    assert json.loads(json.dumps(health)) == health
    assert health["stats"]["completed"] == 1
    assert UUID(health["owner"])


async def test_rows_have_to_dict(work: Aether) -> None:
    async with work:
        job = await work.wait(await work.enqueue("Work", "job", {"a": [1]}, metadata={"k": 1}), 10)
        (run,) = await work.store.history(job.id)
        stats = await work.store.stats()
    for value in (job, run, stats):
        plain = value.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert list(plain) == [field.name for field in attrs.fields(type(value))]
    plain = job.to_dict()
    assert (plain["id"], plain["status"], plain["payload"]) == (str(job.id), "completed", {"a": [1]})
    assert plain["created_at"].endswith("Z")
    assert {type(job), type(run), type(stats)} == {JobInfo, JobRun, Stats}


async def test_lists_are_whole_or_paged(work: Aether) -> None:
    async with work:
        async with work.unit_of_work():
            for _ in range(1203):
                await work.enqueue("Work", schedule=timedelta(days=1))
        active = await work.store.get_active()
        assert len({job.id for job in active}) == 1203
        assert len(await work.store.get_by_handler_name("Work")) == 1203
        first = await work.store.get_active(limit=1000)
        rest = await work.store.get_by_handler_name("Work", limit=1000, after=first[-1].id)
        assert [job.id for job in first + rest] == [job.id for job in active]


async def test_wait_takes_a_timedelta(work: Aether) -> None:
    async with work:
        later = await work.enqueue("Work", schedule=timedelta(days=1))
        with pytest.raises(WaitTimeout, match=r"within 0\.05 s"):
            await work.wait(later, timedelta(milliseconds=50))
        now = await work.enqueue("Work")
        assert (await work.wait(now, timeout=timedelta(seconds=10))).status is JobStatus.COMPLETED


@pytest.mark.parametrize("memory", [False, True])
async def test_a_client_says_that_no_process_runs_jobs(make_app: Callable[..., Aether], memory: bool) -> None:
    app = make_app(MemoryStore() if memory else None)
    app.handler("Work")(lambda: None)
    async with app.client() as jobs:
        job = await jobs.enqueue("Work", "job")
        assert "No live process runs jobs on this store" in await jobs.explain(job)
        later = await jobs.enqueue("Work", "later", schedule=timedelta(days=1))
        assert "No live process runs jobs on this store now" in await jobs.explain(later)
        async with app:
            assert "No live process" not in await jobs.explain(later)
            other = await jobs.enqueue("Other", "other", schedule=timedelta(days=1))
            assert "No live process has the handler 'Other' now" in await jobs.explain(other)
        assert "No live process runs jobs on this store now" in await jobs.explain(later)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_client_that_asks_does_not_keep_others_from_recovering(path: Path) -> None:
    """The lock of a dead process, which proves its death, is for those who take its jobs back."""
    app = Aether(path, scheduler="timer")

    @app.handler("Work")
    def work(seconds: float) -> None:
        time.sleep(seconds)

    pid = os.fork()
    if pid == 0:
        try:
            with app.blocking() as jobs:
                jobs.enqueue("Work", "job", 0.6)
                while jobs.store.stats().running == 0:
                    time.sleep(0.01)
                os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    with app.blocking(client=True) as client:
        assert "That process has died" in client.explain("job")
        worker = Aether(SQLiteStore(path), scheduler="timer")
        worker.handler("Work")(work)
        began = time.monotonic()
        with worker.blocking() as jobs:
            job = jobs.wait("job", 30)
            assert RunOutcome.CRASHED in [run.outcome for run in jobs.store.history(job.id)]
        assert time.monotonic() - began < 12, "at once, and not when a lease has run out"


async def test_a_beat_of_one_that_never_joined_changes_nothing(work: Aether) -> None:
    async with work:
        store: Any = work.plugins.owners("persistence")[0]
        asked = Heartbeat(owner=uuid4(), handlers=(), now=work.options.clock.now(), interval=5, keep_for=0)
        alive = await store.store_heartbeat(asked)
        assert not alive.known
        assert (await work.store.stats()).owners == 1 == len(alive.beats)
