"""The programs with a process pool that the tests kill. What the app alone needs is not imported in its workers."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from process_pool_work import Note, noted, work

if TYPE_CHECKING:
    from aether_bg import Aether


def app_on(database: str, workers: int, grace: float) -> Aether:
    from process_pool import ProcessPool

    from aether_bg import Aether

    app = Aether(database, scheduler="timer", plugins=[ProcessPool(workers=workers)], grace=grace)
    app.handler("Work")(work)
    return app


def main(database: str, folder: str) -> None:
    """An app with two workers: one spins for ever, one waits for work. Says so, and goes on until a signal."""
    with app_on(database, workers=2, grace=5).blocking() as jobs:
        short = jobs.enqueue("Work", payload=Note(folder, "meet"), metadata={"processes": 2})
        jobs.enqueue("Work", payload=Note(folder, "spin"))
        jobs.wait(short)
        assert len(noted(Path(folder), "begin")) == 2
        os.write(1, b"ready\n")
        time.sleep(60)


def serve(database: str, folder: str) -> None:
    """An app with one job that takes a second, until SIGINT."""
    app = app_on(database, workers=1, grace=20)
    app.declare("Work", "a-second", Note(folder, "sleep"), metadata={"seconds": 1})
    app.run()


if __name__ == "__main__":
    {"main": main, "serve": serve}[sys.argv[1]](*sys.argv[2:])
