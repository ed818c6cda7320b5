"""The way of one warm job through the package: which files it enters, and how often it goes back and forth.

    python benchmarks/job_path.py [--calls]

A profiler hook notes every function of the package that is entered or resumed on the event loop's thread, from
`enqueue` to the recorded outcome. A *move* goes from one file to another; a *return* is a move to a file
that was left before. `--calls` prints each call.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

import aether_bg
from aether_bg import Aether

PACKAGE = Path(aether_bg.__file__).parent


class Way:
    """The calls of one stretch, in order: (file within the package, function)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._known: dict[str, str | None] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call":
            return
        name = frame.f_code.co_filename
        if name not in self._known:
            path = Path(name)
            inside = path.is_relative_to(PACKAGE)
            self._known[name] = str(path.relative_to(PACKAGE)) if inside else None
        if (file := self._known[name]) is not None:
            self.calls.append((file, frame.f_code.co_qualname))

    def summary(self) -> str:
        files = [file for file, _ in self.calls]
        moves = sum(one != other for one, other in itertools.pairwise(files))
        left: set[str] = set()
        returns = 0
        for one, other in itertools.pairwise(files):
            if one != other:
                left.add(one)
                returns += other in left
        return f"{len(files):5} calls  {len(set(files)):3} files  {moves:4} moves  {returns:4} returns"


async def main(show: bool) -> None:
    enqueue, rest = Way(), Way()
    app = Aether(":memory:", scheduler="timer")

    @app.handler("Nothing")
    async def nothing(args: dict[str, int]) -> None:
        pass

    async with app:
        for _ in range(20):  # warm: caches are filled, conversions compiled
            await app.wait(await app.enqueue(nothing, payload={"n": 1}), timeout=10)
        await anyio.sleep(0.5)
        sys.setprofile(enqueue)
        job = await app.enqueue(nothing, payload={"n": 1})
        sys.setprofile(rest)
        await anyio.sleep(0.25)
        sys.setprofile(None)
        assert (await app.wait(job, timeout=10)).status.name == "COMPLETED"
    for name, path in (("enqueue", enqueue), ("run", rest)):
        print(f"{name:8} {path.summary()}")
        if show:
            for file, function in path.calls:
                print(f"    {file:32} {function}")
    both = Way()
    both.calls = enqueue.calls + rest.calls
    print(f"{'both':8} {both.summary()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="print each call")
    show = parser.parse_args().calls
    assert threading.current_thread() is threading.main_thread()
    anyio.run(main, show)
