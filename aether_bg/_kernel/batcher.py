"""Writes of the same moment share a transaction: each caller waits for its own write, the store gets a batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import anyio

from aether_bg.bridge import Waiter, waiters
from aether_bg.errors import NotStarted, StoreContended, StoreTrouble, StoreUnsure
from aether_bg.model import Insert, Update, Write

MOST: Final = 200

T = TypeVar("T")
Finished = Callable[[T, BaseException | None], object]
"""Called with what it is about, and None, or why the write was not committed."""
W = TypeVar("W", bound=Insert | Update)
Committed = Callable[[W, object], object]
"""Called with a write that is committed, and its result."""
_Waiting: TypeAlias = tuple[Write, Finished[Any], Any]


class Batcher:
    """`put` a write with a function to call when it is committed or refused; `run` commits them, a batch at a time.

    A batch that is refused is committed again one by one, so that one bad write does not harm the others. When the
    store itself is in trouble, all of them get the error.
    """

    def __init__(self, transact: Callable[[Sequence[Write]], Awaitable[Sequence[object]]]) -> None:
        self._transact = transact
        self._waiting: list[_Waiting] = []
        self._something = anyio.Event()
        self._busy = 0
        self._closed = False
        self._runs = 0
        self._waiter: Callable[[], Waiter] | None = None
        self._together = False
        """The last batch had more than one write, so the next one probably has too."""

    def put(self, write: Insert | Update, finished: Finished[T], about: T) -> None:
        if self._closed:
            finished(about, _stopped())
            return
        self._waiting.append((write, finished, about))
        if len(self._waiting) == 1:
            self._something.set()

    @property
    def alone(self) -> bool:
        """There is no other write to share a transaction with."""
        return not (self._waiting or self._busy or self._together or self._closed)

    async def write(self, write: W, committed: Committed[W] | None = None) -> object:
        """Commits one write. `committed` is called with its result if it was `alone`, otherwise with None, then
        also where the caller is cancelled meanwhile. Raises what the store raises for it."""
        if self.alone:
            self._busy += 1
            try:
                results = await self._transact([write])
            finally:
                self._busy -= 1
            if committed is not None:
                committed(write, results[0])
            return results[0]
        if self._waiter is None:
            self._waiter = waiters()
        answer = _Answer(self._waiter(), write, committed)
        self.put(write, _Answer.give, answer)
        await answer.waiter.wait()
        if answer.error is not None:
            raise answer.error
        return None

    async def run(self) -> None:
        """Several may run at once: then one batch gathers while another is committed. The batcher is closed when the
        last one is cancelled, also by a host whose loop ends without a stop."""
        self._runs += 1
        try:
            await self._run()
        finally:
            self._runs -= 1
            if not self._runs:
                self.close()

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if not self._waiting:
                self._something = anyio.Event()
            if batch:
                self._busy += len(batch)
                self._together = len(batch) > 1
                try:
                    await self._commit(batch)
                finally:
                    self._busy -= len(batch)
            batch = []  # release it now, not when the next one comes

    def close(self) -> None:
        """Nothing is committed any more; waiting callers get an error."""
        self._closed = True
        for _, finished, about in self._waiting:
            finished(about, _stopped())
        self._waiting = []

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._busy

    async def _commit(self, batch: list[_Waiting]) -> None:
        error: BaseException | None = None
        try:
            await self._transact([write for write, _, _ in batch])
        except Exception as problem:
            error = problem
        except BaseException:  # cancelled by the stop: waiting callers must get an answer
            for _, finished, about in batch:
                finished(about, _unsure())
            raise
        if len(batch) > 1 and error is not None and _of_one(error):
            for one in batch:
                await self._commit([one])
            return
        for _, finished, about in batch:
            finished(about, error)


class _Answer:
    """For a caller who waits."""

    __slots__ = ("_committed", "_write", "error", "waiter")

    def __init__(self, waiter: Waiter, write: W, committed: Committed[W] | None) -> None:
        self.waiter, self._write, self._committed = waiter, write, committed
        self.error: BaseException | None = None

    def give(self, error: BaseException | None) -> None:
        self.error = error
        if error is None and self._committed is not None:
            self._committed(self._write, None)
        self.waiter.finish()


def _of_one(error: BaseException) -> bool:
    """Whether one write of the batch may be the cause, rather than the store."""
    return isinstance(error, StoreContended) or not isinstance(error, StoreTrouble)


def _stopped() -> NotStarted:
    return NotStarted(
        "the app", "it stopped before this call was stored", "Call it before the end of `async with app:`."
    )


def _unsure() -> StoreUnsure:
    return StoreUnsure(
        "the app", "it stopped before the store answered", "This call may be stored: look after the start."
    )
