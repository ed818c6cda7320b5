"""Threads that own a connection each, and the operations they carry out: a blocked event loop holds up none of them."""

from __future__ import annotations

import enum
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import psycopg
from psycopg.pq import TransactionStatus

from aether_bg.bridge import Waiter, WayBack
from aether_bg.errors import NotStarted, StoreBusy, StoreError, StoreReadOnly, StoreUnreachable
from aether_bg.plugins.postgres import trouble
from aether_bg.plugins.postgres.connections import Connection, Link, cut, is_usable

R = TypeVar("R")

_BACKOFF: Final = (0.05, 1.0)
"""Seconds between two tries to connect: the first ones, and the longest."""
_WAIT: Final = 0.05


class Theirs(Exception):
    """Around an error of a user's function, which is raised as it is."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _State(enum.Enum):
    PENDING = enum.auto()
    TAKEN = enum.auto()
    EXPIRED = enum.auto()
    ABANDONED = enum.auto()
    DONE = enum.auto()


class Operation:
    """Something to do on a connection, and what became of it.

    PENDING moves once: to TAKEN by a worker, or to EXPIRED by its waiter. An expired operation never runs (W2). From
    TAKEN it moves to DONE, or to ABANDONED by its waiter: then nothing is known about it.
    """

    def __init__(
        self, run: Callable[[Connection], Any], deadline: float, finished: Callable[[], object],
        settle: Callable[[Connection], Any] | None = None,
    ) -> None:  # fmt: skip
        """`settle`: asked on another connection when the answer was lost: the answer, or None if it is unknown."""
        self.run, self.deadline, self.finished, self.settle = run, deadline, finished, settle
        self.result: Any = None
        self.error: BaseException | None = None
        self.conn: Connection | None = None
        self.started = 0.0
        self.retried = False
        self._state = _State.PENDING
        self._lock = threading.Lock()

    def take(self) -> bool:
        self.started = time.monotonic()
        return self._move(_State.PENDING, _State.TAKEN)

    def expire(self) -> bool:
        return self._move(_State.PENDING, _State.EXPIRED)

    def abandon(self) -> bool:
        return self._move(_State.TAKEN, _State.ABANDONED)

    def done(self) -> bool:
        return self._move(_State.TAKEN, _State.DONE)

    @property
    def pending(self) -> bool:
        return self._state is _State.PENDING

    @property
    def abandoned(self) -> bool:
        return self._state is _State.ABANDONED

    @property
    def given_up(self) -> bool:
        return self._state in (_State.ABANDONED, _State.EXPIRED)

    def _move(self, before: _State, to: _State) -> bool:
        with self._lock:
            if self._state is not before:
                return False
            self._state = to
            return True


class Crew:
    """Up to `size` threads with a connection of this kind each, started when there is work for them.

    `where`: the store, in words. `way`: to the loop that waits.
    """

    def __init__(self, link: Link, kind: str, size: int, where: str, way: WayBack) -> None:
        self._link, self._kind, self._size, self._where, self._way = link, kind, size, where, way
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()
        self._one = anyio.Lock(fast_acquire=True)
        self._closed = False

    async def do(
        self, run: Callable[[Connection], R], *, within: float, limit: float,
        settle: Callable[[Connection], R | None] | None = None,
    ) -> R:  # fmt: skip
        """What `run` returns or raises. It must begin `within` seconds, and end `limit` seconds after that; a caller
        who is cancelled before it began makes sure that it never does."""
        if self._closed:
            raise NotStarted(self._where, "it is not open", "Use it inside `async with app` or `app.client()`.")
        done = self._way.waiter()
        op = Operation(run, time.monotonic() + within, partial(self._way.post, done.finish), settle)
        self._submit(op)
        try:
            await _finished(op, done, limit)
        finally:
            if not (done.done or op.given_up or op.expire()):
                with anyio.CancelScope(shield=True):
                    await _finished(op, done, limit)
        if op.error is not None:
            raise op.error
        if op.abandoned:
            cut(op.conn)
            raise trouble.unsure(self._where) if settle else trouble.unreachable(self._where)
        if not done.done:
            raise self._in_use(within)
        result: R = op.result
        return result

    async def do_alone(self, run: Callable[[Connection], R], *, within: float, limit: float) -> R:
        """The same for operations of which one runs at a time: they leave a connection to the others."""
        try:
            with anyio.fail_after(within):
                await self._one.acquire()
        except TimeoutError:
            raise self._in_use(within) from None
        try:
            return await self.do(run, within=within, limit=limit)
        finally:
            self._one.release()

    def _in_use(self, within: float) -> StoreBusy:
        rule = f"its connections have been in use for {within:g} s"
        return StoreBusy(self._where, rule, "It can be tried again.")

    def _submit(self, op: Operation) -> None:
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif len(self._threads) < self._size:
                thread = threading.Thread(target=self._serve, name=f"aether_bg postgres {self._kind}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._queue.put(op)

    def stop(self, patience: float) -> None:
        """What has been handed in is carried out; then the connections are closed."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self) -> None:
        worker = _Worker(self._link, self._kind, self._where)
        while (op := self._queue.get()) is not None:
            if op.take():
                worker.carry_out(op)
                op.done()
                op.finished()
            with self._lock:
                self._idle += 1
        worker.close()


class _Worker:
    """One connection, made again when it is lost."""

    def __init__(self, link: Link, kind: str, where: str) -> None:
        self._link, self._kind, self._where = link, kind, where
        self._conn: Connection | None = None

    def carry_out(self, op: Operation) -> None:
        try:
            op.conn = conn = self._connection(op.deadline)
            op.started = time.monotonic()
            try:
                op.result = op.run(conn)
            finally:
                if not conn.closed and conn.info.transaction_status != TransactionStatus.IDLE:
                    with suppress(psycopg.Error):  # what it raised says more
                        conn.rollback()
        except Theirs as theirs:
            op.error = theirs.error
        except psycopg.Error as error:
            op.error = trouble.translate(error, self._where)
            if isinstance(op.error, StoreReadOnly) or trouble.is_lost(error):
                self.close()
                if self._kind == "read" and not op.retried and time.monotonic() < op.deadline:
                    op.retried, op.error = True, None  # it changes nothing: once more, on a new connection
                    return self.carry_out(op)
                self._after_loss(op)
        except BaseException as error:
            op.error = error

    def _after_loss(self, op: Operation) -> None:
        """The answer is lost. What is written may tell whether it happened."""
        if op.settle is None or op.abandoned or isinstance(op.error, StoreReadOnly):
            return
        op.error = trouble.unsure(self._where)
        with suppress(StoreError):  # no server to ask
            conn = self._connection(op.deadline)
            try:
                op.result = op.settle(conn)
                op.error = op.error if op.result is None else None
            except StoreUnreachable as error:  # it did not happen
                op.error = error
            except psycopg.Error:
                self.close()

    def _connection(self, deadline: float) -> Connection:
        """Raises a `StoreError` if there is none by then."""
        if self._conn is not None and is_usable(self._conn):
            return self._conn
        self.close()
        wait, longest = _BACKOFF
        while True:
            try:
                self._conn = self._link.connect(self._kind)
                return self._conn
            except psycopg.Error as error:
                problem = trouble.refused(error, self._where)
                if not trouble.passes(problem) or time.monotonic() + wait > deadline:
                    raise problem from None  # the driver's own error shows how it was called
            time.sleep(wait)
            wait = min(2 * wait, longest)

    def close(self) -> None:
        if self._conn is not None:
            with suppress(psycopg.Error):
                self._conn.close()
            self._conn = None


async def _finished(op: Operation, done: Waiter, limit: float) -> None:
    """Wait for it, or until it can be given up."""
    while not done.done:
        ends = op.deadline if op.pending else max(op.deadline, op.started + limit)
        await done.wait(max(ends - time.monotonic(), 0.0) + _WAIT)
        if done.done:
            return
        if time.monotonic() > ends and (op.expire() or (op.started + limit < time.monotonic() and op.abandon())):
            return
