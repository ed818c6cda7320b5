"""The session thread: one connection that holds the owners' locks, keeps their beats, listens and notifies.

A select loop: nothing on it waits for the event loop, so a handler that blocks that loop delays no beat (P3).
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import UUID, uuid4

import attrs
import psycopg
from psycopg import sql

from aether_bg.errors import AetherError
from aether_bg.model import Heartbeat
from aether_bg.plugins.postgres import owners, trouble
from aether_bg.plugins.postgres.connections import Connection, Link, cut, is_usable
from aether_bg.plugins.postgres.prepared import run
from aether_bg.plugins.postgres.schema import Schema

_BACKOFF: Final = (0.05, 0.25)
"""Seconds before a new attempt to connect: the first time, and at most. Far below `owners.GRACE`."""
_TURN: Final = 0.25
"""Seconds between two checks of `stop_asked`."""
_APART: Final = 0.02
"""Seconds between two notifications, however much is written."""
_FAREWELL: Final = 2.0
NOTIFY: Final = b"SELECT pg_notify($1, $2)"


@attrs.define(eq=False)
class Mine:
    """An owner of this store. `lock`: its number, 0 without one; `lost`: its row is gone, others declared it dead."""

    id: UUID
    interval: float
    stop_asked: Callable[[], bool]
    keep_until: float
    lock: int = 0
    held: bool = False
    announced: bool = False
    lost: bool = False
    next: float = 0.0
    problems: tuple[str, ...] = ()
    last: float = attrs.field(factory=time.monotonic)
    """When its row was last written."""

    def due(self, now: float) -> bool:
        if self.lost:
            return False
        return (now <= self.keep_until and now >= self.next) or (not self.announced and self.stop_asked())


class Question:
    """Something to do on the session's connection, for a thread that waits for it."""

    def __init__(self, run: Callable[[Connection], object]) -> None:
        self.run, self.done = run, threading.Event()
        self.error: BaseException | None = None


class Session:
    """`wake`: called, in this thread, when another process has written or may have. `where`: the store, in words."""

    def __init__(self, link: Link, schema: Schema, where: str, wake: Callable[[], object]) -> None:
        self._link, self._schema, self._where, self._wake = link, schema, where, wake
        self.owners: dict[UUID, Mine] = {}
        self._me = str(uuid4())
        self._conn: Connection | None = None
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._going = True
        self._notify_at: float | None = None
        self._notified = 0.0
        self._fresh = self._heard = False
        self._thread = threading.Thread(target=self._serve, name="aether_bg postgres session", daemon=True)
        self._thread.start()

    @property
    def trusted(self) -> bool:
        """Whether it is a session: locks and LISTEN work."""
        return not self._link.pooled

    # -- from other threads ----------------------------------------------------------------------

    def ask(self, run: Callable[[Connection], object], within: float) -> None:
        """Has it done on the session's connection, and waits. Raises a `StoreError`."""
        question = Question(run)
        self._questions.put(question)
        self._nudge()
        if not question.done.wait(within):
            cut(self._conn)
            raise trouble.unreachable(self._where)
        if isinstance(question.error, psycopg.Error):
            raise trouble.translate(question.error, self._where) from None
        if question.error is not None:
            raise question.error

    def join(self, conn: Connection, beat: Heartbeat) -> None:
        """Lock first, then the row: whichever process sees the row finds the lock held (docs/protocol.md, P1)."""
        now = time.monotonic()
        mine = Mine(
            beat.owner, beat.interval, beat.stop_asked, now + beat.keep_for, next=now + beat.interval,
            announced=beat.stopping, problems=beat.problems,
        )  # fmt: skip
        while self.trusted and not mine.held:
            mine.lock = _number(conn.execute(self._schema(owners.NEXT_LOCK)).fetchone())
            mine.held = self._take(conn, mine)
        owners.register(conn, self._schema, beat, mine.lock, self.trusted)
        self.owners[beat.owner] = mine

    def tell(self, conn: Connection, beat: Heartbeat) -> None:
        """What its row says about the owner besides the beat."""
        conn.execute(self._schema(owners.TELL), [beat.stopping, list(beat.problems), beat.owner])
        if (mine := self.owners.get(beat.owner)) is not None:
            mine.problems, mine.announced = beat.problems, mine.announced or beat.stopping

    def forget(self, conn: Connection, beat: Heartbeat) -> None:
        """Deletes the rows of recovered owners, and of this one when it leaves; then releases its lock."""
        conn.execute(self._schema(owners.FORGET), [list(beat.gone)])
        if beat.leave and (mine := self.owners.pop(beat.owner, None)) is not None and mine.held:
            conn.execute("SELECT pg_advisory_unlock(%s, %s)", [self._schema.lock_class, mine.lock])

    def keep(self, beat: Heartbeat) -> None:
        if (mine := self.owners.get(beat.owner)) is not None:
            mine.keep_until = time.monotonic() + beat.keep_for

    def notify(self) -> None:
        """Tell other processes that something may be due, soon (docs/protocol.md, P9)."""
        if self.trusted and self._notify_at is None:
            self._notify_at = max(time.monotonic(), self._notified + _APART)
            if time.monotonic() > self._notified + _APART:  # until then the thread looks by itself
                self._nudge()

    def _nudge(self) -> None:
        with suppress(BlockingIOError, OSError):  # full: it is awake anyway
            self._writer.send(b"x")

    def end(self) -> None:
        """Closes the connection, which releases all locks. Rows of owners that have not left stay."""
        self._going = False
        self._nudge()
        self._thread.join(_FAREWELL)
        if self._thread.is_alive():
            cut(self._conn)
            self._thread.join(_FAREWELL)
        if not self._thread.is_alive():
            self._reader.close()
            self._writer.close()

    # -- in the thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        wait, longest = _BACKOFF
        while self._going or not self._questions.empty():
            try:
                conn = self._connection()
                self._turn(conn)
                wait, longest = _BACKOFF
            except (psycopg.Error, OSError, ValueError) as error:
                self._close()
                if not self._going:
                    break
                self._refuse(error)
                time.sleep(wait)
                wait = min(2 * wait, longest)
        self._close()

    def _refuse(self, error: BaseException) -> None:
        """An error that will not pass answers those who wait; after other errors they wait for the next attempt."""
        problem = trouble.refused(error, self._where) if isinstance(error, psycopg.Error) else None
        if isinstance(problem, AetherError) and not trouble.passes(problem):
            while not self._questions.empty():
                question = self._questions.get()
                question.error = problem
                question.done.set()

    def _connection(self) -> Connection:
        if self._conn is None or not is_usable(self._conn):
            self._close()
            self._conn = conn = self._link.connect("session")
            conn.add_notify_handler(lambda said: self._note(said.payload))  # of those that come beside an answer
            if self.trusted:
                conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._schema.channel)))
            for mine in list(self.owners.values()):
                mine.held = False
            if self._fresh:
                self._wake()  # notifications since then are lost
            self._fresh = True
        return self._conn

    def _turn(self, conn: Connection) -> None:
        for mine in list(self.owners.values()):
            if self.trusted and mine.lock and not mine.held and not mine.lost:
                self._lock_again(conn, mine)
        waits = min(_TURN, *(max(0.0, at - time.monotonic()) for at in self._instants()))
        _wait([conn.fileno(), self._reader.fileno()], waits)
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        self._hear(conn)
        while not self._questions.empty():
            self._answer(conn, self._questions.get())
        now = time.monotonic()
        if self._notify_at is not None and now >= self._notify_at:
            self._notified, self._notify_at = now, None
            run(conn, NOTIFY, [self._schema.channel, self._me])
        for mine in list(self.owners.values()):
            if mine.due(now):
                self._renew(conn, mine, now)
        self._hear(conn)

    def _instants(self) -> list[float]:
        known = [mine.next for mine in list(self.owners.values()) if mine.next <= mine.keep_until and not mine.lost]
        now, again = time.monotonic(), self._notified + _APART
        return [*known, again if self._notify_at is not None or again > now else now + _TURN]

    def _hear(self, conn: Connection) -> None:
        """What has arrived by itself, or before an answer."""
        conn.pgconn.consume_input()
        while (said := conn.pgconn.notifies()) is not None:
            self._note(said.extra.decode(errors="replace"))
        if self._heard:
            self._heard = False
            self._wake()

    def _note(self, payload: str) -> None:
        self._heard |= payload != self._me

    def _answer(self, conn: Connection, question: Question) -> None:
        try:
            question.run(conn)
        except Exception as error:
            question.error = error
            if isinstance(error, psycopg.Error) and trouble.is_lost(error):
                raise
        finally:
            question.done.set()

    def _renew(self, conn: Connection, mine: Mine, now: float) -> None:
        stopping = mine.stop_asked()
        mine.next = now + mine.interval
        mine.lost = conn.execute(self._schema(owners.RENEW), [stopping, mine.id]).rowcount != 1
        mine.announced, mine.last = mine.announced or stopping, time.monotonic()

    def _take(self, conn: Connection, mine: Mine) -> bool:
        row = conn.execute("SELECT pg_try_advisory_lock(%s, %s)", [self._schema.lock_class, mine.lock]).fetchone()
        return bool(row and row[0])

    def _lock_again(self, conn: Connection, mine: Mine) -> None:
        """The connection is new. Until the server has noticed the end of the old one, that one still has the lock."""
        if self._take(conn, mine):
            mine.held = True
            mine.lost = conn.execute(self._schema(owners.REGISTER_AGAIN), [mine.id]).rowcount != 1

    def _close(self) -> None:
        if self._conn is not None:
            with suppress(psycopg.Error):
                self._conn.close()
            self._conn = None

    def forked(self) -> None:
        """In the child: its copies of the pipe."""
        for end in (self._reader, self._writer):
            with suppress(OSError):
                os.close(end.fileno())


def _wait(files: list[int], seconds: float) -> None:
    """Until one can be read. Not by `select` where there is better: it fails for descriptors above 1023."""
    with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        selector.select(seconds)


def _number(row: tuple[Any, ...] | None) -> int:
    assert row is not None
    return int(row[0])
