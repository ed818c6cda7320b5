"""Enqueues in the caller's own transaction (docs/protocol.md, W13)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from aether_bg._app.enqueue import Enqueuer, kept_inside
from aether_bg._hooks.connections import unscoped
from aether_bg._rules import validation as checks
from aether_bg._rules.changes import Moment
from aether_bg._rules.commands import release_name
from aether_bg._rules.recurrence import check_comes
from aether_bg.errors import StoreContended, shown
from aether_bg.model import Insert, Insertion, JobInfo, Update

STYLES: Final = ("%s", "$1", ":name")
_TRIES: Final = 3
"""Another commit may take a name at this very moment: the next statement sees the row that has it."""


class OnConnection:
    def __init__(self, enqueuer: Enqueuer) -> None:
        self._enqueuer, self._calls = enqueuer, enqueuer.calls

    async def enqueue(
        self, connection: Any, *arguments: Any, notify: Any = True, if_exists: Any = "raise", **options: Any
    ) -> UUID:
        """Raises what `Aether.enqueue` does, and what the connection's driver raises."""
        self._enqueuer.outside("enqueue(connection=…)")
        connection = unscoped(connection)
        if_exists = checks.one_of("if_exists", if_exists, ("raise", "keep"))
        if not isinstance(notify, bool):
            checks.refuse("notify", notify, "must be True or False")
        job = self._job(*arguments, **options)
        if job.due_at is None:
            if (held := await self._enqueuer.holder(job.job_name)) is not None:  # docs/protocol.md, N0
                return kept_inside(self._calls, held, job, if_exists)
            check_comes(job)
        for _ in range(_TRIES):
            row = await self._calls.write_on(connection, Insert(job), notify=notify)
            if row is None:
                continue
            if row.id == job.id:
                return job.id
            if not row.gives_way_to(job):
                return kept_inside(self._calls, row, job, if_exists)
            release = release_name(row, Moment(job.created_at, job.created_by))
            await self._calls.write_on(connection, Update(release), notify=False)
        raise StoreContended(
            f"job name {shown(job.job_name)}", "other transactions take it and give it up at the same moment",
            "Nothing was stored; your transaction can go on. Try it again.",
        )  # fmt: skip

    def insertion(self, style: Any, *arguments: Any, **options: Any) -> Insertion:
        """The same as one statement, for the caller to run."""
        style = checks.one_of("style", style, STYLES)
        job = self._job(*arguments, **options)
        check_comes(job)
        statement = self._calls.statements([Insert(job)], style)[0]
        return Insertion(statement.sql, statement.params, job.id)

    def _job(self, *arguments: Any, after: Any = None, after_any: Any = False, **options: Any) -> JobInfo:
        if after is not None or after_any:
            checks.refuse(
                "after", after, "must be left out in a transaction of your own", "Enqueue it after the commit."
            )
        return self._enqueuer.admission.job(self._enqueuer.moment(), *arguments, **options)
