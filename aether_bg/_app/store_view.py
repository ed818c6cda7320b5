"""`app.store`: reads jobs and their history, typed; and the few writes that concern rows rather than work."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from aether_bg._app.commands import Commands
from aether_bg._app.questions import failures_of, query_of, runs_of
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.kernel import Kernel
from aether_bg._rules import validation as checks
from aether_bg.errors import Unsupported, shown
from aether_bg.model import FailureGroup, Failures, JobInfo, JobRun, JobStatus, Purge, Query, Ran, Runs, Stats


class StoreView:
    """Queries over the store, whichever plugin it is. Every read sees at least what was committed before the call."""

    def __init__(self, kernel: Kernel, commands: Commands, check_loop: Callable[[], None]) -> None:
        self._kernel, self._commands, self._check_loop = kernel, commands, check_loop

    def __repr__(self) -> str:
        return f"<StoreView of {self._kernel.store_id}>"

    @property
    def _calls(self) -> Calls:
        """Raises `WrongLoop` on another loop or thread (docs/protocol.md, W12)."""
        self._check_loop()
        return self._kernel.shared.calls

    async def get(self, id: UUID) -> JobInfo | None:
        """The job with this id, or None."""
        if not isinstance(id, UUID):
            checks.refuse("id", id, "must be a uuid.UUID", "To look up a job by name, use get_by_job_name().")
        return next(iter(await self.find(Query(ids=(id,)))), None)

    async def get_by_job_name(self, name: str) -> JobInfo | None:
        """The job that holds this name, else the newest that had it, else None."""
        return next(iter(await self.find(Query(job_name=name, limit=1))), None)

    async def get_by_handler_name(
        self, name: str, *, limit: int | None = None, after: UUID | None = None
    ) -> list[JobInfo]:
        """All jobs of this kind of work, oldest first. `limit`, `after`: one page, after the job with that id."""
        return await self._pages(Query(handler_name=name, after=after), limit)

    async def get_active(self, *, limit: int | None = None, after: UUID | None = None) -> list[JobInfo]:
        """All SCHEDULED and RUNNING jobs, oldest first. `limit`, `after`: one page, after the job with that id."""
        return await self._pages(Query(status=(JobStatus.SCHEDULED, JobStatus.RUNNING), after=after), limit)

    async def _pages(self, query: Query, limit: int | None) -> list[JobInfo]:
        if limit is not None:
            return await self.find(query, limit=limit)
        return await self._calls.find_all(query_of(query, {}))

    async def find(self, query: Query | None = None, /, **fields: Any) -> list[JobInfo]:
        """Jobs that match a `Query`, or its fields as keywords: find(handler_name="Backup", status=[JobStatus.FAILED]).

        `metadata={"OrderId": 123}` matches top-level keys. Returns at most `limit` jobs, 1,000 by default; for the next
        page pass the last id as `after=`.
        """
        return await self._calls.find(query_of(query, fields))

    async def history(self, job_id: UUID, limit: int = 100) -> list[JobRun]:
        """Attempts and missed occurrences of a job, newest first."""
        if not isinstance(job_id, UUID):
            checks.refuse("job_id", job_id, "must be a uuid.UUID", "To look up a job by name, use get_by_job_name().")
        return await self._calls.history(job_id, checks.whole("limit", limit, least=1))

    async def runs(self, query: Runs | None = None, /) -> list[Ran]:
        """Attempts of all jobs that have ended, the latest first; all fields of `Runs` must hold."""
        return await self._calls.runs(runs_of(query))

    async def failures(self, query: Failures | None = None, /) -> list[FailureGroup]:
        """FAILED jobs, grouped by handler and first line of the error, the group that failed last first."""
        return await self._calls.failures(failures_of(query))

    async def stats(self) -> Stats:
        """Counts by status and handler."""
        return await self._calls.stats()

    async def update_status(
        self, id: UUID, status: JobStatus, handled_time: datetime | None = None, error: str | None = None
    ) -> None:
        """Change a job's status by hand: to SCHEDULED (that is `retry`) or to a terminal state, which revokes a running
        attempt.

        Raises `InvalidTransition` for RUNNING, and from one terminal state to another (docs/protocol.md, U6).
        """
        self._check_loop()
        await self._commands.update_status(id, status, handled_time, error)

    async def purge(
        self,
        status: JobStatus | None = None,
        *,
        older_than: timedelta | None = None,
        keep: int | None = None,
    ) -> int:
        """Delete terminal jobs with their history: of one status or all; ended longer ago than `older_than`; beyond the
        newest `keep`. Returns how many jobs went. Their names are free afterwards."""
        if status is not None and not checks.status(status).terminal:
            checks.refuse(
                "status", status, "must be a terminal one", "Only COMPLETED, FAILED and CANCELLED jobs are purged."
            )
        if older_than is not None:
            if not isinstance(older_than, timedelta):
                checks.refuse("older_than", older_than, "must be a timedelta", "For example: timedelta(days=7).")
            older_than = timedelta(seconds=checks.seconds("older_than", older_than, zero=True))
        if keep is not None:
            checks.whole("keep", keep, least=0)
        before = None if older_than is None else self._kernel.clock.now() - older_than
        gone = 0
        for one in [status] if status is not None else [s for s in JobStatus if s.terminal]:
            purge = Purge(status=one, before=before, keep=keep)
            while (bite := await self._calls.purge(purge)) > 0:
                gone += bite
        return gone

    async def backup(
        self, target: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
    ) -> Path:
        """Copy the store to the new file `target` while it is in use, and verify the copy: it has everything that was
        committed when the call began. Returns the path of the copy.

        `progress(done, total)` is called from time to time, in bytes; if it raises, the backup ends. A `cp` of a live
        file may be old or empty, since the latest commits are in a second file. Raises `InvalidOption` if `target`
        exists, `Unsupported` for a store that has no backup, and a `StoreError`; after an error nothing new is at
        `target`.
        """
        if not isinstance(target, str | os.PathLike) or not os.fspath(target) or "\0" in os.fsdecode(target):
            checks.refuse("target", target, "must be the path of a new file", 'For example: "backup.db".')
        if progress is not None and not callable(progress):
            checks.refuse("progress", progress, "must be a function", "For example: print.")
        store = self._calls.store
        if (backup := getattr(store, "backup", None)) is None:
            raise Unsupported(
                f"backup with {shown(store)}", "this store has no backup", "Use the tools of its database."
            )
        path = Path(os.fsdecode(target))
        checks.path("target", path)
        await backup(path, progress or _silent)
        return path


def _silent(done: int, total: int) -> None: ...
