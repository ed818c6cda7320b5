"""One store's share of the open file: its event loop, how long it waits, and its owners."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import anyio

from aether_bg.bridge import Bridge, Waiter, waiters
from aether_bg.model import Alive, Claim, Heartbeat, JobInfo, Owner
from aether_bg.plugins.sqlite import changes, claims, files, queries, reading
from aether_bg.plugins.sqlite.columns import to_time
from aether_bg.plugins.sqlite.opened import OpenFile, leave, opened
from aether_bg.plugins.sqlite.operations import OWN, Beat, Operation, Rank
from aether_bg.plugins.sqlite.transactions import too_long

if TYPE_CHECKING:
    from aether_bg.plugins.sqlite.backup import Progress

R = TypeVar("R")
_READERS = 4
_LOOK = 0.1
"""Seconds between checks that a write goes on."""


class Session:
    """Made by `await Session.begin(...)`, ended by `await session.end()`. `busy`: seconds a write may wait."""

    file: OpenFile

    def __init__(self, busy: float, wake: Callable[[], object]) -> None:
        self._busy, self._wake, self.bridge = busy, wake, Bridge()
        self._limiter, self._waiter = anyio.CapacityLimiter(_READERS), waiters()
        self._owners: dict[UUID, tuple[str, ...]] = {}
        """This store's owners, and what their rows say about their problems."""

    @classmethod
    async def begin(cls, path: Path, busy: float, wake: Callable[[], object]) -> Session:
        session = cls(busy, wake)
        session.file = await files.threads.run(opened, path, session)
        return session

    @property
    def pid(self) -> int:
        """Of the process that opened the file."""
        return self.file.pid

    def wake(self) -> None:
        self._wake()

    async def end(self) -> None:
        for owner in self._owners:
            self.file.writer.beats.pop(owner, None)
            self.file.locks.abandon(owner)
        await files.threads.run(leave, self.file, self, 0.0 if self.file.writer.stuck else self._busy + 1)

    async def write(
        self,
        run: Callable[[sqlite3.Connection], R],
        rank: Rank,
        *,
        theirs: bool = False,
        limit: float | None = None,
        name: Callable[[], str] = lambda: "a statement of aether_bg",
    ) -> R:
        """Has the writer run it, and waits for the commit. In three cases it gives up, and the operation is never
        committed: it has not begun at the deadline (docs/protocol.md, W2), it runs for longer than `limit` seconds, or
        another one is stuck.

        `theirs`: it runs the user's SQL, whose errors are raised unchanged; others become a `StoreError`.
        """
        writer = self.file.writer
        if stuck := writer.stuck:
            raise files.stuck(self.file.path, stuck.name())
        finished = self._waiter()
        op = Operation(
            run,
            rank,
            time.monotonic() + self._busy,
            self.bridge,
            finished.finish,
            theirs=theirs,
            limit=limit,
            name=name,
        )
        writer.submit(op)
        try:
            await self._finished(op, finished)
        finally:
            if not (finished.done or op.given_up or op.expire()):
                with anyio.CancelScope(shield=True):
                    await self._finished(op, finished)
        if op.abandoned and op.overdue:
            raise files.slow(self.file.path, OWN) if limit is None else too_long(op)
        if not finished.done:
            raise files.stuck(self.file.path, stuck.name()) if (stuck := writer.stuck) else files.busy(self.file.path)
        if op.error is not None:
            raise op.error
        result: R = op.result
        return result

    async def _finished(self, op: Operation, finished: Waiter) -> None:
        """Waits for it, or until it can be given up."""
        while True:
            await finished.wait(_LOOK)
            if finished.done:
                return
            stuck = self.file.writer.stuck is not None
            if (stuck or (op.limit is not None and op.overdue)) and op.abandon():
                return
            if (stuck or time.monotonic() > op.deadline + 0.5) and op.expire():
                return

    async def read(self, run: Callable[[sqlite3.Connection], R]) -> R:
        async with self._limiter:
            return await files.threads.run(self.file.read, run)

    async def backup(self, target: Path, progress: Progress) -> None:
        """On a connection of its own."""
        from aether_bg.plugins.sqlite.backup import live  # few apps copy themselves

        await live(lambda: closing(self.file.reader()), self.file.path, target, progress)

    # -- owners ----------------------------------------------------------------------------------

    async def join(self, beat: Heartbeat) -> None:
        with files.translating(self.file.path):
            await files.threads.run(self.file.locks.take, beat.owner)
        self._owners[beat.owner] = beat.problems
        await self.write(partial(_join, beat=beat), Rank.BEAT)
        renew = partial(_renew, owner=str(beat.owner))
        self.file.writer.keep(beat.owner, Beat(renew, beat.interval, beat.keep_for, beat.stop_asked))

    async def tell(self, beat: Heartbeat) -> None:
        if self._owners.get(beat.owner, beat.problems) != beat.problems:
            await self.write(partial(claims.tell, beat=beat), Rank.BEAT)
            self._owners[beat.owner] = beat.problems

    async def forget(self, beat: Heartbeat) -> None:
        """Deletes the rows of recovered owners, and of this one when it leaves; then releases their locks."""
        await self.write(lambda conn: claims.forget(conn, [str(owner) for owner in beat.gone]), Rank.BEAT)
        for owner in beat.recovered:
            self.file.locks.recovered(owner)
        if beat.leave:
            self.file.writer.beats.pop(beat.owner, None)
            self.file.locks.release(beat.owner)
            self._owners.pop(beat.owner, None)

    def claim(self, conn: sqlite3.Connection, claim: Claim) -> tuple[claims.Taken, datetime | None, bool]:
        """On the writer's thread."""
        found = claims.claim(conn, claim)
        if found[0].rows != "[]":
            self._claimed(claim.owner)
        return found

    def insert(self, conn: sqlite3.Connection, job: JobInfo, claim: Claim) -> list[JobInfo | None]:
        """Inserts a job, and begins it if that is possible: then the result is its row. On the writer's thread."""
        row = claims.at_once(conn, claim, job)
        changes.insert_jobs(conn, [job if row is None else row])
        if row is not None:
            claims.begin_run(conn, row)
            self._claimed(claim.owner)
        return [row]

    def _claimed(self, owner: UUID) -> None:
        if (mine := self.file.writer.beats.get(owner)) is not None:
            mine.claims += 1

    def keep(self, beat: Heartbeat) -> None:
        if (known := self.file.writer.beats.get(beat.owner)) is not None:
            known.keep(beat.keep_for)

    def alive(self, conn: sqlite3.Connection, beat: Heartbeat) -> tuple[Alive, list[object]]:
        """Reads only; probes the locks of other owners (docs/protocol.md, P2). Also owners whose ids cannot be read."""
        file, mine = self.file, self.file.writer.beats.get(beat.owner)
        claimed = 0 if mine is None else mine.claims
        keep = beat.owner in self._owners  # one that only asks must not hold what others are to recover
        rows: dict[UUID, Owner] = {}
        bad: list[object] = []
        with reading.any_text(conn):
            for id_, beats, handlers, stopping, declares in conn.execute(queries.ALIVE_OWNERS):
                if (owner := queries.readable_id(id_)) is None:
                    bad.append(id_)
                else:
                    beat_count = beats if isinstance(beats, int) else 0
                    rows[owner] = Owner(beat_count, _names(handlers), bool(stopping), _names(declares))
            orphaned = [row[0] for row in conn.execute(queries.ORPHANED) if row[0] != str(beat.owner)]
            due = [name for (name,) in conn.execute(queries.DUE_HANDLERS, {"now": to_time(beat.now)})]
        running = tuple(queries.running(conn, beat.owner))
        if mine is not None and not running:
            mine.settled = claimed
        bad += [owner for owner in orphaned if queries.readable_id(owner) is None]
        lost = [owner for owner in map(queries.readable_id, orphaned) if owner is not None]
        staying = [owner for owner in rows.values() if not owner.stopping]
        alive = Alive(
            store_id=file.store_id,
            known=beat.owner in rows and not (mine and mine.lost),
            beats={id_: owner.beat for id_, owner in rows.items()},
            dead=(*(o for o in rows if o != beat.owner and file.locks.dead(o, keep=keep)), *lost),
            stopping=frozenset(id_ for id_, owner in rows.items() if owner.stopping),
            running=running,
            advertised=frozenset(name for owner in staying for name in owner.handlers),
            declared=frozenset(name for owner in staying for name in owner.declares),
            due=frozenset(name for name in due if isinstance(name, str)),
            size=file.size() if beat.join else 0,
            sure_to_wake=True,
            begins_at_once=True,
        )
        return alive, bad


def _names(text: object) -> tuple[str, ...]:
    """The handlers or declarations of an owner's row; empty if they cannot be read."""
    try:
        return tuple(name for name in json.loads(str(text)) if isinstance(name, str))
    except (ValueError, TypeError, RecursionError):
        return ()


def _join(conn: sqlite3.Connection, beat: Heartbeat) -> None:
    claims.join(conn, beat)
    changes.sweep(conn, beat.now)


def _renew(conn: sqlite3.Connection, stopping: bool, owner: str) -> bool:
    return claims.renew(conn, owner, to_time(datetime.now(UTC)), stopping=stopping)
