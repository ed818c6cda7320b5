"""In-process dispatch: async handlers on the event loop, plain ones in threads of their own."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from aether_bg.bridge import Threads
from aether_bg.hookspecs import hookimpl
from aether_bg.model import HandlerInfo, Invocation, JobContext
from aether_bg.protocols import Runner


class InProcess:
    """The default runner."""

    def __init__(self) -> None:
        self._threads = Threads("aether_bg handler")

    def __repr__(self) -> str:
        return "<InProcess>"

    @hookimpl(trylast=True)
    def dispatch_runner(self, handler: HandlerInfo) -> Runner | None:
        return self._on_loop if handler.is_async else self._in_thread

    def _on_loop(self, ctx: JobContext, call: Invocation) -> Coroutine[Any, Any, Any]:
        made: Coroutine[Any, Any, Any] = call()
        return made

    async def _in_thread(self, ctx: JobContext, call: Invocation) -> Any:
        return await self._threads.run(call)
