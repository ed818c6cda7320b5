"""The handlers of the contract for runners. They note what they do in files, so that they can run in another process,
which imports this module and nothing more.
"""

from __future__ import annotations

import time
from pathlib import Path

import anyio


class Mishap(Exception):
    """Raised by a handler of this contract."""


def plain_work(file: str, seconds: float = 0.0) -> str:
    Path(file).write_text("begun")
    time.sleep(seconds)
    with open(file, "a") as note:
        note.write(" ended")
    return "plain 🦊"


def plain_failure(file: str) -> None:
    raise Mishap("plain", 42)


def plain_exit() -> None:
    raise SystemExit("a handler that exits")


async def async_work(file: str, seconds: float = 0.0) -> str:
    path = anyio.Path(file)
    await path.write_text("begun")
    await anyio.sleep(seconds)
    await path.write_text("begun ended")
    return "async 🦊"


async def async_failure(file: str) -> None:
    raise Mishap("async", 42)


async def async_hang() -> None:
    await anyio.sleep(60)
