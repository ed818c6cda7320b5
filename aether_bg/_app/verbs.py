"""What an app and its clients have in common, as users call it: documented and typed; `enqueue` and `commands` do the
work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, Never, TypeVar, Unpack, overload
from uuid import UUID

from aether_bg._app.admission import ARGUMENTS, ENQUEUE_OPTIONS
from aether_bg._app.argument_types import After, EnqueueOptions, Handles, IfExists, When
from aether_bg._app.blocks import AsyncBlock
from aether_bg._app.commands import Commands
from aether_bg._app.following import OnProgress
from aether_bg._app.new_job import NewJob
from aether_bg._app.session import Session
from aether_bg._app.store_view import StoreView
from aether_bg._handlers import work
from aether_bg._handlers.work import UnitOfWork
from aether_bg._rules import validation as checks
from aether_bg.errors import NotStarted
from aether_bg.model import Insertion, JobInfo, JobType, Misfire, ParamStyle

T = TypeVar("T")
_RAISE: Final = "raise"
_ONCE: Final = "once"
_GRACE: Final = 10
_NO_JITTER: Final = 0


class Verbs:
    """What an app and a client of it have in common."""

    _session: Session | None

    @property
    def _commands(self) -> Commands:
        return self._running.commands

    @property
    def _running(self) -> Session:
        """For verbs that are awaited: raises `WrongLoop` on another loop or thread (docs/protocol.md, W12)."""
        session = self._session or self._started
        session.crossing.check_loop()
        return session

    @property
    def _started(self) -> Session:
        """From any thread. Raises `NotStarted` and `ForkedProcess`."""
        if self._session is None:
            raise NotStarted(repr(self), *self._why_not_started())
        self._session.crossing.check_process()
        return self._session

    def _why_not_started(self) -> tuple[str, str]:
        return "it is not running", "Use it inside `async with app:` or `app.blocking()`."

    @property
    def store(self) -> StoreView:
        """Queries: jobs, their history, statistics."""
        return self._started.store

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
        if_exists: IfExists = _RAISE,
        repeats: int | None = None,
        until: datetime | None = None,
        misfire: Misfire = _ONCE,
        misfire_grace: float = _GRACE,
        jitter: float | timedelta = _NO_JITTER,
        priority: int | None = None,
        unique_for: float | timedelta | None = None,
        after: After | None = None,
        after_any: bool = False,
        connection: Any = None,
        notify: bool = True,
        **unknown: Never,
    ) -> UUID:
        """Store a job; once this returns it survives `kill -9` and power loss. Returns its id.

        `handler`: a registered name, the handler function or class, or a `JobType`. `job_name`: unique; an idempotency
        key until the job is purged (docs/protocol.md, N); without one a name is made. `payload`: an instance of the
        handler's type or a mapping in its JSON form. `priority`: -100 to 100; among due jobs, higher goes first
        (docs/protocol.md, L5); None: the handler's, or 0 if the handler is not known.

        `schedule`: see `aether_bg.schedule`; an aware datetime, or a timedelta from now. `start`: no occurrence before
        it; `until`: none after it, and a one-shot that has not begun by then expires; `repeats`: maximum number of
        occurrences. `jitter`: seconds, or a timedelta: each occurrence is due later by a share of it that the job's
        name decides, always before the next one. `misfire` and `misfire_grace` (seconds): what happens to occurrences
        missed by more than the grace; a one-shot runs however late it is, or expires with "skip". An expired job is
        CANCELLED with "expired" as its error.

        `if_exists`: what to do when a different job holds the name. To enqueue the same job again returns the same id,
        whatever its status; "replace" runs it again if it has FAILED, or if its own handler makes the call.
        `unique_for`: seconds, or a timedelta, for which the name is held after the job's end; 0: only while it waits or
        runs; None: until it is purged (docs/protocol.md, N10).

        `after`: ids or names of jobs, or `JobInfo`s; the job runs when all of them are COMPLETED, and is CANCELLED if
        one fails for good; with `after_any`, it runs when all have ended, whatever their status (docs/protocol.md, A).

        `connection`: of psycopg, asyncpg or SQLAlchemy (a session too, sync or async), to the database of a PostgreSQL
        store. The job is written in your transaction, and exists when you commit (docs/protocol.md, W13); "replace" is
        not possible. `notify=False`: without a NOTIFY; processes see the job within a second.

        Raises an `InputError` for arguments that break a rule, `JobNotFound` for a job of `after` that does not exist,
        `JobConflict` for a held name, a `StoreError` when the store is in trouble; then nothing has been stored. Inside
        a unit of work, the job is durable when that commits.
        """
        if unknown:
            checks.unknown_options(unknown, (*ARGUMENTS, "connection", "notify"))
        if (
            timezone is None and start is None and if_exists is _RAISE and repeats is None and until is None
            and misfire is _ONCE and misfire_grace is _GRACE and jitter is _NO_JITTER and priority is None
            and unique_for is None and after is None and after_any is False and connection is None
        ):  # fmt: skip
            return await self._running.enqueuer.enqueue(handler, job_name, payload, schedule, metadata)
        arguments = (handler, job_name, payload, schedule, metadata)
        options: dict[str, Any] = {
            "timezone": timezone, "start": start, "if_exists": if_exists, "repeats": repeats, "until": until,
            "misfire": misfire, "misfire_grace": misfire_grace, "jitter": jitter, "priority": priority,
            "unique_for": unique_for, "after": after, "after_any": after_any,
        }  # fmt: skip
        if connection is not None:
            return await self._running.on_connection.enqueue(connection, *arguments, notify=notify, **options)
        return await self._running.enqueuer.enqueue(*arguments, **options)

    def insertion(
        self, /, handler: Any, job_name: str | None = None, payload: Any = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, *, style: ParamStyle = "%s", **options: Any,
    ) -> Insertion:  # fmt: skip
        """An enqueue as one SQL statement for a connection of your own, to the database of a PostgreSQL store: `.sql`,
        `.params`, `.id` (docs/protocol.md, W13). Writes nothing. From any thread.

        `style`: how your driver marks parameters: "%s" (psycopg), "$1" (asyncpg) or ":name" (SQLAlchemy's `text`). The
        other arguments as for `enqueue`, except `if_exists`: the statement stores nothing if the name is held.

        Raises an `InputError`, and `Unsupported` for a store without such statements.
        """
        allowed = tuple(name for name in ENQUEUE_OPTIONS if name != "if_exists")
        checks.unknown_options({name: value for name, value in options.items() if name not in allowed}, allowed)
        arguments = (handler, job_name, payload, schedule, metadata)
        return self._started.on_connection.insertion(style, *arguments, **options)

    async def enqueue_many(self, items: Iterable[NewJob | Mapping[str, Any]], /) -> list[UUID]:
        """Store all of these jobs in one commit, or none. Returns their ids, in order.

        `items`: `NewJob`s, or mappings of `enqueue`'s arguments: `{"handler": "SendMail", "payload": mail}`; at most
        100,000. They have the effect of one `enqueue` after the other: the second item with a name finds the first
        (docs/protocol.md, N8). For other writes in the same commit use `unit_of_work`.

        Raises as `enqueue`; the message begins with the item at fault, counted from 0: `items[3]: …`.
        """
        return await self._running.many.enqueue(items)

    async def wait(
        self, job: UUID | str, timeout: float | timedelta | None = None, *, on_progress: OnProgress | None = None
    ) -> JobInfo:
        """Wait until a job has ended; returns its row, whatever its status. `timeout`: seconds, or a timedelta.

        `on_progress`: a function, async or not, that is called on the app's event loop with each `Progress` as the
        handler reports it; if another process runs the job, about once a second with what is stored. If it raises, the
        wait ends, not the job.

        Raises `WaitTimeout`, `JobNotFound`, and `NeverEnds` for a recurring job without an end.
        """
        return await self._commands.wait(job, timeout, on_progress)

    async def result(self, job: UUID | str | JobInfo, timeout: float | timedelta | None = None) -> Any:
        """Wait until a job has ended; returns what its handler returned, if that keeps results: of the annotated type
        if the handler is registered here, else a JSON value. For a recurring job with an end: the result of its last
        completed occurrence. `timeout`: seconds, or a timedelta.

        Raises `JobFailed` for a job that is FAILED or CANCELLED, `NoResult` if no result was kept, and what `wait`
        raises.
        """
        return await self._commands.result(job, timeout)

    def unit_of_work(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """`async with`: what is written and enqueued inside the block exists all together or not at all
        (docs/protocol.md, W4 to W9).

        For tables in the jobs' database. An exception inside drops everything. Nested blocks join the outer one.
        """
        remedy = "Write `async with app.unit_of_work() as uow:`; in other threads `with app.sync.unit_of_work():`."
        return AsyncBlock(self._unit_of_work(), "app.unit_of_work()", remedy)

    @asynccontextmanager
    async def _unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        kernel = self._running.kernel
        if (outer := work.joined(kernel.store_id)) is not None:
            yield outer
            return
        with work.entered(kernel.new_work()) as unit:
            yield unit
        await self._commit(unit)

    async def _new_work(self) -> UnitOfWork:
        return self._running.kernel.new_work()

    async def _commit(self, unit: UnitOfWork) -> None:
        await self._running.enqueuer.commit(unit)

    async def explain(self, job: UUID | str) -> str:
        """Did it run, and if not, why not? Answers in sentences, from the rows. Raises `JobNotFound`."""
        return await self._commands.explain(job)
