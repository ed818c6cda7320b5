"""From any thread back to the event loop, without ever waiting for it (PROTOCOL W3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.lowlevel


class Bridge:
    """The loop this was made on. `post(fn)` has the loop call it soon; False when the loop is gone."""

    def __init__(self) -> None:
        native = self._native = _native_token()
        self._post: Callable[[Callable[[], object]], object] = (
            getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        )

    @property
    def is_here(self) -> bool:
        """Whether that is the loop that runs in this thread."""
        return _native_token() is self._native

    def post(self, fn: Callable[[], object]) -> bool:
        try:
            self._post(fn)
        except RuntimeError:  # asyncio: loop is closed; trio.RunFinishedError is a RuntimeError as well
            return False
        return True


def _native_token() -> Any:
    token: Any = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)  # the loop, or trio's token; anyio before 4.11 gives it as it is
