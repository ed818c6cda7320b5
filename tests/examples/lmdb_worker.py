"""Programs for the tests of the LMDB store, each a process of its own: `python lmdb_worker.py PROGRAM FOLDER`."""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "plugins"))

from lmdb_store import LMDBStore
from lmdb_store.environment import Environment

from aether_bg import Aether


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def make_app(folder: str) -> Aether:
    """`Tick` ends at once; `Long` only when its process does."""
    app = Aether(LMDBStore(folder), scheduler="timer", lease=600, grace=1)  # only proof of death may help

    @app.handler("Tick")
    async def tick(n: int) -> None: ...

    @app.handler("Long")
    async def long(n: int) -> None:
        say("long", n)
        await anyio.sleep(60)

    return app


async def flood(folder: str) -> None:
    """Enqueue without end, and say each id as soon as it is promised."""
    app = make_app(folder)
    async with app:
        await app.enqueue("Long", payload=0)
        for n in count():
            say(await app.enqueue("Tick", payload=n))


async def work(folder: str) -> None:
    """Run jobs until the test has seen enough."""
    async with make_app(folder):
        say("ready")
        await anyio.sleep(60)


async def hold(folder: str) -> None:
    """Hold the one lock of writers, with something half written."""
    environment = Environment(Path(folder), 1 << 30)
    with environment.env.begin(write=True) as txn:
        txn.put(b"half", b"written", db=environment.jobs)
        say("held")
        time.sleep(60)


if __name__ == "__main__":
    anyio.run({"flood": flood, "work": work, "hold": hold}[sys.argv[1]], sys.argv[2])
