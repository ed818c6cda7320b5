"""Handlers that the tests of the process pool run in workers. It imports little, as each worker imports it."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from aether_bg.model import GiveUp, JobContext, Snooze


class Bad(Exception):
    """Can be pickled, but not read again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


@attrs.define
class Note:
    """Where a handler says that it runs, and what it shall do."""

    folder: str
    what: str = ""


def note(folder: str, name: str) -> None:
    """One file per call, whose name has the process."""
    Path(folder, f"{name}-{os.getpid()}-{time.monotonic_ns()}").touch()


def noted(folder: Path, name: str) -> list[int]:
    """The processes that noted it, in order."""
    parts = [path.name.split("-") for path in folder.glob(f"{name}-*-*")]
    return [int(pid) for _, pid, _ in sorted(parts, key=lambda part: int(part[2]))]


def work(args: Note, ctx: JobContext) -> None:
    note(args.folder, "begin")
    match args.what:
        case "spin":  # in C, and never lets go of the interpreter's lock
            re.match(r"(a+)+$", "a" * 60 + "b")
        case "loop":
            while True:
                pass
        case "meet":  # goes on when that number of processes has begun
            while len(set(noted(Path(args.folder), "begin"))) < int(ctx.job.metadata["processes"]):
                time.sleep(0.01)
            time.sleep(0.2)
        case "sleep":
            time.sleep(float(ctx.job.metadata["seconds"]))
        case "value":
            raise ValueError("a bad value")
        case "bad":
            raise Bad("one", "two")
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(7)
        case "give up":
            raise GiveUp("it is no use")
        case "snooze":
            if ctx.attempt == 1:
                raise Snooze(ctx.occurrence)
        case "die once":
            if ctx.attempt == 1:
                os.abort()
    note(args.folder, "end")


class Render:
    def __init__(self, colour: str) -> None:
        self._colour = colour

    def handle(self, args: Note) -> None:
        note(args.folder, self._colour)


def answer(value: Any) -> Any:
    return value


def no_pickle() -> Any:
    return lambda: None
