"""A transaction lent to a function of the user's, which a `Call` runs inside it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from aether_bg.errors import InvalidOption, UnitOfWorkClosed, shown

T = TypeVar("T")


class Lent:
    """Valid until the function returns, and only on its thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._open = True

    def check(self) -> None:
        """Before each use. Raises `UnitOfWorkClosed`."""
        if not self._open or threading.get_ident() != self._thread:
            rule = "the call it was made for has ended" if not self._open else "it belongs to another thread"
            raise UnitOfWorkClosed("the transaction of a unit of work", rule, "Use it inside its function only.")

    def call(self, fn: Callable[[T], Any], tx: T) -> Any:
        """Returns what `fn(tx)` returns. Raises what it raises, and `InvalidOption` if it returns an awaitable."""
        try:
            result = fn(tx)
        finally:
            self._open = False
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise InvalidOption(
                shown(result), "must return a value, not something to await",
                "Await it before, outside of the transaction.", name="the function of a unit of work",
            )  # fmt: skip
        return result
