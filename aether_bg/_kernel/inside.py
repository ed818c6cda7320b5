"""The outcome of an attempt, written in a transaction of its handler's own (docs/protocol.md, W13)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

import attrs

from aether_bg._handlers import work
from aether_bg._handlers.awaited import Across
from aether_bg._hooks.connections import unscoped
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.commits import was_written
from aether_bg._kernel.notes import Notes, lost
from aether_bg._kernel.shared import Shared
from aether_bg._rules import transitions
from aether_bg._rules.results import Completed
from aether_bg.errors import InsideUnitOfWork, StoreContended, UsageError
from aether_bg.model import JobContext, JobInfo, JobStatus, Update
from aether_bg.model.context import DONE

_TRIES: Final = 5
"""How often the row is read again: verbs may change it while its outcome is being written."""


@attrs.frozen(eq=False)
class Inside:
    _shared: Shared
    _across: Across
    _notes: Notes

    def complete(self, ctx: JobContext, connection: Any) -> Awaitable[None]:
        """An awaitable on the loop; in other threads it is done when this returns."""
        connection = unscoped(connection)
        return self._across(lambda: self._complete(ctx, connection), DONE)

    async def _complete(self, ctx: JobContext, connection: Any) -> None:
        """Writes the outcome; the handler commits it."""
        attempt, shared = self._shared.slots.running.get(ctx.job.id), self._shared
        if attempt is None or attempt.context is not ctx:
            raise UsageError(repr(ctx), "its attempt has ended", "Call complete in the handler, and await it.")
        if attempt.work is not None or work.joined(shared.identity.store_id) is not None:
            raise InsideUnitOfWork(
                "ctx.complete inside a unit of work", "a unit of work is another transaction",
                "Use either: take no UnitOfWork, or let it complete the job.",
            )  # fmt: skip
        if attempt.written is not None:
            raise UsageError(repr(ctx), "it was completed before", "Call complete once, as the last statement.")
        for _ in range(_TRIES):
            job = await self._current(attempt)
            plan = shared.schedules.plan_or_none(job)
            if plan is None:
                raise UsageError(repr(ctx), "its schedule cannot be read here any more", "Return without complete.")
            change = transitions.finish(job, Completed(), plan, shared.clock.moment())
            if (progress := self._notes.unwritten(ctx)) is not None:
                change = attrs.evolve(change.whole, progress=progress)
            withheld = attempt.handler is not None and attempt.handler.returns is not None
            if await shared.calls.write_on(connection, Update(change), notify=True, settle=not withheld) is not None:
                attempt.written, attempt.withheld = change, withheld
                return
        raise StoreContended(repr(ctx), "its row changes all the time", "Roll back; the attempt is tried again.")

    async def check(self, attempt: Attempt) -> None:
        """The handler has returned. Raises `UsageError` unless its transaction is committed."""
        change = attempt.written
        if change is None or not was_written(change, await self._shared.calls.get(attempt.job.id)):
            attempt.written = None
            raise UsageError(
                repr(attempt.context), "complete was called, but its transaction was not committed",
                "Commit before the handler returns.",
            )  # fmt: skip

    async def _current(self, attempt: Attempt) -> JobInfo:
        """The row, which verbs may have changed. Raises `TokenLost` if it no longer belongs to this attempt."""
        job = await self._shared.calls.get(attempt.job.id)
        if job is None or job.seq != attempt.job.seq or job.status is not JobStatus.RUNNING:
            raise lost(attempt.context)
        return job
