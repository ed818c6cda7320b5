"""`enqueue_many`: all of the jobs in one transaction, or none (docs/protocol.md, N8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio.lowlevel
import attrs

from aether_bg._app.enqueue import Enqueuer, kept_inside, request
from aether_bg._app.new_job import NewJob, checked
from aether_bg._app.parents import by_any
from aether_bg._handlers import work
from aether_bg._kernel.journal import Written
from aether_bg._rules import validation as checks
from aether_bg._rules.recurrence import check_comes
from aether_bg._rules.uniqueness import beside, kept
from aether_bg.errors import AetherError, InvalidOption, NameHeld, Stale, shown
from aether_bg.model import Change, Insert, JobInfo, Update

MOST: Final = 100_000
"""Most items of one call: they share a transaction, and other writers wait for it."""
STRETCH: Final = 250
"""Items between two turns of the event loop."""
NAMES: Final = 500
"""Names that are looked up at a time."""
_EXAMPLE: Final = 'For example: [NewJob("SendMail", payload=mail) for mail in mails].'


class _Entry(NamedTuple):
    job: JobInfo
    named: bool
    """The caller chose the name; it was not made here."""
    if_exists: str
    after: tuple[UUID, ...] = ()


class _Held(NamedTuple):
    """Who holds which name in the store, and the parents of each of these jobs."""

    jobs: dict[str, JobInfo]
    linked: dict[UUID, tuple[UUID, ...]]


class _Ids(list[UUID]):
    """The ids that answer the items; a parent among them may be a job that held its name already."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[UUID, UUID] = {}

    def add(self, job: JobInfo, answer: UUID) -> None:
        self.append(answer)
        if answer is not job.id:
            self._answers[job.id] = answer

    def of(self, after: tuple[UUID, ...]) -> tuple[UUID, ...]:
        return after and tuple(dict.fromkeys(self._answers.get(parent, parent) for parent in after))


class Many:
    def __init__(self, enqueuer: Enqueuer) -> None:
        self._enqueuer = enqueuer

    async def enqueue(self, items: Iterable[NewJob | Mapping[str, Any]]) -> list[UUID]:
        unit = self._enqueuer.unit()
        entries = await self._entries(_listed(items), {} if unit is None else by_any(unit.jobs))
        named = [entry.job for entry in entries if entry.named]
        names = {job.job_name for job in named}
        if unit is not None and (ids := await self._join(unit, entries, names)) is not None:
            return ids
        ask = len(names) < len(named) or any(job.due_at is None for job in named)
        held = await self._held(names) if ask else _Held({}, {})  # otherwise the insert says whether one is held
        while True:
            writes, ids = self._writes(entries, held)
            try:
                await self._enqueuer.journal.write_all(writes)
            except (Stale, NameHeld):
                held = await self._held(names)
            else:
                return ids

    async def _entries(self, items: list[Any], made: dict[UUID | str, JobInfo]) -> list[_Entry]:
        """`made`: jobs that will be in the same transaction, by id and name."""
        admission, moment = self._enqueuer.admission, self._enqueuer.moment()
        entries, seen = list[_Entry](), 0
        for index, item in enumerate(items):
            if index % STRETCH == STRETCH - 1:
                await anyio.lowlevel.checkpoint()
            try:
                arguments = {**_DEFAULTS, **_arguments(item)}
                if_exists, wanted = request(arguments)
                job, named, after = admission.job(moment, **arguments), arguments["job_name"] is not None, _NO_PARENTS
                if wanted is not None:
                    for entry in entries[seen:]:
                        made[entry.job.id] = made[entry.job.job_name] = entry.job
                    seen = len(entries)
                    job, after = await self._enqueuer.behind(job, wanted, made, named)
                entries.append(_Entry(job, named, if_exists, after))
            except AetherError as error:
                raise error.at(f"items[{index}]") from error.__cause__
        return entries

    async def _held(self, names: Iterable[str]) -> _Held:
        asked, held = list(names), _Held({}, {})
        for place in range(0, len(asked), NAMES):
            for job in await self._enqueuer.holders(asked[place : place + NAMES]):
                held.jobs[job.job_name], held.linked[job.id] = job, await self._enqueuer.linked(job)
        return held

    def _writes(self, entries: list[_Entry], held: _Held) -> tuple[list[Written], list[UUID]]:
        """Has the effect of one enqueue after the other."""
        rows, linked, writes, ids = dict(held.jobs), dict(held.linked), list[Written](), _Ids()
        changed: dict[UUID, int] = {}
        """Where in `writes` each row is changed: a statement for many rows can change each of them only once."""
        for index, (job, named, if_exists, after) in enumerate(entries):
            if not named and not after and job.due_at is not None:  # no other item can mean it
                writes.append(Written(Insert(job), job))
                ids.append(job.id)
                continue
            holder = rows.get(job.job_name)
            if holder is not None and holder.gives_way_to(job):
                holder = None
            try:
                answer = None
                if holder is not None:
                    wanted = beside(holder, job, linked[holder.id], ids.of(after))
                    answer = self._enqueuer.instead(holder, wanted, if_exists)
                if isinstance(answer, UUID):
                    ids.add(job, answer)
                    continue
                if holder is not None and answer is not None and answer.holds_name:
                    rows[job.job_name] = row = answer.applied_to(holder)
                    if (place := changed.get(holder.id)) is not None:
                        writes[place] = Written(_both(writes[place].write, answer), row)
                    else:
                        changed[holder.id] = len(writes)
                        writes.append(Written(Update(answer), row))
                    ids.add(job, holder.id)
                    continue
                check_comes(job)
            except AetherError as error:
                raise error.at(f"items[{index}]") from error.__cause__
            if answer is not None:
                writes.append(Written(Update(answer), None))
            rows[job.job_name], linked[job.id] = job, ids.of(after)
            writes.append(Written(Insert(job, linked[job.id]), job))
            ids.add(job, job.id)
        return writes, ids

    async def _join(self, unit: work.UnitOfWork, entries: list[_Entry], names: set[str]) -> list[UUID] | None:
        """All are queued, or none (docs/protocol.md, W6). None: the unit has ended."""
        held = await self._held(names)
        if not unit.is_open:
            return None
        joined, linked, new, ids = dict(unit.named), held.linked | unit.linked, list[Insert](), _Ids()
        for index, (job, _, if_exists, after) in enumerate(entries):
            name = job.job_name
            try:
                holder = joined.get(name, held.jobs.get(name))
                wanted = job if holder is None else beside(holder, job, linked[holder.id], ids.of(after))
                if name in joined:
                    ids.add(job, kept(joined[name], wanted, if_exists))
                elif holder is not None and not holder.gives_way_to(job):
                    ids.add(job, kept_inside(self._enqueuer.calls, holder, wanted, if_exists))
                else:
                    check_comes(job)
                    joined[name], linked[job.id] = job, ids.of(after)
                    new.append(Insert(job, linked[job.id]))
                    ids.add(job, job.id)
            except AetherError as error:
                raise error.at(f"items[{index}]") from error.__cause__
        for insert in new:
            unit.queue(insert)
        return ids


def _both(before: Insert | Update, change: Change) -> Update:
    """Two changes of one row, combined."""
    assert isinstance(before, Update)
    first = before.change
    return Update(attrs.evolve(
        change, seq=first.seq, schedule_rev=first.schedule_rev, definition=change.definition or first.definition,
        runs=first.runs + change.runs,
    ))  # fmt: skip


_NO_PARENTS: Final[tuple[UUID, ...]] = ()
_DEFAULTS: Final[dict[str, Any]] = {"job_name": None, "payload": None, "schedule": "@once", "metadata": None}


def _listed(items: Any) -> list[Any]:
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        checks.refuse("items", items, "must be a list of NewJob or of mappings", _EXAMPLE)
    listed = []
    for item in items:
        listed.append(item)
        if len(listed) > MOST:
            checks.refuse("items", f"more than {MOST}", f"must have at most {MOST} items", "Enqueue them in parts.")
    return listed


def _arguments(item: Any) -> Mapping[str, Any]:
    if isinstance(item, NewJob):
        return item.arguments
    if isinstance(item, Mapping):
        if "handler" not in item:
            raise InvalidOption(shown(item), "it has no handler", _EXAMPLE)
        return checked(item)
    raise InvalidOption(shown(item), "must be a NewJob, or a mapping of enqueue's arguments", _EXAMPLE, name="item")
