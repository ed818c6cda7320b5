"""What attempts report while they run: progress and checkpoints (docs/protocol.md, G)."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio
import attrs

from aether_bg._handlers.awaited import Across
from aether_bg._handlers.payloads import check_json
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import Run, Signal
from aether_bg.errors import Stale, StoreUnsure, TokenLost, shown
from aether_bg.model import JobContext, Note, Progress
from aether_bg.model.context import DONE


@attrs.define(eq=False)
class Watch:
    """For a caller who waits for a job that may run here: its newest progress, and a signal that it has changed."""

    seen: Progress | None = None
    moved: Signal = attrs.field(factory=Signal)


@attrs.define(eq=False)
class _Turn:
    """The checkpoints of one attempt: it writes one at a time, and never an older one after a newer one."""

    lock: anyio.Lock = attrs.field(factory=partial(anyio.Lock, fast_acquire=True))
    last: int = -1


@attrs.define(kw_only=True, eq=False)
class Notes:
    """`limit`: bytes of a checkpoint."""

    _shared: Shared
    _on_loop: Run
    _across: Across
    _limit: int
    _fresh: dict[JobContext, Progress] = attrs.field(factory=dict, init=False)
    """The progress that has not been written yet."""
    _writing: dict[JobContext, Progress] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _asked: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _posted: bool = attrs.field(default=False, init=False)
    _watches: dict[UUID, list[Watch]] = attrs.field(factory=dict, init=False)

    _numbers: Iterator[int] = attrs.field(factory=count, init=False)
    """Numbers for checkpoints, in the order in which they begin."""
    _turns: WeakKeyDictionary[JobContext, _Turn] = attrs.field(factory=WeakKeyDictionary, init=False)

    # -- progress --------------------------------------------------------------------------------

    def progress(self, ctx: JobContext, done: Any, total: Any, note: Any) -> None:
        """From any thread. Raises `InvalidOption`."""
        progress = Progress.checked(done, total, note, self._shared.clock.now())
        with self._lock:
            self._fresh[ctx] = progress
            posted, self._posted = self._posted, True
        if not posted:
            self._on_loop(self._look)

    def _look(self) -> None:
        with self._lock:
            self._posted = False
            fresh = list(self._fresh.items()) if self._watches else []
        for ctx, progress in fresh:
            for watch in self._watches.get(ctx.job.id, ()):
                watch.seen = progress
                watch.moved.set()
        self._asked.set()

    def last(self, ctx: JobContext) -> Progress | None:
        """The last progress of the attempt, unless it is written: the outcome includes it, and may overtake a write."""
        if not self._fresh and not self._writing:
            return None
        with self._lock:
            return self._fresh.pop(ctx, None) or self._writing.get(ctx)

    def unwritten(self, ctx: JobContext) -> Progress | None:
        """The same for an outcome that may be undone: then the next one includes it."""
        with self._lock:
            return self._fresh.get(ctx) or self._writing.get(ctx)

    async def run(self) -> None:
        """Writes at most once a second for all attempts (docs/protocol.md, G1)."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            with self._lock:
                self._writing, self._fresh = self._fresh, {}
            await self._write(
                [Note(job_id=ctx.job.id, seq=ctx.token, progress=said) for ctx, said in self._writing.items()]
            )
            self._writing = {}
            await anyio.sleep(self._shared.timings.progress)

    async def _write(self, notes: Sequence[Note]) -> None:
        while notes:
            try:
                await self._shared.calls.transact(notes)
                return
            except Stale as stale:  # that attempt has ended, or lost its token; the job's next one may have begun
                oldest = min(note.seq for note in notes if note.job_id == stale.job_id)
                notes = [note for note in notes if (note.job_id, note.seq) != (stale.job_id, oldest)]
            except Exception as error:  # what is reported next is newer
                self._shared.problems.report("progress", error)
                return

    @contextmanager
    def watching(self, job_id: UUID) -> Iterator[Watch]:
        watch = Watch()
        self._watches.setdefault(job_id, []).append(watch)
        try:
            yield watch
        finally:
            self._watches[job_id].remove(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    # -- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self, ctx: JobContext, value: Any) -> Awaitable[None]:
        """An awaitable on the loop; in other threads it is done when this returns."""
        number = next(self._numbers)
        return self._across(lambda: self._in_turn(ctx, value, number), DONE)

    async def _in_turn(self, ctx: JobContext, value: Any, number: int) -> None:
        plain = check_json(value, self._limit, "a checkpoint")
        turn = self._turns.setdefault(ctx, _Turn())
        async with turn.lock:
            if number > turn.last:  # otherwise a later one is stored already
                await self._keep(ctx, plain)
                turn.last = number

    async def _keep(self, ctx: JobContext, plain: Any) -> None:
        note, calls = [Note(job_id=ctx.job.id, seq=ctx.token, checkpoint=plain)], self._shared.calls
        try:
            try:
                await calls.transact(note)
            except StoreUnsure:  # a note may be written twice
                await calls.transact(note)
        except Stale as stale:
            attempt = self._shared.slots.running.get(ctx.job.id)
            if attempt is not None and attempt.context is ctx:
                attempt.revoke()
            raise lost(ctx) from stale
        ctx.keep(plain)


def lost(ctx: JobContext) -> TokenLost:
    return TokenLost(
        f"attempt {ctx.attempt} of job {shown(ctx.job.job_name)}",
        "it no longer holds the job: it has ended, the job was deleted, or another process has taken it over",
        "Nothing of it counts any more: let the error pass.",
    )  # fmt: skip
