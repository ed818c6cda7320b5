"""What is measured of a queue that is written by hand, on whatever database: the yardsticks do the same work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from systems.timing import PAUSE, Figures, rate, spread

BATCH = 100


class Queue(Protocol):
    def insert(self, batches: list[list[Any]]) -> None:
        """A commit each."""

    def claim(self, batch: int) -> object: ...

    def drain(self, batch: int) -> None:
        """Claim a batch, commit, complete it, commit, until nothing is left."""


def speed(queue: Queue, row: Callable[[int], Any], size: int) -> Figures:
    """`size` one by one, ten times as many by the hundred."""
    singly = [[row(number)] for number in range(size)]
    batches = [[row(size + b * BATCH + n) for n in range(BATCH)] for b in range(size * 10 // BATCH)]
    return {
        "enqueue": rate(size, lambda: queue.insert(singly)),
        "drain": rate(size, lambda: queue.drain(1)),
        "enqueue_many": rate(len(batches) * BATCH, lambda: queue.insert(batches)),
        "drain_many": rate(len(batches) * BATCH, lambda: queue.drain(BATCH)),
    }


def latency(queue: Queue, row: Callable[[int], Any], size: int) -> Figures:
    """After a pause, a row and its claim, a commit each: what the disk or the server asks before anything may start.

    A disk that has slept takes longer than one that is kept busy.
    """
    waits = []
    for number in range(size):
        time.sleep(PAUSE)
        began = time.perf_counter()
        queue.insert([[row(number)]])
        queue.claim(1)
        waits.append(time.perf_counter() - began)
    return spread(waits)
