"""CPU-bound handlers in processes of their own, which are really killed at the timeout.

    from process_pool import ProcessPool

    app = Aether("jobs.db", plugins=[ProcessPool("Render", workers=2)])     # no names: all that are plain `def`

    @app.handler("Render", timeout=60, retries=1)
    def render(args: Scene) -> None: ...

A worker is started when it is first needed, and used again. At the timeout, when the job is deleted, and at the stop
once the grace is over, its process is killed in the middle of whatever it does; the next attempt gets a new one. A
handler's exception arrives with its type and the worker's traceback; a worker that dies is an attempt that fails. No
worker outlives the app, not even an app that is killed with -9.

The function must be importable in a new process: at the top level of a module, and what starts the app under
`if __name__ == "__main__":`. Arguments, injected ones included, are pickled on their way to the worker, never to disk.

What it does not do: carry a UnitOfWork, which belongs to the app's process; pass context variables or the set-up of
logging. Waiting for a free worker counts towards the timeout. Processes that a handler starts are its own to end.
"""

from __future__ import annotations

import os
import pickle
import typing
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from process_pool_worker import Worker, in_worker

from aether_bg import InvalidHandler, JobContext, UnitOfWork, hookimpl
from aether_bg.errors import InvalidOption, UsageError, shown
from aether_bg.model import HandlerInfo, Invocation
from aether_bg.protocols import Kernel, Runner


class WorkerDied(RuntimeError):
    """A worker's process ended in the middle of an attempt: killed by others, out of memory, a crash of C code."""


class ProcessPool:
    """The plugin. `handlers`: whose code runs in workers. `workers`: how many at most; by default the number of
    CPUs."""

    def __init__(self, *handlers: str, workers: int | None = None) -> None:
        workers = os.cpu_count() or 1 if workers is None else workers
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidOption(f"workers={shown(workers)}", "must be a whole number, at least 1")
        self._handlers: Sequence[str] = handlers
        self._most = workers
        self._users = 0
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._slots: anyio.CapacityLimiter

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        if in_worker():
            raise UsageError(
                "an app with a ProcessPool", "it is started while a worker imports the module it stands in",
                'Start it under `if __name__ == "__main__":`.',
            )  # fmt: skip
        if self._users == 0:
            self._slots = anyio.CapacityLimiter(self._most)
        self._users += 1
        stack.callback(self._left)

    def _left(self) -> None:
        """An app, or a client of it, has stopped; with the last one the workers end."""
        self._users -= 1
        if self._users == 0:
            for worker in self._workers:
                worker.kill()
                worker.reap()
            self._workers.clear()
            self._idle.clear()

    @hookimpl(tryfirst=True)
    def dispatch_runner(self, handler: HandlerInfo) -> Runner | None:
        if handler.name not in self._handlers if self._handlers else handler.is_async:
            return None
        _check(handler)
        return self._run

    async def _run(self, ctx: JobContext, call: Invocation) -> Any:
        request = pickle.dumps((call.func, call.args, call.keywords))
        async with self._slots:
            worker = await self._take()
            try:
                answer = await _ask_or_kill(worker, request)
            finally:
                ended = self._give_back(worker)
        if answer is None:
            await anyio.lowlevel.checkpoint_if_cancelled()  # we killed it ourselves
            raise WorkerDied(f"a worker's process ended ({ended}) before the handler; its standard error may say why")
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        return result

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            self._give_back(worker)
        worker = await anyio.to_thread.run_sync(Worker, limiter=anyio.CapacityLimiter(1))
        self._workers.add(worker)
        return worker

    def _give_back(self, worker: Worker) -> str:
        """Gives the worker to the next attempt if it lives; otherwise returns how it ended."""
        if worker.alive:
            self._idle.append(worker)
            return ""
        self._workers.discard(worker)
        return worker.reap()


async def _ask_or_kill(worker: Worker, request: bytes) -> bytes | None:
    """Returns its answer; None if it died. When cancelled, it ends once the process is dead."""
    answered = False

    async def kill_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not answered:
                worker.kill()

    async with anyio.create_task_group() as group:
        group.start_soon(kill_when_cancelled)
        answer = await anyio.to_thread.run_sync(worker.ask, request, limiter=anyio.CapacityLimiter(1))
        answered = True
        group.cancel_scope.cancel()
    return answer


def _check(handler: HandlerInfo) -> None:
    """At the start. Raises `InvalidHandler` for code that no other process could run."""
    what = f"handler {handler.name!r}"
    if handler.is_async:
        raise InvalidHandler(what, "it is async, so it runs on the loop", "Make it a plain def, or leave it out.")
    try:
        pickle.dumps(handler.target)
    except Exception as error:
        raise InvalidHandler(
            what, f"no other process can import it ({error})", "Define it at the top level of a module."
        ) from error
    if UnitOfWork in typing.get_type_hints(getattr(handler.target, "handle", handler.target)).values():
        raise InvalidHandler(
            what, "a UnitOfWork cannot be carried to another process", "Leave it to a handler in this one."
        )
