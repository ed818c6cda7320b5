"""APScheduler 3 with its SQLAlchemy job store on SQLite (synchronous=FULL is the default of both), in WAL for speed.

Its background scheduler and pool of ten threads, as its guide shows; jobs however late are run, not dropped.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore  # type: ignore[import-not-found, import-untyped, unused-ignore]
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-not-found, import-untyped, unused-ignore]

from systems.timing import PAUSE, Countdown, Figures, Measurement, rate_of_threads, spread

counted = Countdown(0)
waits: list[float] = []
ran = threading.Event()


def noop() -> None:
    counted.one()


def timed(began: float) -> None:
    waits.append(time.perf_counter() - began)
    ran.set()


def _scheduler(path: Path, *, paused: bool) -> Any:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    scheduler = BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(f"sqlite:///{path}")},
        job_defaults={"misfire_grace_time": None, "coalesce": False},
        timezone=UTC,
    )
    scheduler.start(paused=paused)
    return scheduler


def _speed(size: int, folder: Path) -> Figures:
    scheduler = _scheduler(folder / "jobs.db", paused=True)

    def add() -> None:
        scheduler.add_job(noop, "date", run_date=datetime.now(UTC))

    one = rate_of_threads(size, add, threads=1)
    many = rate_of_threads(size, add)
    count = counted.left = len(scheduler.get_jobs())
    began = time.perf_counter()
    scheduler.resume()
    counted.wait()
    drained = count / (counted.at - began)
    scheduler.shutdown()
    return {"enqueue": one, "enqueue_many": max(one, many), "drain": drained}


def _latency(size: int, folder: Path) -> Figures:
    scheduler = _scheduler(folder / "jobs.db", paused=False)
    for _ in range(size):
        ran.clear()
        scheduler.add_job(timed, "date", run_date=datetime.now(UTC), args=[time.perf_counter()])
        ran.wait(10)
        time.sleep(PAUSE)
    scheduler.shutdown()
    return spread(waits)


logging.getLogger("apscheduler").setLevel(logging.ERROR)
FIGURES: dict[str, Measurement] = {"speed": _speed, "latency": _latency}
