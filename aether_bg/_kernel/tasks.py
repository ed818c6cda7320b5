"""A task that belongs to no caller: the kernel's root. Its trouble never cancels the host, nor the host's it (S6)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

_kept: set[asyncio.Task[Any]] = set()


def detach(fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `fn` beside everything else on this loop, with an empty context. It must not raise."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            trio.lowlevel.spawn_system_task(fn, context=Context())
            return
    task = asyncio.get_running_loop().create_task(fn(), name="aether_bg", context=Context())
    _kept.add(task)  # the loop itself keeps weak references only
    task.add_done_callback(_kept.discard)
