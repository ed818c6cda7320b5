"""From any thread back to the event loop, without ever waiting for it (PROTOCOL W3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.lowlevel


class Bridge:
    """The loop this was made on. `post(fn)` has the loop call it soon; False when the loop is gone."""

    def __init__(self) -> None:
        token: Any = anyio.lowlevel.current_token()
        native = getattr(token, "native_token", token)  # the loop, or trio's token; anyio before 4.11 gives it as it is
        self._post: Callable[[Callable[[], object]], object] = (
            getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        )

    def post(self, fn: Callable[[], object]) -> bool:
        try:
            self._post(fn)
        except RuntimeError:  # asyncio: loop is closed; trio.RunFinishedError is a RuntimeError as well
            return False
        return True
