"""Rows as the verbs know them: found by id or name, saved under their guards, told to those who wait."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import attrs

from aether_bg._kernel.engine import Engine
from aether_bg._rules.occurrences import Plan
from aether_bg.errors import InvalidOption, InvalidSchedule, JobNotFound, Stale, shown
from aether_bg.model import Altered, Change, Definition, JobInfo, Query, Update


class Rows:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def try_save(self, job: JobInfo, change: Change, verb: str) -> bool:
        try:
            await self.save(job, change, verb)
        except Stale:
            return False
        return True

    async def save(self, job: JobInfo, change: Change, verb: str) -> None:
        engine = self._engine
        await engine.writes.write(Update(change))
        engine.settled(change)
        engine.arm(change.job_id)
        if engine.events.observed:
            engine.events.emit(Altered((await self.find(job.id)), verb))

    async def look(self, job: UUID | str) -> JobInfo | None:
        found = await self._engine.calls.find(_query(job))
        return found[0] if found else None

    def plan_of(self, job: JobInfo) -> Plan | None:
        """None where its schedule cannot be read here."""
        try:
            return self._engine.plan(job)
        except InvalidSchedule:
            return None

    async def find(self, job: UUID | str) -> JobInfo:
        row = await self.look(job)
        if row is None:
            raise _not_found(job)
        return row


def _query(job: UUID | str) -> Query:
    if isinstance(job, UUID):
        return Query(ids=(job,))
    if isinstance(job, str):
        return Query(job_name=job, limit=1)
    raise InvalidOption(f"job={shown(job)}", "is a job's id (uuid.UUID) or its name", "Pass what enqueue returned.")


def _not_found(job: UUID | str) -> JobNotFound:
    remedy = "Was it purged? app.store.find() lists jobs."
    if isinstance(job, str):
        with suppress(ValueError):
            remedy = f"It looks like an id, and text is taken for a name: pass uuid.UUID({str(UUID(job))!r})."
    return JobNotFound(f"job {shown(str(job))}", "there is no such job", remedy)


def definition_of(job: JobInfo) -> Definition:
    return Definition(**{field.name: getattr(job, field.name) for field in attrs.fields(Definition)})
