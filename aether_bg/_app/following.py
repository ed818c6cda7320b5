"""`wait(on_progress=…)`: passes on a job's progress as it is reported (docs/protocol.md, G1)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio

from aether_bg._kernel.notes import Watch
from aether_bg.model import JobInfo, Progress

OnProgress = Callable[[Progress], Any]


class Following:
    """`tell` None: only the end counts. `watch`: for a job that may run in this process. If it runs elsewhere, its row
    shows its progress."""

    def __init__(self, tell: OnProgress | None, watch: Watch) -> None:
        self._tell, self._watch = tell, watch
        self._last: Progress | None = None

    async def pass_on(self, row: JobInfo) -> None:
        """Passes on new progress. Raises what the caller's function raises."""
        if self._tell is None:
            return
        self._moved = self._watch.moved.next()
        for progress in (row.progress, self._watch.seen):
            last = self._last
            if progress is None or progress == last or (last is not None and progress.at < last.at):
                continue
            self._last = progress
            result = self._tell(progress)
            if inspect.isawaitable(result):
                await result

    async def until(self, ended: anyio.Event) -> None:
        """Until the job has ended, or has reported progress here."""
        if self._tell is None:
            await ended.wait()
            return
        async with anyio.create_task_group() as group:

            async def first(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            group.start_soon(first, ended)
            group.start_soon(first, self._moved)
