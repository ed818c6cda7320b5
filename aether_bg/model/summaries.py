"""Questions about all jobs at once: attempts that have ended, and failed jobs in groups."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import attrs

from aether_bg.model.job import JobInfo, JobRun, JobStatus, RunOutcome, error_line


@attrs.frozen(kw_only=True)
class Ran:
    """One attempt that has ended, of any job. `error_line`: the first line of its error, as the function `error_line`
    cuts it."""

    job_id: UUID
    token: int
    job_name: str
    handler_name: str
    attempt: int
    outcome: RunOutcome
    started_at: datetime
    finished_at: datetime
    error_line: str = ""
    run: JobRun | None = None

    @classmethod
    def of(cls, run: JobRun, job: JobInfo) -> Ran | None:
        """None for an attempt that has not ended, and for a gap."""
        if run.outcome is None or run.started_at is None or run.finished_at is None:
            return None
        return cls(
            job_id=run.job_id, token=run.token, job_name=job.job_name, handler_name=job.handler_name,
            attempt=run.attempt, outcome=run.outcome, started_at=run.started_at, finished_at=run.finished_at,
            error_line=error_line(run.error), run=run,
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        return (self.finished_at - self.started_at).total_seconds()


@attrs.frozen(kw_only=True)
class Runs:
    """Attempts of all jobs that have ended, the latest end first: later than `after`, earlier than `before`, of one
    handler, of the jobs with these `ids`, with one of these outcomes. `last`: of each job only the last of those, by
    token. `whole`: each with its history row. At most `limit`."""

    after: datetime | None = None
    before: datetime | None = None
    handler_name: str | None = None
    outcomes: tuple[RunOutcome, ...] | None = None
    ids: tuple[UUID, ...] | None = None
    last: bool = False
    whole: bool = False
    limit: int = 1000

    def matches(self, ran: Ran) -> bool:
        """Whether every field given holds for `ran`; `last` and the limit are left to `select`."""
        return (
            (self.after is None or ran.finished_at > self.after)
            and (self.before is None or ran.finished_at < self.before)
            and (self.handler_name is None or ran.handler_name == self.handler_name)
            and (self.outcomes is None or ran.outcome in self.outcomes)
            and (self.ids is None or ran.job_id in self.ids)
        )

    def select(self, attempts: Iterable[Ran | None]) -> list[Ran]:
        """The answer, from all attempts."""
        found = [ran for ran in attempts if ran is not None and self.matches(ran)]
        if self.last:
            found = list({ran.job_id: ran for ran in sorted(found, key=lambda ran: ran.token)}.values())
        found.sort(key=lambda ran: (ran.finished_at, ran.job_id, ran.token), reverse=True)
        return [ran if self.whole else attrs.evolve(ran, run=None) for ran in found[: self.limit]]


@attrs.frozen(kw_only=True)
class FailureGroup:
    """FAILED jobs of one handler whose errors begin alike. `job_id`: the one that failed last."""

    handler_name: str
    error_line: str
    count: int
    first_at: datetime
    last_at: datetime
    job_id: UUID


@attrs.frozen(kw_only=True)
class Failures:
    """FAILED jobs by handler and first line of the error, the group with the latest failure first, at most `limit`.

    Only the `among` jobs that failed last are read (of `handler_name` if it is given): this limits the work.
    """

    handler_name: str | None = None
    among: int = 10_000
    limit: int = 100

    def select(self, jobs: Iterable[JobInfo]) -> list[FailureGroup]:
        """The answer, given all jobs."""
        failed = [
            (job.handled_time, job.id, job.handler_name, error_line(job.last_error))
            for job in jobs
            if job.status is JobStatus.FAILED and self.handler_name in (None, job.handler_name) and job.handled_time
        ]
        return self.grouped(sorted(failed, reverse=True)[: self.among])

    def grouped(self, failed: Iterable[tuple[datetime, UUID, str, str]]) -> list[FailureGroup]:
        """The answer, given when, id, handler and error line of those read, the latest first."""
        groups: dict[tuple[str, str], list[tuple[datetime, UUID]]] = {}
        for at, job_id, handler, line in failed:
            groups.setdefault((handler, line), []).append((at, job_id))
        return [
            FailureGroup(
                handler_name=handler, error_line=line, count=len(jobs), first_at=jobs[-1][0], last_at=jobs[0][0],
                job_id=jobs[0][1],
            )
            for (handler, line), jobs in groups.items()
        ][: self.limit]  # fmt: skip
