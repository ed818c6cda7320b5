"""One thread writes: requests of the same moment share one commit, and so one wait for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

import anyio
import lmdb

from aether_bg.bridge import Bridge
from aether_bg.errors import NotADatabase, StoreBroken, StoreBusy, StoreError, StoreFull

from .rows import Rows, Tables

T = TypeVar("T")
Task: TypeAlias = "tuple[Callable[[Rows], Any], Future[Any]]"
MOST = 500  # writes that share a commit


class Writer:
    """Runs functions over writable rows, each completely or not at all; answers when the result is on the disk."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lmdb-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Rows], T]) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future

    def close(self, within: float) -> bool:
        """Writes what was submitted before; False if that takes longer than `within` seconds."""
        self._queue.put(None)
        self._thread.join(within)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            batch: list[Task] = [task]
            with suppress(Empty):
                while len(batch) < MOST:
                    following = self._queue.get_nowait()
                    if following is None:
                        self._queue.put(None)  # read again when this batch is done
                        break
                    batch.append(following)
            self._commit(batch)

    def _commit(self, batch: list[Task]) -> None:
        path = self._tables.env.path()
        answers = list[tuple["Future[Any]", Any]]()
        errors = list[tuple["Future[Any]", Exception]]()
        try:
            with self._tables.env.begin(write=True) as txn:
                for work, future in batch:
                    if not future.set_running_or_notify_cancel():
                        continue  # its caller is gone, so it must not happen
                    try:
                        with self._tables.env.begin(parent=txn, write=True) as part:
                            answer = work(Rows(part, self._tables))
                        answers.append((future, answer))
                    except Exception as error:
                        errors.append((future, trouble(error, path)))
        except Exception as error:  # of the commit itself: nothing of the batch is there
            answers, errors = [], [(future, trouble(error, path)) for _, future in batch]
        for future, answer in answers:
            future.set_result(answer)
        for future, reason in errors:
            with suppress(InvalidStateError):  # its caller is gone
                future.set_exception(reason)


async def outcome(future: Future[T], within: float) -> T:
    """Waits for it, on any event loop. A caller that is cancelled still waits: what has begun goes on.

    Raises StoreBusy if it has not begun after `within` seconds; then it never will.
    """
    bridge, done = Bridge(), anyio.Event()
    future.add_done_callback(lambda _: bridge.post(done.set))
    with anyio.CancelScope(shield=True):
        with anyio.move_on_after(within):
            await done.wait()
        if future.cancel():
            rule = f"another process has held its lock for {within:g} s"
            raise StoreBusy("LMDB", rule, "See whether one is stopped or in a debugger.")
        await done.wait()
    return future.result()


def trouble(error: Exception, path: str) -> Exception:
    """The error for the hooks; one that may be tried again is a `StoreTrouble`."""
    kind: type[StoreError]
    match error:
        case lmdb.MapFullError():
            kind, remedy = StoreFull, "Purge jobs that have ended, or open it with a larger map_size."
        case lmdb.DiskError() if "space" in str(error):
            kind, remedy = StoreFull, "Free some space on its disk."
        case lmdb.ReadersFullError():
            kind, remedy = StoreBusy, "Open it in fewer processes."
        case lmdb.MapResizedError():
            kind, remedy = StoreBroken, "Give every process the same map_size."
        case lmdb.InvalidError() | lmdb.VersionMismatchError():
            kind, remedy = NotADatabase, "Name a folder that LMDBStore made, or one that is not there."
        case lmdb.Error() | OSError():
            kind, remedy = StoreBroken, "Look at the disk, and at the folder's permissions."
        case _:
            return error
    return kind(path, str(error), remedy)
