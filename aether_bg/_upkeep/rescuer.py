"""Puts back the jobs of dead owners, and jobs lost within this process (docs/protocol.md, C5, P3 and R3)."""

from __future__ import annotations

import logging
from uuid import UUID

import attrs

from aether_bg._kernel.journal import Journal
from aether_bg._kernel.shared import Shared
from aether_bg._rules import transitions
from aether_bg._rules.results import LEAST_CRASHES, Lost, Released
from aether_bg._upkeep.standstill import Standstill
from aether_bg.explain import first_line
from aether_bg.model import Alive, Change, JobInfo, JobStatus, Query, Recovered
from aether_bg.model.job import log_fields

log = logging.getLogger("aether_bg")


@attrs.define(kw_only=True, eq=False)
class Rescuer:
    _shared: Shared
    _journal: Journal
    _standstill: Standstill
    _strays: set[tuple[UUID, int]] = attrs.field(factory=set, init=False)
    """Jobs that this owner held in the store at the last check, but that do not run here."""

    def forget(self) -> None:
        """Drops the observations of other owners: a check failed, or came too late."""
        self._standstill.forget()

    async def look(self, alive: Alive) -> tuple[UUID, ...]:
        """Takes back the jobs of dead owners; returns these owners."""
        me, now = self._shared.identity.owner, self._shared.clock.monotonic()
        dead = {*alive.dead, *self._standstill.expired(alive.beats, me, now)} - {me}
        for owner in dead:
            await self.recover(owner, stopped=owner in alive.stopping)
        return tuple(dead)

    async def recover(self, owner: UUID, *, stopped: bool) -> None:
        """Takes back all jobs of this owner. `stopped`: it had begun to stop, so nothing crashed."""
        taken: list[JobInfo] = []
        failed = 0
        while rows := await self._shared.calls.find(Query(owner=owner, limit=500)):
            for row in rows:
                if (change := await self._take_back(row, owner, stopped)) is not None:
                    taken.append(row)
                    failed += change.status is JobStatus.FAILED
        if taken:
            log.log(
                logging.INFO if stopped else logging.WARNING,
                "owner %s %s: %d of its jobs taken back, of which %d failed for good; first %s (%s)",
                owner, "was stopped" if stopped else "has died", len(taken), failed, taken[0].handler_name,
                taken[0].job_name, extra={"owner": str(owner), "jobs": len(taken)},
            )  # fmt: skip

    async def _take_back(self, row: JobInfo, owner: UUID, stopped: bool) -> Change | None:
        """An attempt that a stop interrupted does not count; a crash counts, apart from retries (docs/protocol.md, S7
        and R3)."""
        moment, name = self._shared.clock.moment(), row.handler_name
        retries = self._shared.handlers.compiled(name).info.retries if name in self._shared.handlers else 0
        lost = Lost(
            error=f"Crashed: the process that ran it (owner {owner}) died", retry_at=moment.now,
            cap=max(retries, LEAST_CRASHES),
        )  # fmt: skip
        result = Released(begun=True) if stopped else lost
        plan = self._shared.schedules.plan_or_none(row)
        change = await self._shared.schedules.aside(transitions.finish, row, result, plan, moment)
        if not await self._journal.try_update(change):
            return None
        if change.status is JobStatus.FAILED:
            why = first_line(change.last_error)
            log.error("%s (%s): failed for good: %s", name, row.job_name, why, extra=log_fields(row))
        self._shared.observers.emit(Recovered(row, change.runs[0]))
        return change

    async def compare(self, alive: Alive, known: set[tuple[UUID, int]]) -> None:
        """Compares what this owner holds in the store with what runs here; `known`: what ran before the beat."""
        held, running, recording = set(alive.running), self._shared.slots.running, self._shared.slots.recording
        for job_id, seq in known - held:  # running here, but no longer this owner's in the store: the token is lost
            attempt = running.get(job_id)
            if attempt is not None and attempt.job.seq == seq and job_id not in recording and attempt.written is None:
                attempt.revoke()
        now = {(job_id, attempt.job.seq) for job_id, attempt in running.items()}
        strays = {stray for stray in held - now - known if stray[0] not in recording}
        for job_id, seq in strays & self._strays:  # seen twice: not a claim in progress, but a lost one (C5)
            await self._release(job_id, seq)
        self._strays = strays

    async def _release(self, job_id: UUID, seq: int) -> None:
        job = await self._shared.calls.get(job_id)
        if job is not None and job.seq == seq and job.status is JobStatus.RUNNING:
            text = f"released {job.job_name!r}: claimed here, but not running"
            self._shared.problems.report("heartbeat", text, job)
            await self._journal.try_update(transitions.put_back(job, self._shared.clock.moment()))
