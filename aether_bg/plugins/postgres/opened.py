"""The store while it is open: its threads, on one event loop, and what they know."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import attrs
import psycopg

from aether_bg.bridge import Threads, WayBack
from aether_bg.errors import StoreError, StoreUnsure
from aether_bg.model import Alive, Call, Claim, Claimed, Heartbeat, Insert, JobInfo, Query, Unreadable, Write
from aether_bg.plugins.postgres import changes, links, owners, queries, schema, steps, trouble
from aether_bg.plugins.postgres.claims import Claims
from aether_bg.plugins.postgres.connections import Connection, Link, is_pooled
from aether_bg.plugins.postgres.places import Place, protection
from aether_bg.plugins.postgres.rows import set_aside
from aether_bg.plugins.postgres.schema import Schema
from aether_bg.plugins.postgres.session import Session
from aether_bg.plugins.postgres.units import Unit
from aether_bg.plugins.postgres.workers import Crew

R = TypeVar("R")
log = logging.getLogger("aether_bg.postgres")
threads = Threads("aether_bg postgres")

OLDEST: Final = 140000
_FENCE: Final = 1.8
"""The number of beat intervals, of which a lease has three, after which a fenced owner gives up its attempts."""
_ANSWER: Final = 2.0
"""Seconds that a busy server may take for the answer to a beat, however short the lease is."""
_APART: Final = 60.0
"""Seconds between two tries to make an index."""


@attrs.frozen(kw_only=True)
class Options:
    """How one store is opened; see `PostgresStore`."""

    place: Place
    schema: Schema
    session: Place | None
    migrate: str
    fence: bool
    connect_for: float
    busy: float
    unit_timeout: float

    @property
    def where(self) -> str:
        return f"database {self.place}"


class Opened:
    """Made by `await Opened.begin(...)`, ended by `await opened.end()`."""

    def __init__(
        self, options: Options, wake: Callable[[], object], report: Callable[[str], object]
    ) -> None:  # fmt: skip
        """`report`: for a problem that has no caller."""
        self.options, self.schema, self.where = options, options.schema, options.where
        self._way, self.pid = WayBack(), os.getpid()
        self.bridge = self._way.bridge
        self.store_id = UUID(int=0)
        self.protection = "local"
        self._wake, self._report = wake, report
        self._link = Link(options.place)
        self._observer = owners.Observer(self.schema)
        self._claims = Claims(self.schema)
        self._index_again: dict[str, float] = {}
        self._in_steps_until = 0.0

    @classmethod
    async def begin(
        cls, options: Options, wake: Callable[[], object], report: Callable[[str], object]
    ) -> Opened:  # fmt: skip
        opened = cls(options, wake, report)
        await threads.run(opened._prepare)
        _all.add(opened)
        return opened

    async def end(self) -> None:
        await threads.run(self._stop)

    def _prepare(self) -> None:
        try:
            self._look_at()
        except psycopg.Error as error:
            raise trouble.translate(error, self.where) from None
        link = self._session_link()
        crew = partial(Crew, self._link, where=self.where, way=self._way)
        self._writers, self._readers, self._units = crew("hot", 2), crew("read", 2), crew("unit", 1)
        self.session = Session(link, self.schema, self.where, lambda: self.bridge.post(self._wake))

    def _look_at(self) -> None:
        with closing(first(self._link, "schema", self.where, self.options.connect_for)) as conn:
            if conn.info.server_version < OLDEST:
                rule = f"the server must be PostgreSQL 14 or newer, it is {conn.info.server_version // 10000}"
                raise StoreError(self.where, rule, "Upgrade the server.")
            if (encoding := conn.info.parameter_status("server_encoding")) != "UTF8":
                raise StoreError(self.where, f"its encoding must be UTF8, it is {encoding}", "Make a database in UTF8.")
            self._link.pooled = is_pooled(conn)
            self._warn(conn)
            if self.options.migrate == "auto":
                schema.migrate(conn, self.schema, self.where, self.options.connect_for)
            elif self.options.migrate == "check":
                schema.require(conn, self.schema, self.where)
            self.store_id = schema.store_id(conn, self.schema, self.where)

    def _session_link(self) -> Link:
        """The session's own way to the server, around a pooler. Raises a `StoreError` if it leads elsewhere."""
        if (place := self.options.session) is None:
            return self._link
        link, where = Link(place), f"database {place} (session=)"
        with closing(first(link, "session", where, self.options.connect_for)) as conn:
            if is_pooled(conn):
                rule = "it must lead to the server itself, not to a pooler"
                raise StoreError(where, rule, "Name the server's own host and port.")
            if schema.store_id(conn, self.schema, where) != self.store_id:
                raise StoreError(where, f"it must be the same database as {self.options.place}", "Name that one.")
        return link

    def _warn(self, conn: Connection) -> None:
        if self._link.pooled and self.options.session is None:
            log.warning(
                "%s: a pooler is in between: jobs of a process that dies wait for its lease, and those that other "
                "processes enqueue start up to a second late. Pass session=, a URL of the server itself.",
                self.where,
            )
        sslmode = next((o.val for o in conn.pgconn.info if o.keyword == b"sslmode"), None) or b"prefer"
        self.protection = protection(conn.info.host, bool(conn.pgconn.ssl_in_use), sslmode.decode())
        if self.protection in ("plain", "encrypted, not verified"):
            log.warning(
                "%s: the connection is %s: others on the network may read or change it. Add sslmode=verify-full and "
                "sslrootcert=system (or a file of certificates) to the URL.", self.where, self.protection,
            )  # fmt: skip

    def _stop(self) -> None:
        for crew in (self._writers, self._units, self._readers):
            crew.stop(self.options.busy + 1)
        self.session.end()
        _all.discard(self)

    # -- work ------------------------------------------------------------------------------------

    async def transact(self, writes: Sequence[Write]) -> list[object]:
        try:
            results = await self._written(writes)
        except BaseException as error:
            if isinstance(error, StoreUnsure) or not isinstance(error, Exception):  # it may be stored all the same
                self._tell(writes)
            raise
        if not (isinstance(writes[0], Insert) and isinstance(results[0], JobInfo)):  # begun: nothing to wake for
            self._tell(writes)
        return results

    async def _written(self, writes: Sequence[Write]) -> list[object]:
        busy, limit = self.options.busy, self.options.unit_timeout
        if any(isinstance(write, Call) for write in writes):
            unit = Unit(self.schema, writes, limit, self.where)
            return await self._units.do(unit.run, within=busy, limit=limit + 1, settle=unit.settle)
        return await self._writers.do(
            partial(self._transact, writes=writes), within=busy, limit=busy,
            settle=partial(changes.happened, schema=self.schema, writes=writes),
        )  # fmt: skip

    def _tell(self, writes: Sequence[Write]) -> None:
        """Something may be due: for this process and for others."""
        if any(write.wakes for write in writes):
            self._claims.forget()
            self.session.notify()

    def _transact(self, conn: Connection, writes: Sequence[Write]) -> list[object]:
        """If jobs waited for the end of others a moment ago, more are likely to: then it takes the longer way at
        once."""
        begins = isinstance(writes[0], Insert) and writes[0].claim is not None
        if begins or time.monotonic() > self._in_steps_until:
            if (results := changes.transact(conn, self.schema, writes)) is not None:
                return results
            self._in_steps_until = time.monotonic() + 1.0
        return steps.transact(conn, self.schema, writes)

    async def write(self, run: Callable[[Connection], R]) -> R:
        return await self._writers.do(run, within=self.options.busy, limit=self.options.busy)

    async def claim(self, claim: Claim) -> Claimed:
        claimed = await self.write(partial(self._claims.claim, claim=claim))
        return attrs.evolve(claimed, jobs=tuple(await self.readable(claimed.jobs)))

    async def find(self, query: Query) -> list[JobInfo]:
        long = query.order in ("newest", "ended")
        found = await self.read(partial(queries.find, schema=self.schema, query=query), long=long)
        for_work = query.owner or query.unarmed or query.changed_after or query.zoned or query.due_before
        return await self.readable(found) if for_work else found

    async def readable(self, jobs: Sequence[JobInfo]) -> list[JobInfo]:
        """Without those that had to be set aside."""
        bad = [job for job in jobs if isinstance(job, Unreadable)]
        if bad:
            for problem in await self.write(partial(set_aside, schema=self.schema, found=bad)):
                self._report(problem)
        return [job for job in jobs if job not in bad] if bad else list(jobs)

    async def read(self, run: Callable[[Connection], R], limit: float | None = None, *, long: bool = False) -> R:
        """`long`: a question that may take long where there are many jobs."""
        ask = self._readers.do_alone if long else self._readers.do
        return await ask(run, within=self.options.busy, limit=limit or self.options.busy)

    async def index(self, name: str) -> None:
        """Make one of `schema.INDEXES`, unless it is there. Where that fails, the answer only takes longer."""
        if time.monotonic() > self._index_again.get(name, 0.0):
            self._index_again[name] = float("inf")
            await threads.run(self._make_index, name)

    def _make_index(self, name: str) -> None:
        try:
            with closing(self._link.connect("schema")) as conn:
                schema.make_index(conn, self.schema, name)
        except psycopg.Error as error:
            self._index_again[name] = time.monotonic() + _APART
            log.info("%s: no index %s yet: %s", self.where, name, trouble.first_line(error))

    async def heartbeat(self, beat: Heartbeat) -> Alive:
        try:
            return await self._heartbeat(beat)
        except StoreError:
            self._observer.forget()
            mine = self.session.owners.get(beat.owner)
            silent = mine is not None and time.monotonic() - mine.last > _FENCE * beat.interval
            if not self.options.fence or not silent or beat.join or beat.leave:
                raise
            self.session.owners.pop(beat.owner)  # another process may have its jobs by now (docs/protocol.md, P10)
            return Alive(store_id=self.store_id, known=False)

    async def _heartbeat(self, beat: Heartbeat) -> Alive:
        session, mine = self.session, self.session.owners.get(beat.owner)
        if beat.join:
            await self._by_session(partial(session.join, beat=beat))
        elif mine is not None and (beat.problems != mine.problems or (beat.stopping and not mine.announced)):
            await self._by_session(partial(session.tell, beat=beat))
        if beat.leave or beat.recovered:
            await self._by_session(partial(session.forget, beat=beat))
        if beat.join or beat.leave or beat.recovered:
            await self._settle_left(beat)
        session.keep(beat)
        soon = beat.interval / 2  # or a fence would notice after the others that nothing is heard
        if not self.options.fence:
            soon = max(soon, _ANSWER)
        alive = await self._readers.do(
            lambda conn: self._observer.look(conn, beat, self.store_id, list(session.owners)),
            within=min(self.options.busy, soon), limit=soon,
        )  # fmt: skip
        mine = session.owners.get(beat.owner)
        return attrs.evolve(alive, known=False) if mine is not None and mine.lost else alive

    async def _settle_left(self, beat: Heartbeat) -> None:
        """What has ended without releasing those that run after it (docs/protocol.md, A6)."""
        if await self.write(partial(links.settle_left, schema=self.schema, now=beat.now)):
            self._claims.forget()
            self.session.notify()
            self._wake()

    async def _by_session(self, run: Callable[[Connection], object]) -> None:
        await threads.run(self.session.ask, run, 2 * self.options.busy)


def first(link: Link, kind: str, where: str, within: float) -> Connection:
    """Waits for a server that is not there yet. Raises a `StoreError`; for a server that cannot be reached, only after
    `within` seconds."""
    deadline, wait = time.monotonic() + within, 0.05
    while True:
        try:
            return link.connect(kind)
        except psycopg.Error as error:
            problem = trouble.refused(error, where)
            if not trouble.passes(problem) or time.monotonic() + wait > deadline:
                raise problem from None  # the driver's own error shows how it was called
        time.sleep(wait)
        wait = min(2 * wait, 1.0)


def migrate(options: Options) -> list[str]:
    """Returns the steps applied. Raises a `StoreError`."""
    with closing(first(Link(options.place), "schema", options.where, options.connect_for)) as conn:
        try:
            return schema.migrate(conn, options.schema, options.where, options.connect_for)
        except psycopg.Error as error:
            raise trouble.translate(error, options.where) from None


_all: weakref.WeakSet[Opened] = weakref.WeakSet()


def _after_fork() -> None:
    for opened in list(_all):
        opened.session.forked()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
