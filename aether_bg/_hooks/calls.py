"""The typed façade over `pm.hook`: the only place that calls hooks, with every argument checked by mypy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any
from uuid import UUID

import attrs

from aether_bg import schedule as language
from aether_bg._hooks.codecs import Codecs
from aether_bg._hooks.connections import kind_of
from aether_bg._hooks.plugins import Plugins
from aether_bg.errors import InvalidSchedule, Unsupported, shown
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    Decision,
    Event,
    Failure,
    FailureGroup,
    Failures,
    HandlerInfo,
    Heartbeat,
    JobContext,
    JobInfo,
    JobRun,
    ParamStyle,
    Purge,
    Query,
    Ran,
    Runs,
    Statement,
    Stats,
    Write,
)
from aether_bg.protocols import Kernel, Runner
from aether_bg.schedule import Schedule
from aether_bg.schedule._parse import parse_kept


class Calls:
    """Hooks as methods. Payload codecs are applied here, and nowhere else."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._hook: Any = plugins.pm.hook
        # called for each job: there is one implementation, so pluggy need not look for others
        self._transact: Any = plugins.hook(self.store, "store_transact")
        self._claim: Any = plugins.hook(self.store, "store_claim")
        self._codecs = Codecs(self._collect(self._hook.dispatch_codec()))
        self._coded = bool(self._codecs)
        self.wrapped = bool(self._hook.dispatch_wrap.get_hookimpls())
        self.arms = bool(self._hook.schedule_arm.get_hookimpls())
        self.stamped = bool(self._hook.dispatch_stamp.get_hookimpls())
        self._parsed = bool(self._hook.schedule_parse.get_hookimpls())
        self._decided = bool(self._hook.dispatch_decide.get_hookimpls())

    # -- persistence -----------------------------------------------------------------------------

    async def transact(self, writes: Sequence[Write]) -> Sequence[object]:
        if self._codecs:
            writes = await self._codecs.encoded(writes, self._found)
        results: Sequence[object] = await self._transact(writes=writes)
        return results

    async def claim(self, claim: Claim) -> Claimed:
        claimed: Claimed = await self._claim(claim=claim)
        return claimed

    async def heartbeat(self, beat: Heartbeat) -> Alive:
        alive: Alive = await self._hook.store_heartbeat(beat=beat)
        return alive

    async def find(self, query: Query) -> list[JobInfo]:
        found = await self._found(query)
        return [self.decoded(job) for job in found] if self._codecs else list(found)

    async def find_all(self, query: Query) -> list[JobInfo]:
        """All that match, oldest first, read in pages of its limit."""
        found = page = await self.find(query)
        while len(page) >= query.limit:
            page = await self.find(attrs.evolve(query, after=page[-1].id))
            found += page
        return found

    async def get(self, job_id: UUID) -> JobInfo | None:
        found = await self.find(Query(ids=(job_id,)))
        return found[0] if found else None

    async def _found(self, query: Query) -> Sequence[JobInfo]:
        """The row as it is stored."""
        found: Sequence[JobInfo] = await self._hook.store_find(query=query)
        return found

    async def history(self, job_id: UUID, limit: int = 100) -> list[JobRun]:
        runs: Sequence[JobRun] = await self._hook.store_history(job_id=job_id, limit=limit)
        if not self._codecs or not any(run.has_result for run in runs):
            return list(runs)
        found = await self._found(Query(ids=(job_id,), limit=1))  # purged in the meantime: its history is gone as well
        return [self._codecs.decoded_run(run, job) for job in found for run in runs]

    async def runs(self, query: Runs) -> list[Ran]:
        found: list[Ran] = list(await self._hook.store_runs(query=query))
        if not self._codecs or not any(ran.run is not None and ran.run.has_result for ran in found):
            return found
        ids = tuple(dict.fromkeys(ran.job_id for ran in found))
        jobs = {job.id: job for job in await self._found(Query(ids=ids, limit=len(ids)))}
        return [self._codecs.decoded_ran(ran, jobs[ran.job_id]) for ran in found if ran.job_id in jobs]

    async def failures(self, query: Failures) -> list[FailureGroup]:
        return list(await self._hook.store_failures(query=query))

    async def stats(self) -> Stats:
        stats: Stats = await self._hook.store_stats()
        return stats

    async def purge(self, purge: Purge) -> int:
        gone: int = await self._hook.store_purge(purge=purge)
        return gone

    def statements(self, writes: Sequence[Write], style: ParamStyle) -> Sequence[Statement]:
        """Statements for inserts. Raises `Unsupported` if the store cannot be reached by a connection of the user's."""
        if self._codecs:
            writes = [self._codecs.encoded_write(write, {}) for write in writes]
        return self._statements(writes, style)

    def _statements(self, writes: Sequence[Write], style: ParamStyle) -> Sequence[Statement]:
        made: Sequence[Statement] | None = self._hook.store_statements(writes=writes, style=style)
        if made is None:
            raise Unsupported(
                shown(self.store), "it cannot write on a connection of yours, and none but its own may write to it",
                "Use `async with app.unit_of_work() as uow:`, for tables in the jobs' database.",
            )  # fmt: skip
        return made

    async def write_on(self, connection: Any, write: Write, *, notify: bool, settle: bool = True) -> JobInfo | None:
        """Carries out `write` on the user's connection and returns the row that its statement gives. `settle`: also the
        children of a job that it ends."""
        self._statements([], "%s")
        kind = kind_of(connection, getattr(self.store, "dialect", None))
        answer = None
        writes = await self._codecs.encoded([write], self._found) if self._codecs else [write]
        for statement in self._statements(writes, kind.style):
            if statement.read is None and (answer is None or not (notify if statement.hint else settle)):
                continue
            row = await kind.run(connection, statement)
            if statement.read is not None and row is not None:
                answer = self.decoded(statement.read(row))
        return answer

    @property
    def store(self) -> Any:
        """The plugin that owns the persistence layer."""
        return self._plugins.owners("persistence")[0]

    # -- scheduling ------------------------------------------------------------------------------

    @property
    def scheduler(self) -> Any:
        """The plugin that owns the scheduling layer."""
        return self._plugins.owners("scheduling")[0]

    async def run_scheduler(self, kernel: Kernel) -> None:
        await self._hook.schedule_run(kernel=kernel)

    async def arm(self, job: JobInfo) -> bool:
        return bool(await self._hook.schedule_arm(job=job))

    def parse(self, text: Any, timezone: str | None) -> Schedule:
        """Parses a user's schedule. Raises `InvalidSchedule`."""
        return self._theirs(text, timezone) or parse_kept(text, timezone)

    def load(self, text: str, timezone: str | None) -> Schedule:
        """Reads a stored schedule. Raises `InvalidSchedule` if the plugin that knew it is gone."""
        return self._theirs(text, timezone) or language.load(text, timezone)

    def _theirs(self, text: Any, timezone: str | None) -> Schedule | None:
        if not self._parsed or not isinstance(text, str):
            return None
        try:
            schedule: Schedule | None = self._hook.schedule_parse(text=text, timezone=timezone)
        except InvalidSchedule:
            raise
        except (Exception, SystemExit) as error:
            raise InvalidSchedule(
                text, field=None, reason=f"a schedule plugin failed ({type(error).__name__}: {error})", example="@daily"
            ) from error
        return schedule

    # -- dispatch --------------------------------------------------------------------------------

    def stamp(self, job: JobInfo) -> Mapping[str, Any]:
        merged: dict[str, Any] = {}
        for stamp in self._collect(self._hook.dispatch_stamp(job=job)):
            merged.update(stamp)
        return merged

    def runner(self, handler: HandlerInfo) -> Runner | None:
        runner: Runner | None = self._hook.dispatch_runner(handler=handler)
        return runner

    def wraps(self, ctx: JobContext) -> list[AbstractAsyncContextManager[object]]:
        """Outermost first."""
        return self._collect(self._hook.dispatch_wrap(ctx=ctx)) if self.wrapped else []

    def decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
        if not self._decided:
            return None
        decision: Decision | None = self._hook.dispatch_decide(ctx=ctx, failure=failure)
        return decision

    # -- lifecycle -------------------------------------------------------------------------------

    async def start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        for plugin in self._plugins.in_layer_order():
            if (start := self._plugins.hook(plugin, "lifecycle_start")) is not None:
                wanted = inspect.signature(start).parameters
                await start(**{name: value for name, value in (("kernel", kernel), ("stack", stack)) if name in wanted})

    def observers(self) -> list[Callable[[Event], Any]]:
        """In order of registration, one by one, so that an observer that fails does not keep the event from the
        others."""
        found = (self._plugins.hook(plugin, "lifecycle_event") for plugin in self._plugins.all)
        return [observer for observer in found if observer is not None]

    # -- payload codecs --------------------------------------------------------------------------

    def decoded(self, job: JobInfo) -> JobInfo:
        """For reading: a value that no codec here can decode is shown as `Undecoded`."""
        return self._codecs.decoded(job)

    def to_run(self, job: JobInfo) -> JobInfo:
        """Raises `InvalidPayload` if the codec that knew the payload is gone, or its key."""
        return self._codecs.to_run(job) if self._coded else job

    def encoded_job(self, job: JobInfo) -> JobInfo:
        return self._codecs.encoded_job(job)

    @staticmethod
    def _collect(results: Sequence[Any]) -> list[Any]:
        """pluggy gives the last registered first; here the first registered comes first."""
        return [result for result in reversed(results) if result is not None]
