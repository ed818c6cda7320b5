"""Acting on a database in use: an operator's session, through the same guarded writes as an app's own verbs."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio

from aether_bg import Aether
from aether_bg._kernel.operator import Operator, operating

R = TypeVar("R")


def operate(path: Path, act: Callable[[Operator], Awaitable[R]]) -> R:
    """Open the store, act, close it. The caller has made sure that the file is a database of this version.

    The rows say who acted; the processes that run jobs notice within a moment.
    """
    app = Aether(path, scheduler="timer", actor=_actor())

    async def session() -> R:
        async with operating(app) as operator:
            return await act(operator)

    return anyio.run(session)


def _actor() -> str:
    try:
        return f"aether-bg ({getpass.getuser()})"
    except (OSError, KeyError, ImportError):  # a user id without a name
        return "aether-bg"
