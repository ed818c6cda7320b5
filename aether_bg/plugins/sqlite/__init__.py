"""The persistence layer on one SQLite file: crash-safe, shared between processes, readable in Datasette.

`schema` tables · `columns` values as columns, `rows` with stand-ins for bad ones · `changes`, `claims`, `queries`,
`listing`, `retention` SQL · `writer` group commit of `operations` · `guard` SQL of users · `opened` the file while it
is open, `session` one store's share of it · `hold`, `locks`, `files` the operating system · `backup` · `inspection`
read only, `check`, both `bounded`
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from aether_bg.errors import InvalidOption, StoreError, UnitOfWorkTimeout, shown
from aether_bg.hookspecs import hookimpl
from aether_bg.model import (
    Alive,
    Call,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Insert,
    JobInfo,
    JobRun,
    Purge,
    Query,
    Ran,
    Report,
    Runs,
    Stats,
    Unreadable,
    Update,
    Write,
)
from aether_bg.model.attempts import LONGEST, in_seconds
from aether_bg.plugins._users import Users
from aether_bg.plugins.sqlite import changes, claims, files, listing, quarantine, queries, retention
from aether_bg.plugins.sqlite.columns import to_time
from aether_bg.plugins.sqlite.operations import Rank
from aether_bg.plugins.sqlite.schema import MAKE_LISTING_INDEXES, MAKE_UNARMED_INDEX, STEPS
from aether_bg.plugins.sqlite.session import Session
from aether_bg.protocols import Kernel

if TYPE_CHECKING:
    from aether_bg.plugins.sqlite.backup import Progress
    from aether_bg.plugins.sqlite.inspection import Inspection

__all__ = ["SQLiteStore"]


class SQLiteStore:
    """Jobs in a SQLite file, for any number of processes on one machine.

    `path`: the file, made (mode 0600) if its folder exists; `":memory:"`: a private temporary file, gone with the
    process. `busy`: seconds a write waits for other programs before it raises `StoreBusy`. `unit_timeout`: seconds that
    one unit of work may hold the database before it fails with `UnitOfWorkTimeout`; each statement has one second.
    """

    placeholder: Final = "?"
    """How SQL in a unit of work marks a parameter; `:name` works as well."""
    schema_step: Final = STEPS[-1]
    """The newest step of the schema that this version makes; an open store has it."""

    def __init__(self, path: str | os.PathLike[str], *, busy: float = 5.0, unit_timeout: float = 5.0) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
            raise InvalidOption(shown(path), "must be the path of a file", 'For example: "jobs.db".', name="database")
        if "://" in os.fsdecode(path):
            raise InvalidOption(
                shown(path), "must be a path, not a URL", 'For example: "jobs.db", or a plugin.', name="database"
            )
        busy, unit_timeout = in_seconds(busy), in_seconds(unit_timeout)
        for option, value in (("busy", busy), ("unit_timeout", unit_timeout)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InvalidOption(shown(value), "must be a number of seconds above 0", "For example: 5.", name=option)
            if value > LONGEST:
                rule = f"must be at most {LONGEST:.0f} seconds (100 years)"
                raise InvalidOption(shown(value), rule, "For example: 5.", name=option)
        self.path = Path(path)
        self.busy, self.unit_timeout = float(busy), float(unit_timeout)
        if str(path) == ":memory:":  # a real in-memory database has no WAL and no second connection
            import shutil
            import tempfile

            self.path = Path(tempfile.mkdtemp(prefix="aether_bg-")) / "jobs.db"
            weakref.finalize(self, shutil.rmtree, self.path.parent, ignore_errors=True)
        with files.translating(self.path):
            if self.path.is_dir():
                raise files.irregular(self.path)
        self._users = Users[Session]("the file", "on the same path")

    def __repr__(self) -> str:
        return f"<SQLiteStore {str(self.path)!r}{' open' if self._users.open else ''}>"

    def _open(self) -> Session:  # no property: pluggy before 1.7 evaluates those when a plugin is registered
        return self._users.opened(self)

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self._users.join(self, kernel, stack, lambda: Session.begin(self.path, self.busy, self._users.wake))

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        session = self._open()
        file, theirs = session.file, any(isinstance(write, Call) for write in writes)
        first = writes[0] if writes else None
        rank = Rank.OUTCOME if isinstance(first, Update) else Rank.OTHER

        def run(conn: sqlite3.Connection) -> Sequence[object]:
            if isinstance(first, Insert) and first.claim is not None:  # the only one, then
                return session.insert(conn, first.job, first.claim)
            return changes.transact(conn, writes, file.writer.transactions.guard)

        try:
            results = await session.write(
                run, rank, theirs=theirs, limit=self.unit_timeout if theirs else None,
                name=lambda: changes.named(writes),
            )  # fmt: skip
        except UnitOfWorkTimeout as error:
            self._users.report("unit of work", error)
            raise
        except Exception:
            raise
        except BaseException:  # cancelled: it may be stored all the same
            self._wake_others(session)
            raise
        self._wake_others(session)
        return results

    def _wake_others(self, session: Session) -> None:
        """Those that share the writer's connection do not see it write."""
        if self._users.several:
            self._users.wake()
        if len(session.file.users) > 1:
            session.file.wake(but=session)

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        session, next_due, short = self._open(), None, False
        try:
            taken, next_due, short = await session.write(partial(session.claim, claim=claim), Rank.OTHER, theirs=True)
            found = await self._isolated(taken.read(claim), claim.now, for_work=True)
        except sqlite3.Error:  # not of the file, which would be a StoreError: of what is in some row
            found, told = await session.write(lambda conn: claims.claim_one_by_one(conn, claim), Rank.OTHER)
            self._report(told)
        return Claimed(jobs=tuple(sorted(found, key=claim.rank)), next_due=next_due, short=short)

    async def _isolated(self, found: list[JobInfo], now: datetime, *, for_work: bool) -> list[JobInfo]:
        """`found`, without the rows that had to be set aside. For people who read, most can stay as they are."""
        if not any(type(job) is Unreadable for job in found):
            return found
        bad = [job for job in found if quarantine.needed(job, for_work=for_work)]
        if bad:
            isolate = partial(quarantine.isolate, found=bad, now=to_time(now))
            self._report(await self._open().write(isolate, Rank.OTHER))
        return [job for job in found if job not in bad] if for_work else found

    def _report(self, problems: Sequence[str], part: str = "unreadable rows") -> None:
        for problem in problems:
            self._users.report(part, problem)

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        session = self._open()
        if beat.join:
            await session.join(beat)
            self._wake_others(session)
        await session.tell(beat)
        if beat.stopping:
            await session.write(lambda conn: claims.announce_stop(conn, str(beat.owner)), Rank.BEAT)
        if beat.leave or beat.recovered:
            await session.forget(beat)
        if beat.leave:  # who leaves asks nothing
            return Alive(store_id=session.file.store_id, known=False)
        session.keep(beat)
        alive, bad = await session.read(lambda conn: session.alive(conn, beat))
        for owner in bad:
            drop = partial(quarantine.drop_owner, owner=owner, now=to_time(beat.now))
            self._report(await session.write(drop, Rank.OTHER))
        return alive

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        session = self._open()
        if query.unarmed and not session.file.has_unarmed_index:
            await session.write(lambda conn: conn.execute(MAKE_UNARMED_INDEX), Rank.OTHER, limit=600.0)
            session.file.has_unarmed_index = True
        if query.order == "newest" and query.handler_name is not None:
            await self._ready_to_list()
        found = await session.read(lambda conn: queries.find(conn, query))
        for_work = bool(query.owner or query.unarmed or query.changed_after or query.zoned or query.due_before)
        return await self._isolated(found, datetime.now(UTC), for_work=for_work)

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self._open().read(lambda conn: queries.history(conn, job_id, limit))

    async def _ready_to_list(self) -> None:
        """If the file cannot be written, its indexes for lists are missing, and a listing is slower."""
        session = self._open()
        if session.file.has_listing_indexes:
            return
        session.file.has_listing_indexes = True
        try:
            for make in MAKE_LISTING_INDEXES:
                await session.write(partial(_execute, sql=make), Rank.OTHER, limit=600.0)
        except StoreError as error:
            self._report([f"its indexes cannot be made, so pages are slower: {error}"], "listing")

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        if query.ids is None:
            await self._ready_to_list()
        return await self._open().read(lambda conn: listing.runs(conn, query))

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self._open().read(lambda conn: listing.failures(conn, query))

    @hookimpl
    async def store_stats(self) -> Stats:
        session = self._open()
        return await session.read(lambda conn: queries.stats(conn, session.file.size(), to_time(datetime.now(UTC))))

    async def backup(self, target: Path, progress: Progress) -> None:
        """What `app.store.backup()` calls."""
        await self._open().backup(target, progress)

    def inspect(self) -> AbstractAsyncContextManager[Inspection]:
        """`async with store.inspect() as inspection`: read a database that other processes may use, without joining
        them. The store need not be open. Nothing is created, migrated or locked. Raises a `StoreError`."""
        from aether_bg.plugins.sqlite import inspection  # an app needs neither this nor `check`

        return inspection.opened(self.path)

    async def check(self, *, quick: bool = False, progress: Callable[[], object] = bool) -> Report:
        """Whether the file is sound, its rows agree, and a process runs its jobs. The store need not be open.

        `quick`: SQLite's quick_check instead of its integrity_check. `progress` is called from time to time, in another
        thread. Raises a `StoreError` for a file that cannot be read, or that is not a database of this version.
        """
        from aether_bg.plugins.sqlite.check import check

        return await check(self.path, quick, progress)

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self._open().write(lambda conn: retention.purge(conn, purge), Rank.OTHER)


def _execute(conn: sqlite3.Connection, sql: str) -> None:
    conn.execute(sql)
