"""The persistence layer on a PostgreSQL server: for processes on several machines.

`columns` values as columns · `tables` their types and order · `schema` tables and migrations · `changes`, `units`,
`claims`, `queries`, `listing` SQL · `owners` who is alive, `session` the thread that says so · `workers` threads with a
connection each · `opened` all of them while the store is open · `places` connection strings, `connections` sessions,
`trouble` errors · `inspection` read only, `check` · `statements`, `functions` for transactions of users
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from aether_bg.errors import InvalidOption, UnitOfWorkTimeout, shown
from aether_bg.hookspecs import hookimpl
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    JobInfo,
    JobRun,
    ParamStyle,
    Purge,
    Query,
    Ran,
    Report,
    Runs,
    Statement,
    Stats,
    Write,
)
from aether_bg.model.attempts import LONGEST, in_seconds
from aether_bg.plugins._users import Users
from aether_bg.plugins.postgres import _extra, check, inspection, listing, queries  # noqa: F401 - the first says what is missing
from aether_bg.plugins.postgres.opened import Opened, Options, migrate, threads
from aether_bg.plugins.postgres.places import SCHEMA_PARAMETER, Place, checked_schema
from aether_bg.plugins.postgres.schema import LISTING, STEPS, Schema, steps_sql
from aether_bg.plugins.postgres.statements import Statements
from aether_bg.protocols import Kernel

__all__ = ["PostgresStore"]


class PostgresStore:
    """Jobs in a PostgreSQL database (14 or newer), for any number of processes on any number of machines.

    `dsn`: a URL or connection string as libpq reads it; several hosts with `target_session_attrs=read-write` follow a
    failover. `schema`: where the tables are, "aether_bg" by default; a URL may say it too, as `?aether_schema=jobs`.
    `migrate`: "auto" makes and updates them at the start, "check" refuses to start without them, "off" trusts that they
    are there. `session`: a URL around a pooler, for the one connection that shows that this process is alive. `fence`:
    cancel this process's attempts when it has not reached the server for 0.6 of a lease; without it they go on, and may
    run beside those of a successor. `connect_for`: seconds that the start waits for a server. `busy`: seconds that a
    call waits for one before it raises `StoreUnreachable`. `unit_timeout`: seconds that one unit of work may take; each
    statement in it has one second.
    """

    placeholder: Final = "%s"
    """How SQL in a unit of work marks a parameter; `%(name)s` works as well."""
    dialect: Final = "postgresql"
    """What SQLAlchemy calls its database."""
    schema_step: Final = next(reversed(STEPS))
    """The newest step of the schema that this version makes; an open store has it."""

    def __init__(
        self, dsn: str, *, schema: str | None = None, migrate: Literal["auto", "check", "off"] = "auto",
        session: str | None = None, fence: bool = False, connect_for: float = 30.0, busy: float = 5.0,
        unit_timeout: float = 5.0,
    ) -> None:  # fmt: skip
        if migrate not in ("auto", "check", "off"):
            raise InvalidOption(shown(migrate), 'must be "auto", "check" or "off"', name="migrate")
        if not isinstance(fence, bool):
            raise InvalidOption(shown(fence), "must be True or False", name="fence")
        place = _place(dsn, "dsn")
        around = None if session is None else _place(session, "session")
        self._options = Options(
            place=place, schema=Schema(_schema(schema, place, around)), migrate=migrate, fence=fence, session=around,
            connect_for=_seconds("connect_for", connect_for, least=0.0), busy=_seconds("busy", busy),
            unit_timeout=_seconds("unit_timeout", unit_timeout),
        )  # fmt: skip
        self._statements = Statements(self._options.schema)
        self._users = _users()

    def __repr__(self) -> str:
        state = " open" if self._users.open else ""
        return f"<PostgresStore {self._options.place} schema {self._options.schema.name!r}{state}>"

    def __reduce__(self) -> Any:
        """Not its passwords, and nothing that is open."""
        return _restored, (self._options,)

    @property
    def schema(self) -> str:
        """The schema of its tables."""
        return self._options.schema.name

    def _open(self) -> Opened:
        return self._users.opened(self)

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        report = partial(self._users.report, "unreadable rows")
        await self._users.join(self, kernel, stack, lambda: Opened.begin(self._options, self._users.wake, report))

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        if not writes:
            return []
        try:
            results = await self._open().transact(writes)
        except UnitOfWorkTimeout as error:
            self._users.report("unit of work", error)
            raise
        if self._users.several and any(write.wakes for write in writes):
            self._users.wake()
        return results

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        return await self._open().claim(claim)

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self._open().heartbeat(beat)

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        opened = self._open()
        if query.unarmed:
            await opened.index("jobs_unarmed")
        if query.recurring or query.paused or (query.order == "newest" and query.handler_name is not None):
            await self._ready_to_list()
        return await opened.find(query)

    async def _ready_to_list(self) -> None:
        """Where the indexes for lists cannot be made, a listing is slower."""
        for name in LISTING:
            await self._open().index(name)

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        opened = self._open()
        return await opened.read(lambda conn: queries.history(conn, opened.schema, job_id, limit))

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        opened = self._open()
        if query.ids is None:
            await self._ready_to_list()
        return await opened.read(lambda conn: listing.runs(conn, opened.schema, query), long=query.ids is None)

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        opened = self._open()
        return await opened.read(lambda conn: listing.failures(conn, opened.schema, query), long=True)

    @hookimpl
    async def store_stats(self) -> Stats:
        opened = self._open()
        return await opened.read(
            lambda conn: queries.stats(conn, opened.schema, opened.store_id), limit=60.0, long=True
        )

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        opened = self._open()
        return await opened.write(partial(queries.purge, schema=opened.schema, purge=purge))

    @hookimpl
    def store_statements(self, writes: Sequence[Write], style: ParamStyle) -> Sequence[Statement]:
        return self._statements.make(writes, style)

    async def backup(self, target: Path, progress: Callable[[int, int], object]) -> None:
        """Raises `Unsupported`: a server is backed up by its own tools."""
        raise inspection.no_backup(self._options)

    async def migrate(self, *, sql: bool = False) -> str | list[str]:
        """Create the tables, or update them; returns the steps applied. `sql`: return only the statements that a new
        database needs, and change nothing. The store need not be open. Raises a `StoreError`."""
        if sql:
            return steps_sql(self._options.schema)
        return await threads.run(migrate, self._options)

    def inspect(self) -> AbstractAsyncContextManager[inspection.Inspection]:
        """`async with store.inspect() as inspection`: read a database that other processes use, without joining them.
        The store need not be open. Nothing is created, migrated or locked. Raises a `StoreError`."""
        return inspection.opened(self._options)

    async def check(self, *, quick: bool = False, progress: Callable[[], object] = bool) -> Report:
        """Whether the rows agree, some process runs the jobs, and the server keeps up. The store need not be open.

        `quick`: without the comparison of all rows. Raises a `StoreError` for a server that does not answer, and for a
        database without the tables of this version.
        """
        return await check.check(self._options, quick, progress)


def _place(given: Any, name: str) -> Place:
    return given if isinstance(given, Place) else Place(given, name)


def _schema(given: Any, *places: Place | None) -> str:
    """Its name, wherever it is said; all must say the same."""
    said = [] if given is None else [checked_schema(given)]
    said += [place.schema for place in places if place is not None and place.schema is not None]
    if len(set(said)) > 1:
        rule = f"must be the same as {SCHEMA_PARAMETER} in the URL"
        raise InvalidOption(" and ".join(map(shown, said)), rule, "Say it once.", name="schema")
    return said[0] if said else "aether_bg"


def _seconds(name: str, value: Any, least: float | None = None) -> float:
    value = in_seconds(value)
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST
    if not good or (value == 0 and least is None):
        above = "above 0" if least is None else "of at least 0"
        rule = f"must be a number of seconds {above}, at most {LONGEST:.0f} (100 years)"
        raise InvalidOption(shown(value), rule, "For example: 5.", name=name)
    return float(value)


def _restored(options: Options) -> PostgresStore:
    store = PostgresStore.__new__(PostgresStore)
    store._options, store._users, store._statements = options, _users(), Statements(options.schema)
    return store


def _users() -> Users[Opened]:
    return Users("it", "with the same URL")
