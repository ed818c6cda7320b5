"""A database opened for reading only: no owner, no lock, no migration, nothing that other processes would notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from aether_bg.bridge import WayBack
from aether_bg.errors import StoreReadOnly, Unsupported
from aether_bg.model import FailureGroup, Failures, JobInfo, JobRun, Process, Purge, Query, Ran, Runs, Stats
from aether_bg.plugins.postgres import listing, queries, schema
from aether_bg.plugins.postgres.columns import from_json
from aether_bg.plugins.postgres.connections import Connection, Link, is_pooled
from aether_bg.plugins.postgres.opened import Options, first, threads
from aether_bg.plugins.postgres.owners import HELD, LOCKED
from aether_bg.plugins.postgres.schema import Schema
from aether_bg.plugins.postgres.workers import Crew

R = TypeVar("R")

_WAIT: Final = 5.0
"""Seconds for a connection."""
PATIENCE: Final = 60.0
"""Seconds for an answer."""
SILENT: Final = "interval '60 s'"
"""After this many seconds without a heartbeat, a process that is not proven dead is called silent: four default
leases."""

PROCESSES: Final = f"""
WITH held AS MATERIALIZED ({HELD})
SELECT id, host, pid, started_at, beat_at, CASE WHEN stopping THEN '{{}}' ELSE handlers END, problems, limits::text,
    CASE WHEN NOT ({LOCKED}) THEN 'dead' WHEN clock_timestamp() - beat_at > {SILENT} THEN 'silent' ELSE 'alive' END
FROM {{schema}}.owners ORDER BY started_at
"""


class Inspection:
    """What `PostgresStore.inspect()` gives: `aether_bg.protocols.Inspection`."""

    def __init__(self, crew: Crew, options: Options, store_id: UUID) -> None:
        self._crew, self._options, self._store_id = crew, options, store_id
        self.schema, self.where = options.schema, options.where

    async def ask(self, question: Callable[[Connection], R]) -> R:
        """Raises a `StoreError` if the server does not answer in time."""
        return await self._crew.do(question, within=_WAIT, limit=PATIENCE)

    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self.ask(partial(queries.find, schema=self.schema, query=query))

    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self.ask(partial(queries.history, schema=self.schema, job_id=job_id, limit=limit))

    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self.ask(partial(listing.runs, schema=self.schema, query=query))

    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self.ask(partial(listing.failures, schema=self.schema, query=query))

    async def store_stats(self) -> Stats:
        return await self.ask(partial(queries.stats, schema=self.schema, store_id=self._store_id))

    async def processes(self) -> list[Process]:
        return await self.ask(partial(processes, schema=self.schema))

    async def purgeable(self, purge: Purge) -> int:
        return await self.ask(partial(queries.purgeable, schema=self.schema, purge=purge))

    async def writable(self) -> None:
        if await self.ask(_is_standby):
            raise StoreReadOnly(self.where, "it is a standby, which only reads", "Name the primary server.")

    async def backup(self, target: Path, progress: Callable[[int, int], object]) -> None:
        raise no_backup(self._options)


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[Inspection]:
    """Raises a `StoreError`, `SchemaMissing` for a database without our tables."""
    link = Link(options.place)
    store_id = await threads.run(_look_at, link, options)
    crew = Crew(link, "inspection", 1, options.where, WayBack())
    try:
        yield Inspection(crew, options, store_id)
    finally:
        await threads.run(crew.stop, 1.0)


def _look_at(link: Link, options: Options) -> UUID:
    with closing(first(link, "inspection", options.where, min(options.connect_for, _WAIT))) as conn:
        link.pooled = is_pooled(conn)
        schema.require(conn, options.schema, options.where)
        return schema.store_id(conn, options.schema, options.where)


def processes(conn: Connection, schema: Schema) -> list[Process]:
    """All that are registered, oldest first."""
    rows = conn.execute(schema(PROCESSES), {"lock_class": schema.lock_class}, binary=True).fetchall()
    return [
        Process(
            id=id_, state=state, host=host, pid=pid, started_at=_utc(started), beat_at=_utc(beat),
            handlers=frozenset(handlers), problems=tuple(problems), limits=from_json(limits),
        )
        for id_, host, pid, started, beat, handlers, problems, limits, state in rows
    ]  # fmt: skip


def no_backup(options: Options) -> Unsupported:
    return Unsupported(
        options.where, "a server's database is backed up by its own tools",
        f"Use pg_dump --schema={options.schema.name}, or your provider's backups.",
    )  # fmt: skip


def _utc(when: datetime) -> datetime:
    return when.astimezone(UTC)


def _is_standby(conn: Connection) -> bool:
    row = conn.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    return bool(row and row[0])
