"""For front ends, the command line and the page: reads, and the verbs of an app, on behalf of a person."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import attrs

from aether_bg._app import declarations
from aether_bg._app.client import Client
from aether_bg._app.session import Session
from aether_bg._hooks.calls import Calls
from aether_bg._hooks.listed import full_name, hooks_of
from aether_bg._kernel.tasks import Spawn, spawner
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.settings import Options, acting

if TYPE_CHECKING:
    from aether_bg._app.aether import Aether
    from aether_bg._app.commands import Commands
    from aether_bg._app.verbs import Verbs
    from aether_bg.model import Alive, JobInfo
    from aether_bg.schedule import Schedule, Upcoming

__all__ = [
    "Client",
    "Operator",
    "Spawn",
    "acting_as",
    "coming",
    "full_name",
    "hooks_of",
    "operating",
    "operator_of",
    "spawner",
]


@attrs.frozen
class Operator:
    """`verbs`: update, delete, retry, trigger, pause and resume, as guarded writes; processes that run jobs see them
    just as they see each other's."""

    _session: Session

    @property
    def verbs(self) -> Commands:
        return self._session.commands

    @property
    def calls(self) -> Calls:
        """Every hook, with payloads decoded."""
        return self._session.kernel.shared.calls

    @property
    def handlers(self) -> Sequence[str]:
        """Those of this process, by name."""
        return list(self._session.kernel.shared.handlers)

    @property
    def options(self) -> Options:
        return self._session.kernel.options

    @property
    def owner(self) -> UUID | None:
        """This process, if it runs jobs."""
        return None if self._session.kernel.client else self._session.kernel.owner

    def now(self) -> datetime:
        return self._session.kernel.clock.now()

    async def alive(self) -> Alive:
        """Which processes run jobs now."""
        return await self._session.upkeep.heartbeats.others()

    async def gone(self, app: Aether) -> list[JobInfo]:
        """Jobs that were declared, and that neither `app` nor a living process declares now (docs/protocol.md, N9)."""
        known = {arguments["job_name"] for arguments in app.registration.declared}
        return await declarations.gone(self._session.kernel, known | (await self.alive()).declared)

    async def end_gone(self, job: JobInfo) -> bool:
        """Cancels it, with the reason. False: it has changed in the meantime."""
        return await declarations.end(self._session.kernel, job)


@asynccontextmanager
async def operating(app: Aether) -> AsyncIterator[Operator]:
    """Opens `app`'s store without an owner row, declarations or a scheduler: a client with an owner's verbs."""
    async with app._session_of(client=True) as session:
        yield Operator(session)


def operator_of(app: Verbs) -> Operator:
    """For an app or a client that is running, on its event loop. Raises `NotStarted` and `WrongLoop`."""
    return Operator(app._running)


def coming(schedule: Schedule, job: JobInfo, now: datetime, count: int) -> list[Upcoming]:
    """The next occurrences of a job, within its bounds, as previews."""
    plan, after = Plan.of(schedule, job), now
    if job.start is not None:
        after = max(after, job.start - timedelta(microseconds=1))
    found = schedule.upcoming(count, after=after, anchor=plan.origin)
    return [one for one in found if job.until is None or one.at <= job.until]


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Inside this block, the audit fields name `name`, whatever the app's `actor` says."""
    token = acting.set(name)
    try:
        yield
    finally:
        acting.reset(token)
