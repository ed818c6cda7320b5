"""What the page shows: a running app, a client of it, an operator's session, or a store that is only read."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio
import attrs

from aether_bg import Aether
from aether_bg import schedule as language
from aether_bg._app.operator import Client, Operator, operator_of
from aether_bg.errors import InvalidOption, InvalidSchedule, shown
from aether_bg.explain import Around, explain
from aether_bg.model import FailureGroup, Failures, HandlerInfo, JobInfo, JobRun, Process, Query, Ran, Runs, Stats
from aether_bg.protocols import Inspection
from aether_bg.schedule import Schedule


class Reader(Protocol):
    """What the screens read. `me`: the owner that this process is, if it runs jobs."""

    @property
    def me(self) -> UUID | None: ...
    async def find(self, query: Query) -> Sequence[JobInfo]: ...
    async def history(self, job_id: UUID, limit: int) -> Sequence[JobRun]: ...
    async def runs(self, query: Runs) -> Sequence[Ran]: ...
    async def failures(self, query: Failures) -> Sequence[FailureGroup]: ...
    async def stats(self) -> Stats: ...
    async def processes(self) -> list[Seen]: ...
    async def explain(self, job: JobInfo) -> str: ...
    def schedule(self, job: JobInfo) -> Schedule | None: ...
    def now(self) -> datetime: ...


@attrs.frozen
class Seen:
    """A process that runs jobs; what its store does not keep is None."""

    id: UUID
    state: str
    name: str | None = None
    started_at: datetime | None = None
    beat_at: datetime | None = None
    handlers: frozenset[str] | None = None
    problems: tuple[str, ...] = ()
    limits: Mapping[str, int] = attrs.field(factory=dict)

    @classmethod
    def of(cls, one: Process) -> Seen:
        return cls(
            one.id, one.state, one.name, one.started_at, one.beat_at, one.handlers, one.problems, one.limits
        )  # fmt: skip


class Source:
    """`writable`: actions are possible. `app`: the app, if there is one; `store`: its store. `gate`: long questions are
    asked one at a time, by all pages on the same jobs: a store has few connections, and jobs need them too."""

    gate: anyio.Lock
    writable: bool = False
    app: Aether | None = None
    store: Any = None

    def open(self) -> AbstractAsyncContextManager[Reader]:
        raise NotImplementedError

    @property
    def operator(self) -> Operator:
        raise NotImplementedError

    @property
    def file(self) -> str:
        """The argument for the command line."""
        path = getattr(self.store, "path", None)
        return "DB" if path is None else shlex.quote(str(path))

    @property
    def handlers(self) -> Mapping[str, HandlerInfo]:
        """Those of this process."""
        return {} if self.app is None else {name: self.app.handlers.compiled(name).info for name in self.app.handlers}


_gates: WeakKeyDictionary[Any, anyio.Lock] = WeakKeyDictionary()


def source_of(jobs: Any) -> Source:
    """Raises `InvalidOption`."""
    source = _source_of(jobs)
    try:
        source.gate = _gates.setdefault(jobs, anyio.Lock())
    except TypeError:  # it cannot be a key
        source.gate = anyio.Lock()
    return source


def _source_of(jobs: Any) -> Source:
    if isinstance(jobs, Aether):
        return _OfApp(jobs, lambda: operator_of(jobs), writable=True)
    if isinstance(jobs, Client):
        return _OfApp(None, lambda: operator_of(jobs), writable=False)
    if isinstance(jobs, Operator):
        return _OfApp(None, lambda: jobs, writable=True)
    if all(callable(getattr(jobs, f"store_{name}", None)) for name in ("find", "runs")) and hasattr(jobs, "processes"):
        return _OfStore(jobs, lambda: _as_it_is(jobs))
    if callable(getattr(jobs, "inspect", None)) and callable(getattr(jobs, "store_find", None)):
        return _OfStore(jobs, jobs.inspect)
    raise InvalidOption(
        shown(jobs), "must be an Aether, a client of one, or a store that has `inspect()`",
        'For example: dashboard(Aether("jobs.db"), allow=is_admin).', name="jobs",
    )  # fmt: skip


# -- a running app, a client, an operator ----------------------------------------------------------


class _OfApp(Source):
    def __init__(self, app: Aether | None, operator: Callable[[], Operator], *, writable: bool) -> None:
        self.app, self._operator, self.writable = app, operator, writable

    @property
    def operator(self) -> Operator:
        return self._operator()

    @property
    def store(self) -> Any:
        return self.app.calls.store if self.app is not None else self._operator().calls.store

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Reader]:
        yield _Live(self._operator())


@attrs.frozen
class _Live:
    _operator: Operator

    @property
    def me(self) -> UUID | None:
        return self._operator.owner

    async def find(self, query: Query) -> Sequence[JobInfo]:
        return await self._operator.calls.find(query)

    async def history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self._operator.calls.history(job_id, limit)

    async def runs(self, query: Runs) -> Sequence[Ran]:
        return await self._operator.calls.runs(query)

    async def failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self._operator.calls.failures(query)

    async def stats(self) -> Stats:
        return await self._operator.calls.stats()

    async def processes(self) -> list[Seen]:
        """From the store's own list, if it has one; otherwise those that give signs of life."""
        store = self._operator.calls.store
        if callable(inspect := getattr(store, "inspect", None)):
            async with inspect() as inspection:
                return [Seen.of(process) for process in await inspection.processes()]
        alive, me = await self._operator.alive(), self._operator.owner
        dead = set(alive.dead)
        mine = frozenset(self._operator.handlers)
        return [
            Seen(owner, "dead" if owner in dead else "alive", "this process" if owner == me else None,
                 handlers=mine if owner == me else None)
            for owner in alive.beats
        ]  # fmt: skip

    async def explain(self, job: JobInfo) -> str:
        return await self._operator.verbs.explain(job.id)

    def schedule(self, job: JobInfo) -> Schedule | None:
        try:
            return self._operator.calls.load(job.expression_value, job.timezone)
        except InvalidSchedule:
            return None

    def now(self) -> datetime:
        return self._operator.now()


# -- a store that is only read ---------------------------------------------------------------------


@asynccontextmanager
async def _as_it_is(inspection: Any) -> AsyncIterator[Any]:
    yield inspection


class _OfStore(Source):
    def __init__(self, store: Any, inspect: Callable[[], AbstractAsyncContextManager[Inspection]]) -> None:
        self.store, self._inspect = store, inspect

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Reader]:
        async with self._inspect() as inspection:
            yield _Inspected(inspection)


@attrs.frozen
class _Inspected:
    _inspection: Any
    me: UUID | None = None

    async def find(self, query: Query) -> Sequence[JobInfo]:
        found: Sequence[JobInfo] = await self._inspection.store_find(query)
        return found

    async def history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        found: Sequence[JobRun] = await self._inspection.store_history(job_id, limit)
        return found

    async def runs(self, query: Runs) -> Sequence[Ran]:
        found: Sequence[Ran] = await self._inspection.store_runs(query)
        return found

    async def failures(self, query: Failures) -> Sequence[FailureGroup]:
        found: Sequence[FailureGroup] = await self._inspection.store_failures(query)
        return found

    async def stats(self) -> Stats:
        stats: Stats = await self._inspection.store_stats()
        return stats

    async def processes(self) -> list[Seen]:
        return [Seen.of(process) for process in await self._inspection.processes()]

    async def explain(self, job: JobInfo) -> str:
        around, schedule = Around.of(await self._inspection.processes()), self.schedule(job)
        if schedule is None:
            around = attrs.evolve(around, readable=False)
        if job.waits_for:
            around = attrs.evolve(around, parents=await self.find(Query(parents_of=job.id, limit=job.parents)))
        return explain(job, await self.history(job.id, 10), now=self.now(), around=around, schedule=schedule)

    def schedule(self, job: JobInfo) -> Schedule | None:
        try:
            return language.load(job.expression_value, job.timezone)
        except InvalidSchedule:
            return None

    def now(self) -> datetime:
        return datetime.now(UTC)
