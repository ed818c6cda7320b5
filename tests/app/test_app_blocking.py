"""`app.blocking()`: every verb as a plain function, from scripts, threads, and beside a running loop."""

from __future__ import annotations

import inspect
import sqlite3
import threading
import typing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, InsideUnitOfWork, JobNotFound, JobStatus, NotStarted, UnknownHandler
from aether_bg._app.blocking import BlockingClient
from aether_bg._app.store_view import StoreView
from aether_bg._app.verbs import Verbs


@pytest.fixture
def work(app: Aether) -> Aether:
    app.handler("Work")(lambda args=None: None)

    @app.handler("Fails")
    def fails() -> None:
        raise ValueError("no")

    return app


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_verb(work: Aether, backend: Any) -> None:
    with work.blocking(backend=backend) as jobs:
        job_id = jobs.enqueue("Work", "job", {"a": 1}, metadata={"k": 1})
        job = jobs.wait(job_id, 10)
        assert (job.status, job.payload) == (JobStatus.COMPLETED, {"a": 1})
        jobs.enqueue("Work", "later", schedule=timedelta(hours=1))
        jobs.pause("later")
        jobs.resume("later")
        jobs.update("later", timedelta(hours=2))
        jobs.trigger("later")
        assert jobs.wait("later", 10).status is JobStatus.COMPLETED
        failed = jobs.enqueue("Fails")
        assert jobs.wait(failed, 10).status is JobStatus.FAILED
        jobs.retry(failed)
        assert jobs.wait(failed, 10).status is JobStatus.FAILED
        assert len(jobs.store.history(failed)) == 2
        gone = jobs.enqueue("Work", schedule=timedelta(hours=1))
        assert jobs.delete(gone) is True
        jobs.drain()
        assert jobs.health()["ok"] is True
        assert "completed" in jobs.explain("job").lower()
        store = jobs.store
        assert store.get(job_id) is not None
        assert store.get_by_job_name("job") is not None
        assert len(store.get_by_handler_name("Work")) == 3
        assert store.get_active() == []
        assert [row.job_name for row in store.find(metadata={"k": 1})] == ["job"]
        assert store.stats().total == 4
        assert store.purge() == 4
        with pytest.raises(UnknownHandler):
            jobs.enqueue("Wrok")
        with pytest.raises(JobNotFound):
            jobs.wait("nothing")
    with pytest.raises((RuntimeError, NotStarted)):
        jobs.enqueue("Work")


def test_no_verb_is_missing(work: Aether) -> None:
    with work.blocking() as jobs:
        for plain, target in ((jobs, Aether), (jobs.store, StoreView)):
            for name, verb in inspect.getmembers(target, inspect.iscoroutinefunction):
                if not name.startswith("_") and name not in ("start", "stop"):  # the block is both
                    assert callable(getattr(plain, name)), name
                    assert getattr(type(plain), name).__doc__ == verb.__doc__


def test_the_plain_enqueue_has_the_types_of_the_verb() -> None:
    """Written twice, since no type can say "the same, without await": overloads included."""

    def types(function: Any) -> list[inspect.Signature]:
        return [inspect.signature(one) for one in typing.get_overloads(function) or [function]]

    assert types(BlockingClient.enqueue) == types(Verbs.enqueue)
    assert BlockingClient.enqueue.__doc__ == Verbs.enqueue.__doc__


def test_a_unit_of_work_in_a_script(work: Aether, path: Path) -> None:
    with work.blocking() as jobs:
        with jobs.unit_of_work() as uow:
            uow.execute("CREATE TABLE orders (item TEXT)")
            uow.execute("INSERT INTO orders VALUES ('book')")
            jobs.enqueue("Work", "job")
            assert jobs.store.get_by_job_name("job") is None, "durable at the end of the block"
            with jobs.unit_of_work() as inner:
                assert inner is uow
            with pytest.raises(InsideUnitOfWork):
                jobs.delete("job")
        assert jobs.wait("job", 10).status is JobStatus.COMPLETED
        with pytest.raises(ZeroDivisionError), jobs.unit_of_work() as uow:  # noqa: PT012
            uow.execute("INSERT INTO orders VALUES ('pen')")
            jobs.enqueue("Work", "dropped")
            raise ZeroDivisionError
        assert jobs.store.get_by_job_name("dropped") is None
        jobs.enqueue("Work", "outside")
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT item FROM orders").fetchall() == [("book",)]
    conn.close()


def test_from_many_threads(work: Aether) -> None:
    with work.blocking() as jobs:

        def put(number: int) -> None:
            for step in range(5):
                jobs.wait(jobs.enqueue("Work", f"{number}-{step}"), 20)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert jobs.store.stats().completed == 40


@pytest.mark.anyio
async def test_beside_a_running_loop(work: Aether) -> None:
    with work.blocking() as jobs:
        assert jobs.wait(jobs.enqueue("Work"), 10).status is JobStatus.COMPLETED
        await anyio.sleep(0)
        assert await anyio.to_thread.run_sync(lambda: jobs.wait(jobs.enqueue("Work"), 10).status) is JobStatus.COMPLETED


def test_an_error_in_the_body_and_at_the_start(work: Aether, tmp_path: Path) -> None:
    from aether_bg import StoreFolderMissing

    with pytest.raises(ZeroDivisionError), work.blocking():
        raise ZeroDivisionError
    with work.blocking() as jobs:
        assert "blocking" in repr(jobs)
    lost = Aether(tmp_path / "missing" / "jobs.db", scheduler="timer")
    with pytest.raises(StoreFolderMissing), lost.blocking():
        raise AssertionError("it must not start")
