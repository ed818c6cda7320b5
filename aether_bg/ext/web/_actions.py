"""What the page can do to jobs: the verbs of an app, on behalf of the person, for one job or all that match."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import anyio
import attrs

from aether_bg._app.operator import acting_as
from aether_bg.errors import AetherError, InvalidOption, JobNotFound, shown
from aether_bg.ext.web._filters import Filter
from aether_bg.ext.web._guard import Refused
from aether_bg.ext.web._source import Source
from aether_bg.model import JobInfo, JobStatus, Query

Find: TypeAlias = Callable[[Query], Awaitable[Sequence[JobInfo]]]
MOST: Final = 1000
"""The most jobs that one bulk action changes."""
_BITE, _AT_ONCE, _BREATH = 100, 20, 0.01
_MAY: Final = {
    "retry": (JobStatus.FAILED, JobStatus.CANCELLED),
    "delete": (JobStatus.SCHEDULED, JobStatus.RUNNING),
}
SINGLE: Final = ("retry", "delete", "run", "pause", "resume", "schedule")


@attrs.frozen(kw_only=True)
class Outcome:
    """What a bulk action did. `refused`: how many jobs refused it, and why the first one did; `more`: others match."""

    verb: str
    done: int
    refused: int = 0
    why: str = ""
    more: bool = False


class Actions:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._bulk = anyio.Lock()

    async def one(self, verb: str, job: UUID, fields: Mapping[str, str], actor: str) -> bool:
        """False: there was nothing to delete, the job had ended. Raises what the verb raises."""
        with acting_as(actor):
            return await self._verb(verb, fields)(job) is not False or verb != "delete"

    async def kind(self, verb: str, handler: str, actor: str) -> None:
        """Pause or resume all jobs of a handler."""
        with acting_as(actor):
            await getattr(self._source.operator.verbs, verb)(None, handler)

    def _verb(self, verb: str, fields: Mapping[str, str]) -> Callable[[UUID], Awaitable[object]]:
        verbs = self._source.operator.verbs
        if verb == "schedule":
            text, zone = fields.get("schedule", "").strip(), fields.get("timezone", "").strip()
            if not text:
                raise InvalidOption(shown(text), "must say when", "For example: 30 2 * * *.", name="schedule")
            return lambda job: verbs.update(job, text, zone or None)
        known: dict[str, Callable[[UUID], Awaitable[object]]] = {
            "retry": verbs.retry, "delete": verbs.delete, "run": verbs.trigger, "pause": verbs.pause,
            "resume": verbs.resume,
        }  # fmt: skip
        return known[verb]

    # -- all that match --------------------------------------------------------------------------

    def statuses(self, verb: str, chosen: Filter) -> tuple[JobStatus, ...]:
        """The statuses, among those that match, that it can change. Without a status, `retry` leaves CANCELLED jobs
        alone: a person meant them to end."""
        if not chosen.status:
            return _MAY[verb][:1] if verb == "retry" else _MAY[verb]
        return tuple(status for status in _MAY[verb] if status.name.lower() == chosen.status)

    async def count(self, verb: str, chosen: Filter) -> int:
        """How many jobs that would change: at most one more than one action takes."""
        async with self._source.open() as reader:
            return len(await self._matching(reader.find, verb, chosen, MOST + 1))

    async def _matching(self, find: Find, verb: str, chosen: Filter, most: int) -> list[UUID]:
        ids, after = list[UUID](), None
        if not (statuses := self.statuses(verb, chosen)):
            return ids
        order: Literal["ended", "newest"] = "ended" if verb == "retry" else "newest"  # each in the order of an index
        while len(ids) < most:
            page = await find(chosen.query(status=statuses, order=order, after=after, limit=_BITE))
            ids += [job.id for job in page]
            if len(page) < _BITE:
                break
            after = page[-1].id
        return ids[:most]

    async def bulk(self, verb: str, chosen: Filter, actor: str) -> Outcome:
        """Raises `Refused` while another bulk action runs."""
        if self._bulk.locked():
            raise Refused(429, "One at a time", "Another bulk action is running. Try again when it is done.")
        async with self._bulk:
            with acting_as(actor):
                return await self._through(verb, chosen)

    async def _through(self, verb: str, chosen: Filter) -> Outcome:
        act, find = self._verb(verb, {}), self._source.operator.calls.find
        told: list[AetherError | None] = []
        ids = await self._matching(find, verb, chosen, MOST)  # all before the first is changed: that moves it
        for place in range(0, len(ids), _BITE):
            limiter = anyio.CapacityLimiter(_AT_ONCE)
            async with anyio.create_task_group() as group:
                for id_ in ids[place : place + _BITE]:
                    group.start_soon(_tried, verb, act, id_, limiter, told)
            await anyio.sleep(_BREATH)  # for live work
        errors = [error for error in told if error is not None]
        return Outcome(
            verb=verb, done=len(told) - len(errors), refused=len(errors), why=str(errors[0]) if errors else "",
            more=len(told) >= MOST and bool(await self._matching(find, verb, chosen, 1)),
        )  # fmt: skip


async def _tried(
    verb: str,
    act: Callable[[UUID], Awaitable[Any]],
    job: UUID,
    limiter: anyio.CapacityLimiter,
    told: list[AetherError | None],
) -> None:
    async with limiter:
        try:
            ended = await act(job) is False and verb == "delete"
            told.append(JobNotFound(f"job {job}", "it had ended by then") if ended else None)
        except AetherError as error:  # it has moved on, or another job has its name
            told.append(error)
