"""What a call of the user's gives in the end, if it returned something to await."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager
from typing import Any


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
