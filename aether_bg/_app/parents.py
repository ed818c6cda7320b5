"""`after=`: which jobs an enqueue names as parents, and whether they are allowed (docs/protocol.md, A1)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import attrs

from aether_bg._rules import validation as checks
from aether_bg.errors import InvalidOption, InvalidSchedule, JobNotFound, shown
from aether_bg.model import JobInfo, Query
from aether_bg.schedule import Schedule

Load = Callable[[str, str | None], Schedule]
_EXAMPLE = "Pass what enqueue returned: after=[first, second]."


class Asked(NamedTuple):
    """The parents of one enqueue, by id or name, each once."""

    parents: tuple[UUID | str, ...]
    after_any: bool

    @property
    def ids(self) -> tuple[UUID, ...]:
        return tuple(one for one in self.parents if isinstance(one, UUID))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one for one in self.parents if isinstance(one, str))

    def without(self, known: Container[UUID | str]) -> Asked:
        """Those that are not known."""
        return self._replace(parents=tuple(one for one in self.parents if one not in known))

    def among(self, known: Mapping[UUID | str, JobInfo], load: Load) -> tuple[tuple[UUID, ...], list[UUID | str]]:
        """Their ids, in order, and those that are not `known`, by id or name. Raises `InvalidOption` for a job that
        recurs."""
        recurs = cache(partial(_recurs, load))
        for job in [known[parent] for parent in self.parents if parent in known]:
            if not job.status.terminal and recurs(job.expression_value, job.timezone):
                raise InvalidOption(
                    f"after={shown(job.job_name)}", "a job cannot run after one that recurs: that does not end",
                    "Enqueue it from the handler of that job.",
                )  # fmt: skip
        ids = tuple(dict.fromkeys(known[parent].id if parent in known else _id(parent) for parent in self.parents))
        return ids, [parent for parent in self.parents if parent not in known]

    def given_to(self, job: JobInfo, ids: Sequence[UUID]) -> JobInfo:
        """The job as it waits for them; the store counts those that have not ended."""
        return attrs.evolve(job, parents=len(ids), waits_for=len(ids), after_any=self.after_any)


def asked(after: Any, after_any: Any) -> Asked | None:
    """None: the job has no parents. Raises `InvalidOption`."""
    if not isinstance(after_any, bool):
        checks.refuse("after_any", after_any, "must be True or False")
    if after is None:
        if after_any:
            checks.refuse("after_any", after_any, "must come with after=", _EXAMPLE)
        return None
    if isinstance(after, UUID | str | JobInfo):
        after = (after,)
    if not isinstance(after, Iterable):
        checks.refuse("after", after, "must be ids or names of jobs", _EXAMPLE)
    given = [one.id if isinstance(one, JobInfo) else one for one in after]
    for one in given:
        if not isinstance(one, UUID | str):
            checks.refuse("after", one, "must be ids (uuid.UUID) or names of jobs", _EXAMPLE)
        checks.text("after", one if isinstance(one, str) else None)
    return Asked(tuple(dict.fromkeys(given)), after_any) if given else None


def queries(wanted: Asked) -> list[Query]:
    """The queries that find them."""
    by_id = [Query(ids=wanted.ids, limit=len(wanted.ids))] if wanted.ids else []
    return by_id + [Query(job_name=name, limit=1) for name in wanted.names]


def by_any(jobs: Iterable[JobInfo]) -> dict[UUID | str, JobInfo]:
    """By id, and by name: of several jobs that had a name, the first."""
    known: dict[UUID | str, JobInfo] = {}
    for job in jobs:
        known[job.id] = job
        known.setdefault(job.job_name, job)
    return known


def not_found(job: UUID | str) -> JobNotFound:
    remedy = "Was it purged? app.store.find() lists jobs."
    if isinstance(job, str):
        with suppress(ValueError):
            remedy = f"It looks like an id, and text is taken for a name: pass uuid.UUID({str(UUID(job))!r})."
    return JobNotFound(f"job {shown(str(job))}", "there is no such job", remedy)


def _id(parent: UUID | str) -> UUID:
    """The id of a parent that was not found. No job has it: the store refuses it, after the check that the name is
    free."""
    return parent if isinstance(parent, UUID) else uuid4()


def _recurs(load: Load, text: str, timezone: str | None) -> bool:
    try:
        return load(text, timezone).recurring
    except InvalidSchedule:
        return False
