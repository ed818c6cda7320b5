"""Acting on a database in use: an operator's session, through the same guarded writes as an app's own verbs."""

from __future__ import annotations

import contextlib
import getpass
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from aether_bg import Aether
from aether_bg._app.operator import Operator, operating
from aether_bg.plugins.sqlite import files
from aether_bg.plugins.sqlite.locks import WriteLock

__all__ = ["Operator", "operate"]

R = TypeVar("R")

_BUSY: Final = 5.0
"""Seconds to wait for the write lock of a process that hangs."""


def operate(path: Path, act: Callable[[Operator], Awaitable[R]], plugins: Sequence[Any] = ()) -> R:
    """Open the store, act, close it. The caller has made sure that the file is a database of this version.

    The rows say who acted; the processes that run jobs notice within a moment.
    """
    _wait_for_writers(path)
    app = Aether(path, scheduler="timer", plugins=plugins, actor=_actor())

    async def session() -> R:
        async with operating(app) as operator:
            return await act(operator)

    with contextlib.redirect_stdout(sys.stderr):  # what plugins print is not our output
        return anyio.run(session)


def _wait_for_writers(path: Path) -> None:
    """Raises `StoreBusy` when somebody sits on the write lock (PROTOCOL P5): the store itself would wait for longer."""
    file = path.with_name(f"{path.name}-lock")
    if not file.exists():
        return
    try:
        lock = WriteLock(file, path)
    except OSError:
        return  # not ours to open: the store says which
    try:
        if not lock.acquire_within(_BUSY):
            raise files.busy(path)
    finally:
        lock.close()  # which lets go of it


def _actor() -> str:
    try:
        return f"aether-bg ({getpass.getuser()})"
    except (OSError, KeyError, ImportError):  # a user id without a name
        return "aether-bg"
