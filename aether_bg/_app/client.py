"""Clients, which only enqueue and query, and the verbs that only an app has."""

from __future__ import annotations

from typing import Any, Final, Never
from uuid import UUID

from aether_bg._app.argument_types import Kind, When
from aether_bg._app.declarations import PART
from aether_bg._app.session import Session
from aether_bg._app.verbs import Verbs
from aether_bg._handlers import work
from aether_bg._rules import validation as checks
from aether_bg.errors import NotAnOwner

OWNERS_ONLY: Final = (
    "update", "delete", "retry", "trigger", "pause", "resume", "drain", "run", "health", "start", "stop",
)  # fmt: skip


class OnlyClient:
    """Says why a verb of an app is missing."""

    def __getattr__(self, name: str) -> Any:
        if name in OWNERS_ONLY:
            remedy = "Call it on the app that runs jobs."
            raise NotAnOwner(f"client.{name}", "a client only enqueues and queries", remedy)
        raise AttributeError(name)


class Client(OnlyClient, Verbs):
    """Enqueues and queries on the store of an app elsewhere: no owner, never runs jobs, applies no declarations."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<Client of {self._started.kernel.store_id}>"


class OwnerVerbs(Verbs):
    """Verbs that only an app has, since it runs jobs itself."""

    async def update(
        self, /, job: UUID | str, new_schedule: When, *, timezone: str | None = None, **unknown: Never
    ) -> None:
        """Give a job another schedule, from now (docs/protocol.md, U1). A running attempt goes on. Without `timezone`
        the zone stays.

        Raises `InvalidSchedule`, `JobNotFound`, and `InvalidTransition` for a terminal job.
        """
        checks.unknown_options(unknown, ("new_schedule", "timezone"))
        await self._commands.update(job, new_schedule, timezone)

    async def delete(self, job: UUID | str) -> bool:
        """Cancel a job; a running attempt is cancelled too and nothing of it counts. True if this call changed the
        job."""
        return await self._commands.delete(job)

    async def retry(self, job: UUID | str) -> None:
        """Back from FAILED or CANCELLED: a one-shot is due now, a recurring job at its next occurrence."""
        await self._commands.retry(job)

    async def trigger(self, job: UUID | str) -> None:
        """Run it now: a waiting one-shot or retry at once, a recurring job one extra time (docs/protocol.md, U3)."""
        await self._commands.trigger(job)

    async def pause(self, job: UUID | str | None = None, *, handler: Kind | None = None) -> None:
        """Hold a job back, retries included; a running attempt ends normally. Or hold all jobs of a handler, future
        ones included, in every process, until it is resumed (docs/protocol.md, L3); `trigger` still runs a job once.

        `handler`: a name, the function or class, or a `JobType`; it need not be registered here. Give one of the two.
        Raises `JobNotFound`, `InvalidTransition` for a terminal job, and `InvalidOption`.
        """
        await self._commands.pause(job, handler)

    async def resume(self, job: UUID | str | None = None, *, handler: Kind | None = None) -> None:
        """Let a job go on: overdue one-shots and retries at once, a recurring job from now (docs/protocol.md, U4). Or a
        handler: its due jobs are claimed as after a time without a process, by their misfire policy (docs/protocol.md,
        L3). Jobs that are paused themselves stay paused. Raises as `pause`."""
        await self._commands.resume(job, handler)

    async def drain(self) -> None:
        """Run what is due, and what that makes due, until nothing is due; with any scheduler.
        Not in a handler, which it would wait for.

        Raises a `StoreError` when the store is in trouble.
        """
        kernel = self._running.kernel
        work.outside("drain", kernel.store_id)
        await kernel.drain()

    async def health(self) -> dict[str, Any]:
        """The state of this app as plain JSON: `ok`, `owner`, `running`, `stats`, problems by part, pings of
        dependencies.

        Not ok: the store cannot be read, the scheduler reports a problem, a dependency does not answer, or a job whose
        handler this process has is overdue by more than ten seconds (`problems["overdue"]` names the likely cause).
        `problems` has `handlers` and `schedules` while due jobs wait for a process that has their handler or can read
        their schedule; that alone leaves `ok` True, since this process is well. `stats` of more than 100,000 jobs may
        be ten seconds old.
        """
        session = self._running
        return await session.upkeep.health.report({PART: session.declarations.problem})
