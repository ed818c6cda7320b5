"""Row 36: for two leases no process can write the store, and none of them is dead for that."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.harness import Process, World
from chaos.test_files import held

LEASE = 1.5
JOBS = 12
SMALL = 256 * 1024
"""Bytes up to which the workers may write each file meanwhile: enough for the history, too few for the WAL."""


@contextlib.contextmanager
def locked(world: World, workers: list[Process]) -> Iterator[None]:
    with held(world.db):
        yield


@contextlib.contextmanager
def full(world: World, workers: list[Process]) -> Iterator[None]:
    """RLIMIT_FSIZE makes every write beyond it fail, as a full disk or a quota does. The WAL is beyond it already, and
    a reader keeps it from being begun again."""
    with contextlib.closing(sqlite3.connect(world.db, timeout=30, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM aether_jobs").fetchone()
        with contextlib.closing(sqlite3.connect(world.db, timeout=30)) as foreign, foreign:
            foreign.execute("INSERT INTO orders VALUES ('ballast', ?)", ["x" * 2 * SMALL])
        assert Path(f"{world.db}-wal").stat().st_size > SMALL
        limit(workers, SMALL)
        yield
        limit(workers, resource.RLIM_INFINITY)


def limit(workers: list[Process], size: int) -> None:
    for process in workers:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux has prlimit")
@pytest.mark.parametrize("trouble", [locked, full], ids=lambda trouble: trouble.__name__)
@pytest.mark.row(36, small=2, full=20)
def test_no_process_can_write_for_two_leases(
    worlds: Callable[[str], World], count: int, trouble: Any, note: Callable[[str], None]
) -> None:
    """Jobs that run on, and jobs that end meanwhile: each is recorded once, by the process that ran it."""
    ended_meanwhile = 0
    for number in range(count):
        world = worlds(f"{trouble.__name__}-{number}").create()
        workers = [world.ready(options={"lease": LEASE, "concurrency": 4}) for _ in range(4)]
        jobs: list[dict[str, Any]] = [
            {"handler": kind, "name": f"{kind}-{n}", "payload": {"ms": LEASE * 1000 * share}}
            for kind in ("quick", "effect", "sync") for n, share in enumerate((0.8, 1.5, 3.2, 4))
        ]  # fmt: skip
        assert world.start("put", enqueue=jobs).wait() == 0
        world.until(lambda w=world: len(w.find("start")) == JOBS, what="the start of all")
        before = len(world.find("end"))
        with trouble(world, workers):
            time.sleep(2.2 * LEASE)
            ended_meanwhile += len(world.find("end")) - before
        world.until(lambda w=world: not w.sql("SELECT 1 FROM aether_jobs WHERE status < 2"), 60, "the end of all jobs")
        time.sleep(LEASE)
        assert all(process.alive for process in workers)
        assert len(world.find("start")) == JOBS, "nothing runs again"
        assert world.sql("SELECT outcome, count(*) FROM aether_runs GROUP BY 1") == [("completed", JOBS)]
        assert world.sql("SELECT max(crash_count) FROM aether_jobs") == [(0,)]
        assert world.sql("SELECT count(*) FROM aether_owners") == [(4,)]
        for process in workers:
            process.end()
        world.check()
    assert ended_meanwhile >= 3 * count, "else the trouble was not in the way of any outcome"
    note(f"{ended_meanwhile} outcomes waited for the store to be writable again")
