"""What the user's code returns to be awaited, and what it is given to await."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

R = TypeVar("R")


class Across(Protocol):
    """Runs `fn` on the app's loop. Called there, it returns what is to be awaited. In another thread it waits, and
    returns `done`."""

    def __call__(self, fn: Callable[[], Awaitable[R]], done: Awaitable[R], /) -> Awaitable[R]: ...


async def awaited(result: Any, *, context: bool = False) -> Any:
    """Awaits what a wrapper or a lambda returned, and what that returns.

    Some objects, such as a driver's connection, can be awaited and give themselves: those are the result. `context`:
    what `async with` can close is returned as it is, even if it can be awaited too.
    """
    while inspect.isawaitable(result) and not (context and isinstance(result, AbstractAsyncContextManager)):
        outer, result = result, await result
        if result is outer:
            break
    return result
