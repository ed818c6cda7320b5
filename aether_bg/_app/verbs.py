"""The verbs as users call them: documented, typed by overloads, delegating to `jobs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, Literal, Never, Protocol, TypedDict, TypeVar, Unpack, overload
from uuid import UUID

from aether_bg._app.admission import ARGUMENTS
from aether_bg._app.blocks import AsyncBlock
from aether_bg._app.declarations import PART
from aether_bg._app.jobs import Jobs
from aether_bg._app.lateness import overdue, said_by
from aether_bg._app.lifecycle import Run
from aether_bg._app.view import StoreView
from aether_bg._handlers import work
from aether_bg._handlers.work import UnitOfWork
from aether_bg._hooks.plugins import name_of
from aether_bg._rules import options as checks
from aether_bg.errors import NotAnOwner, NotStarted
from aether_bg.model import JobInfo, JobType, Misfire

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
IfExists = Literal["raise", "keep", "replace"]
When = str | datetime | timedelta


class EnqueueOptions(TypedDict, total=False):
    """The keyword-only arguments of `enqueue`, for type checkers."""

    timezone: str | None
    start: datetime | None
    if_exists: IfExists
    repeats: int | None
    until: datetime | None
    misfire: Misfire
    misfire_grace: float


class Handles(Protocol[T_contra]):
    """A handler class whose `handle` takes such a payload, for type checkers."""

    @property
    def handle(self) -> Callable[Concatenate[T_contra, ...], Any]: ...


class Verbs:
    """What an app and a client of it have in common."""

    _run: Run | None

    @property
    def _jobs(self) -> Jobs:
        return self._running.jobs

    @property
    def _running(self) -> Run:
        """For what is awaited: raises `WrongLoop` on another loop or thread (docs/protocol.md, W12)."""
        run = self._started
        run.crossing.check_loop()
        return run

    @property
    def _started(self) -> Run:
        """From any thread. Raises `NotStarted` and `ForkedProcess`."""
        if self._run is None:
            raise NotStarted(repr(self), *self._why_not_started())
        self._run.crossing.check_process()
        return self._run

    def _why_not_started(self) -> tuple[str, str]:
        return "it is not running", "Use it inside `async with app:` or `app.blocking()`."

    @property
    def store(self) -> StoreView:
        """Queries: jobs, their history, statistics."""
        return self._started.view

    @overload
    async def enqueue(
        self, /, handler: type[Handles[T]], job_name: str | None = None, payload: T | Mapping[str, Any] | None = None,
        schedule: When = "@once", metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> UUID: ...  # fmt: skip
    @overload
    async def enqueue(
        self, /, handler: str | JobType[T] | Callable[Concatenate[T, ...], Any], job_name: str | None = None,
        payload: T | Mapping[str, Any] | None = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> UUID: ...  # fmt: skip
    @overload
    async def enqueue(
        self, /, handler: Callable[..., Any], job_name: str | None = None, payload: None = None,
        schedule: When = "@once", metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> UUID: ...  # fmt: skip
    async def enqueue(
        self,
        /,
        handler: Any,
        job_name: str | None = None,
        payload: Any = None,
        schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None,
        *,
        timezone: str | None = None,
        start: datetime | None = None,
        if_exists: IfExists = "raise",
        repeats: int | None = None,
        until: datetime | None = None,
        misfire: Misfire = "once",
        misfire_grace: float = 10,
        **unknown: Never,
    ) -> UUID:
        """Store a job; once this returns it survives `kill -9` and power loss. Returns its id.

        `handler`: a registered name, the handler function or class, or a `JobType`. `job_name`: unique; an idempotency
        key until it is purged (PROTOCOL N); without one a name is made. `payload`: an instance of the handler's type
        or a mapping in its JSON form. `schedule`: see `aether_bg.schedule`; an aware datetime, or a timedelta from
        now. `start`: no occurrence before it; `until`: none after, and a one-shot that has not begun by then expires;
        `repeats`: maximum number of occurrences. `misfire` and `misfire_grace` (seconds): what becomes of occurrences
        missed by more than the grace; a one-shot runs however late, or with "skip" expires. An expired job is
        CANCELLED with "expired" as its error. `if_exists`: what to do when a different job holds the name. The same
        enqueue once more returns the same id, whatever has become of the job; "replace" runs it again if it has FAILED,
        or if its own handler makes the call.

        Raises an `InputError` for arguments that break a rule, `JobConflict` for a held name, a `StoreError` when
        the store is in trouble; nothing has been stored then. Inside a unit of work: durable when that commits.
        """
        checks.unknown_options(unknown, ARGUMENTS)
        return await self._running.enqueues.enqueue(
            handler, job_name, payload, schedule, metadata, timezone=timezone, start=start, if_exists=if_exists,
            repeats=repeats, until=until, misfire=misfire, misfire_grace=misfire_grace,
        )  # fmt: skip

    async def wait(self, job: UUID | str, timeout: float | timedelta | None = None) -> JobInfo:
        """Wait until a job has ended; its row, whatever its status. `timeout`: seconds, or a timedelta.

        Raises `WaitTimeout`, `JobNotFound`, and `NeverEnds` for a recurring job without an end.
        """
        return await self._jobs.wait(job, timeout)

    def unit_of_work(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """`async with`: what is written and enqueued inside the block exists all together or not at all (PROTOCOL W4
        to W9).

        For tables in the jobs' database. An exception inside drops everything. Nested blocks join the outer one.
        """
        remedy = "Write `async with app.unit_of_work() as uow:`; in other threads `with app.sync.unit_of_work():`."
        return AsyncBlock(self._unit_of_work(), "app.unit_of_work()", remedy)

    @asynccontextmanager
    async def _unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        unit, outer = self._running.engine.new_work(), work.joined()
        if outer is not None:
            yield outer
            return
        token = work.current.set(unit)
        try:
            yield unit
        except BaseException:
            unit.close()
            raise
        finally:
            work.current.reset(token)
        await self._commit(unit)

    async def _new_work(self) -> UnitOfWork:
        return self._running.engine.new_work()

    async def _commit(self, unit: UnitOfWork) -> None:
        await self._running.enqueues.commit(unit)

    async def explain(self, job: UUID | str) -> str:
        """Did it run, and if not, why not? In sentences, from the rows. Raises `JobNotFound`."""
        return await self._jobs.explain(job)


class Client(Verbs):
    """Enqueues and queries, on the store of an app elsewhere: no owner, never runs jobs, applies no declarations."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<Client of {self._started.engine.store_id}>"

    def __getattr__(self, name: str) -> Any:
        if name in OWNERS_ONLY:
            raise not_an_owner(name)
        raise AttributeError(name)


OWNERS_ONLY: Final = ("update", "delete", "retry", "trigger", "pause", "resume", "drain", "run", "health")


def not_an_owner(verb: str) -> NotAnOwner:
    return NotAnOwner(f"client.{verb}", "a client only enqueues and queries", "Call it on the app that runs jobs.")


class OwnerVerbs(Verbs):
    """What only those can ask who run jobs themselves."""

    async def update(
        self, /, job: UUID | str, new_schedule: When, *, timezone: str | None = None, **unknown: Never
    ) -> None:
        """Give a job another schedule, from now (PROTOCOL U1). A running attempt goes on. The zone stays unless given.

        Raises `InvalidSchedule`, `JobNotFound`, and `InvalidTransition` for a terminal job.
        """
        checks.unknown_options(unknown, ("new_schedule", "timezone"))
        await self._jobs.update(job, new_schedule, timezone)

    async def delete(self, job: UUID | str) -> bool:
        """Cancel a job; a running attempt is cancelled too and nothing of it counts. True iff it moved the job."""
        return await self._jobs.delete(job)

    async def retry(self, job: UUID | str) -> None:
        """Back from FAILED or CANCELLED: a one-shot due now, a recurring job at its next occurrence."""
        await self._jobs.retry(job)

    async def trigger(self, job: UUID | str) -> None:
        """Run it now: a waiting one-shot or retry at once, a recurring job one extra time (PROTOCOL U3)."""
        await self._jobs.trigger(job)

    async def pause(self, job: UUID | str) -> None:
        """Hold it back, retries included; a running attempt ends normally."""
        await self._jobs.pause(job)

    async def resume(self, job: UUID | str) -> None:
        """Let it go on: overdue one-shots and retries at once, a recurring job from now (PROTOCOL U4)."""
        await self._jobs.resume(job)

    async def drain(self) -> None:
        """Run whatever is due, and what that makes due, until nothing is; whatever the scheduler.

        Raises a `StoreError` when the store is in trouble.
        """
        engine = self._running.engine
        work.outside("drain")
        attempts = engine.attempts
        while True:
            busy, started = attempts.busy, attempts.started
            due = await engine.fire_due()
            if engine.claim_error is not None:
                raise engine.claim_error
            quiet = not busy and started == attempts.started  # else something may have become due meanwhile
            if quiet and (due is None or due > engine.clock.now()):
                return
            if attempts.busy:
                await attempts.room(1.0)

    async def health(self) -> dict[str, Any]:
        """How it is, as plain JSON: `ok`, `owner`, `running`, `stats`, what is wrong by part, pings of dependencies.

        Not ok: the store cannot be read, the scheduler says what is wrong with it, a dependency does not answer, or a
        job whose handler this process has is overdue by more than ten seconds (`problems["overdue"]` names the likely
        cause). `problems` has `handlers` and `schedules` while due jobs wait for a process that has their handler or
        can read their schedule; that alone leaves `ok` True, since this process is well.
        """
        engine = self._running.engine
        try:
            stats: Any = await engine.calls.stats()
            problems = {part: text for part, text in engine.problems.items() if part not in ("handlers", "schedules")}
            problems |= (await engine.unserved.find()).sentences()
            if (late := await overdue(engine)) is not None:
                problems["overdue"] = late
        except Exception as error:
            stats, problems = None, {**engine.problems, "store": f"{type(error).__name__}: {error}"}
        problems.pop(PART, None)  # for as long as it is so, not for a minute
        if undeclared := self._running.declarations.problem:
            problems[PART] = undeclared
        pings = await engine.dependencies.pings()
        scheduler = engine.calls.scheduler
        trouble = said_by(scheduler, "health")
        for part, said in (("scheduler", trouble), ("notice", said_by(scheduler, "notice"))):
            if said is not None:
                problems[part] = said
        wrong = stats is None or trouble is not None or engine.failing("scheduler") or "overdue" in problems
        return {
            "ok": not wrong and not any(pings.values()),
            "owner": str(engine.owner),
            "scheduler": name_of(scheduler),
            "running": [str(attempt) for attempt in engine.attempts.running.values()],
            "stats": None if stats is None else stats.to_dict(),
            "problems": problems,
            "dependencies": pings,
        }
