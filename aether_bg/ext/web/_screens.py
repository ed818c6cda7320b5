"""The eight screens: what each reads, as the values its template shows. They read only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import anyio
import anyio.to_thread

from aether_bg._app.operator import hooks_of
from aether_bg.errors import AetherError, JobNotFound
from aether_bg.ext.web._activity import DAY, MOST, Activity, activity
from aether_bg.ext.web._cache import Cached, ready
from aether_bg.ext.web._coming import Coming
from aether_bg.ext.web._filters import STATUSES, Filter, job_id
from aether_bg.ext.web._source import Reader, Seen, Source
from aether_bg.ext.web._words import Payloads, payload
from aether_bg.model import FailureGroup, Failures, JobInfo, JobRun, JobStatus, Query, Ran, Runs, Stats, Unreadable

PAGE: Final = 50
RECURRING_PAGE: Final = 20
SHOWN: Final = 20
"""Handlers on the overview; jobs that run, for each process."""
HANDLERS_PAGE: Final = 100
RUNNING: Final = 500
"""The most jobs that run, of all processes."""
ACTIVE: Final = (JobStatus.SCHEDULED, JobStatus.RUNNING)
_ENDED: Final = tuple(status for status in JobStatus if status.terminal)
_OPEN: Final = tuple(status for status in JobStatus if status is not JobStatus.COMPLETED)
Context = dict[str, Any]


class Screens:
    """`payloads`: how much of them is shown."""

    def __init__(self, source: Source, payloads: Payloads) -> None:
        self._source, self._payloads, self._coming = source, payloads, Coming()
        gate = source.gate
        self.stats = Cached[Stats](self._stats, 2.0, gate)
        self.activity = Cached[Activity](self._activity, 10.0, gate)
        self.failed = Cached[list[FailureGroup]](self._failures, 3.0, gate)
        self.health = Cached[dict[str, Any]](self._health, 5.0, gate)
        self.seen = Cached[list[Seen]](self._seen, 2.0, anyio.Lock())

    # -- what is kept for some seconds -----------------------------------------------------------

    async def _stats(self) -> tuple[Stats, datetime]:
        async with self._source.open() as reader:
            return await reader.stats(), reader.now()

    async def _activity(self) -> tuple[Activity, datetime]:
        async with self._source.open() as reader:
            now = reader.now()
            ran = await reader.runs(Runs(after=now - DAY, limit=MOST))
        return await anyio.to_thread.run_sync(activity, ran, now), now  # the loop has jobs to run

    async def _failures(self) -> tuple[list[FailureGroup], datetime]:
        async with self._source.open() as reader:
            return list(await reader.failures(Failures(limit=PAGE))), reader.now()

    async def _health(self) -> tuple[dict[str, Any], datetime]:
        app = self._source.app
        async with self._source.open() as reader:
            return {} if app is None else await app.health(), reader.now()

    async def _seen(self) -> tuple[list[Seen], datetime]:
        async with self._source.open() as reader:
            return await reader.processes(), reader.now()

    def forget(self) -> None:
        for kept in (self.stats, self.failed, self.health):
            kept.forget()

    # -- the screens -----------------------------------------------------------------------------

    async def overview(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        failed = await reader.find(Query(status=(JobStatus.FAILED,), order="ended", limit=5))
        running = await reader.find(Query(status=(JobStatus.RUNNING,), order="newest", limit=5))
        await ready(self.seen, self.stats, self.health, self.activity)
        return {
            "stats": self.stats.kept, "activity": self.activity.kept, "failed": failed, "running": running,
            "health": self.health.kept, "seen": self.seen.kept,
        }  # fmt: skip

    async def jobs(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        chosen = Filter.of(fields)
        found = await reader.find(chosen.query(after=job_id(fields.get("after")), limit=PAGE + 1))
        await ready(self.stats)
        stats = self.stats.kept
        return {
            "filter": chosen, "statuses": STATUSES, "jobs": found[:PAGE], "first": not fields.get("after"),
            "older": found[PAGE - 1].id if len(found) > PAGE else None, "stats": stats,
            "handlers": self._names(stats.value), "can_retry": chosen.status in ("failed", "cancelled"),
            "can_delete": chosen.status in ("scheduled", "running"),
        }  # fmt: skip

    def _names(self, stats: Stats | None) -> list[str]:
        return sorted({*self._source.handlers, *(stats.by_handler if stats else ())})

    async def job(self, reader: Reader, id_: UUID, fields: Mapping[str, str]) -> Context:
        """Raises `JobNotFound`."""
        job = next(iter(await reader.find(Query(ids=(id_,)))), None)
        if job is None:
            raise JobNotFound(f"job {id_}", "there is no such job", "It may have been purged, by retention perhaps.")
        runs = await reader.history(id_, PAGE)
        schedule = reader.schedule(job)
        return {
            "job": job, "runs": runs, "sentences": await _told(reader, job), "last_error": _last_error(job, runs),
            "schedule": schedule, "words": schedule.describe() if schedule else "a schedule that cannot be read here",
            "coming": self._coming.of(job, schedule, reader.now()) if job.recurs and not job.status.terminal else [],
            "payload": payload(job.payload, self._payloads), "readable": not isinstance(job, Unreadable),
            "metadata": payload(dict(job.extra_properties), self._payloads) if job.extra_properties else None,
            "extra": _extra(job, runs, self._payloads), "commands": _commands(self._source, job),
            "parents": await _parents(reader, job), **await _children(reader, job),
        }  # fmt: skip

    async def failures(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        await ready(self.failed)
        return {"groups": self.failed.kept, "among": Failures().among, "Filter": Filter}

    async def recurring(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        after = job_id(fields.get("after"))
        query = Query(recurring=True, status=ACTIVE, order="newest", after=after, limit=RECURRING_PAGE + 1)
        found = await reader.find(query)
        ended = Query(recurring=True, status=(JobStatus.FAILED,), order="newest", limit=5)
        shown = found[:RECURRING_PAGE]
        ran = await reader.runs(Runs(ids=tuple(job.id for job in shown), last=True, limit=max(len(shown), 1)))
        last = {one.job_id: one for one in ran}
        return {
            "rows": [self._recurring(reader, job, last.get(job.id)) for job in shown],
            "ended": await reader.find(ended) if after is None else [],
            "older": found[RECURRING_PAGE - 1].id if len(found) > RECURRING_PAGE else None, "first": after is None,
        }  # fmt: skip

    def _recurring(self, reader: Reader, job: JobInfo, last: Ran | None) -> Context:
        schedule = reader.schedule(job)
        words = "a schedule that cannot be read here" if schedule is None else schedule.describe()
        return {"job": job, "words": words, "coming": self._coming.of(job, schedule, reader.now()), "last": last}

    async def handlers(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        await ready(self.seen, self.stats, self.activity)
        stats, seen = self.stats.kept, self.seen.kept.value
        served = {name for one in seen or () if one.state == "alive" for name in one.handlers or ()}
        after = fields.get("after", "")
        names = [name for name in sorted({*self._names(stats.value), *served}) if name > after]
        return {
            "stats": stats, "activity": self.activity.kept, "infos": self._source.handlers,
            "names": names[:HANDLERS_PAGE], "first": not after,
            "older": names[HANDLERS_PAGE - 1] if len(names) > HANDLERS_PAGE else None,
            "served": None if seen is None else served,
            "paused": frozenset(stats.value.paused_handlers if stats.value else ()),
        }  # fmt: skip

    async def processes(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        await ready(self.seen)
        runs: dict[UUID | None, list[JobInfo]] = {}
        found = await reader.find(Query(status=(JobStatus.RUNNING,), order="newest", limit=RUNNING))
        for job in found:
            runs.setdefault(job.owner, []).append(job)
        return {"seen": self.seen.kept, "runs": runs, "me": reader.me, "others_run": len(found) == RUNNING}

    async def system(self, reader: Reader, fields: Mapping[str, str]) -> Context:
        app = self._source.app
        await ready(self.stats)
        return {
            "stats": self.stats.kept, "store": self._source.store,
            "hooks": [] if app is None else hooks_of(app.plugins), "options": None if app is None else app.options,
            "payloads": self._payloads, "schema": getattr(self._source.store, "schema_step", None),
        }  # fmt: skip


async def _told(reader: Reader, job: JobInfo) -> list[str]:
    """What `explain` says, without what the page shows anyway: the name, and the history."""
    try:
        lines = (await reader.explain(job)).split("\n")
    except AetherError as error:
        return [f"It cannot be explained now: {error}"]
    return [line for line in lines[1:] if not line.startswith("- ")]


def _last_error(job: JobInfo, runs: Sequence[JobRun]) -> str | None:
    """The last attempt's error, if it failed."""
    last = next((run for run in runs if run.started_at and run.outcome), None)
    if job.last_error and job.status is not JobStatus.COMPLETED:
        return job.last_error
    return last.error if last is not None else None


async def _parents(reader: Reader, job: JobInfo) -> Sequence[JobInfo]:
    """The jobs that it runs after: at most a page of them, those first that are not COMPLETED."""
    if not job.parents:
        return ()
    found = list(await reader.find(Query(parents_of=job.id, status=_OPEN, limit=PAGE)))
    if len(found) < PAGE:
        found += await reader.find(Query(parents_of=job.id, status=(JobStatus.COMPLETED,), limit=PAGE - len(found)))
    return found


async def _children(reader: Reader, job: JobInfo) -> Context:
    """The jobs that run after it: those first that still wait."""
    waiting = list(await reader.find(Query(children_of=job.id, status=ACTIVE, limit=PAGE + 1)))
    found = waiting + list(await reader.find(Query(children_of=job.id, status=_ENDED, limit=PAGE + 1)))
    return {"children": found[:PAGE], "more_children": len(found) > PAGE}


def _extra(job: JobInfo, runs: Sequence[JobRun], how: Payloads) -> list[tuple[str, str | None]]:
    """Other values of the user's: the last result, the last checkpoint."""
    kept = next((run for run in runs if run.has_result), None)
    found = [] if kept is None else [("result", payload(kept.result, how))]
    return found + ([] if job.checkpoint is None else [("checkpoint", payload(job.checkpoint, how))])


def _commands(source: Source, job: JobInfo) -> list[str]:
    """The same as command lines."""
    verbs: tuple[str, ...] = {
        JobStatus.SCHEDULED: (
            "explain", *(() if job.waits_for else ("trigger",)), "resume" if job.paused else "pause", "delete",
        ),
        JobStatus.RUNNING: ("explain", "resume" if job.paused else "pause", "delete"),
        JobStatus.COMPLETED: ("explain",),
    }.get(job.status, ("explain", "retry"))  # fmt: skip
    return [f"aether-bg {verb} {source.file} {job.id}" for verb in verbs]
