"""Huey on SQLite with fsync: tasks enqueued by threads, run by the consumer's worker threads in this process.

Takes the better of one and four workers, and for many enqueuers at once the better of one and 64 threads. Polls every
5 ms when idle, where its default is 100 ms.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from huey import SqliteHuey  # type: ignore[import-not-found, import-untyped, unused-ignore]

from systems.timing import PAUSE, Countdown, Figures, Measurement, rate_of_threads, spread

POLL = 0.005


def _consumer(huey: Any, workers: int) -> Any:
    consumer = huey.create_consumer(
        workers=workers, periodic=False, initial_delay=POLL, max_delay=POLL, check_worker_health=False
    )
    consumer.start()
    return consumer


def _counting(huey: Any, counted: Countdown) -> Any:
    def noop() -> None:
        counted.one()

    return huey.task()(noop)


def _speed(size: int, folder: Path) -> Figures:
    found: Figures = {}
    for workers in (1, 4):
        huey = SqliteHuey(filename=str(folder / f"{workers}.db"), fsync=True)
        counted = Countdown(size * 2)

        noop = _counting(huey, counted)
        one = rate_of_threads(size, noop, threads=1)
        many = rate_of_threads(size, noop)
        count = counted.left = huey.storage.queue_size()
        began = time.perf_counter()
        consumer = _consumer(huey, workers)
        counted.wait()
        drained = count / (counted.at - began)
        consumer.stop(graceful=True)
        for name, value in (("enqueue", one), ("enqueue_many", max(one, many)), ("drain", drained)):
            found[name] = max(found.get(name, 0.0), value)
    return found


def _latency(size: int, folder: Path) -> Figures:
    huey = SqliteHuey(filename=str(folder / "jobs.db"), fsync=True)
    waits: list[float] = []
    ran = threading.Event()

    def note(began: float) -> None:
        waits.append(time.perf_counter() - began)
        ran.set()

    noop = huey.task()(note)
    consumer = _consumer(huey, 1)
    for _ in range(size):
        ran.clear()
        noop(time.perf_counter())
        ran.wait(10)
        time.sleep(PAUSE)
    consumer.stop(graceful=True)
    return spread(waits)


WORKER = """
import logging, sys, time
from huey import SqliteHuey
logging.disable()
huey = SqliteHuey(filename=sys.argv[1], fsync=True)
@huey.task(name="work", retries=1_000_000)
@huey.lock_task("only")
def work() -> None:
    time.sleep(0.005)
    sys.stdout.write(".")
    sys.stdout.flush()
consumer = huey.create_consumer(
    workers=1, periodic=False, initial_delay=0.005, max_delay=0.005, check_worker_health=False
)
for _ in range(int(sys.argv[2])):
    work()
print("up", flush=True)
sys.stdin.readline()
consumer.start()
sys.stdin.read()
consumer.stop(graceful=True)
"""


def _limits(size: int, folder: Path) -> Figures:
    """Jobs of 5 ms a second, of which one may run at a time over four processes: a lock, and another try at once for a
    task that finds it taken."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    workers: list[Any] = []
    for enqueues in (size, 0, 0, 0):
        command = [sys.executable, "-c", WORKER, str(folder / "limits.db"), str(enqueues)]
        workers.append(subprocess.Popen(command, **pipes))
        workers[-1].stdout.readline()
    done = list[int]()

    def count(worker: Any) -> None:
        while worker.stdout.read(1):
            done.append(1)

    for worker in workers:
        threading.Thread(target=count, args=(worker,), daemon=True).start()
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    time.sleep(5)  # it may take minutes until all of them are done
    rate = len(done) / 5
    for worker in workers:
        worker.kill()
        worker.wait()
    return {"limit_1": rate}


logging.getLogger("huey").setLevel(logging.ERROR)
FIGURES: dict[str, Measurement] = {"speed": _speed, "latency": _latency, "limits": _limits}
