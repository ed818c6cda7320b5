"""Checks the arguments of an enqueue without the store and makes a job of them: mistakes in the code are refused where
they are written (docs/protocol.md, N6)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import attrs

from aether_bg._handlers.handlers import check_typed
from aether_bg._handlers.payloads import check_json, check_metadata
from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg._rules import validation as checks
from aether_bg._rules.changes import Moment
from aether_bg._rules.ids import uuid7
from aether_bg._rules.recurrence import Plan, anchor_for, first_due
from aether_bg.errors import InvalidHandler, JobConflict, UnknownHandler, shown
from aether_bg.model import JobInfo, JobType
from aether_bg.model.filled import filled
from aether_bg.schedule import Schedule

IF_EXISTS: Final = ("raise", "keep", "replace")
ENQUEUE_OPTIONS: Final = (
    "timezone", "start", "if_exists", "repeats", "until", "misfire", "misfire_grace", "jitter", "priority",
    "unique_for", "after", "after_any",
)  # fmt: skip
_FRESH: Final[dict[str, Any]] = {
    field.name: field.default
    for field in attrs.fields(JobInfo)
    if not isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
}
"""The fields of a new job that no argument sets."""
ARGUMENTS: Final = ("job_name", "payload", "schedule", "metadata", *ENQUEUE_OPTIONS)


class Draft(NamedTuple):
    """An enqueue without mistakes. Whether it has an occurrence left, and who holds its name, is not known yet."""

    handler_name: str
    job_name: str | None
    payload: Any
    metadata: Mapping[str, Any]
    schedule: Schedule
    priority: int
    terms: dict[str, Any]
    """The other options of `enqueue` that end up in the row, as far as any were given."""


class Admission:
    """`client`: handlers need not be known here (JSON limits only)."""

    def __init__(self, calls: Calls, handlers: Handlers, max_payload: int, *, client: bool = False) -> None:
        self._calls, self._handlers, self._limit, self._client = calls, handlers, max_payload, client

    def draft(
        self, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any, *,
        timezone: str | None = None, priority: Any = None, before_start: bool = False, **terms: Any,
    ) -> Draft:  # fmt: skip
        """Raises an `InputError`. `before_start`: handlers and payload types may still be added; known ones are
        checked."""
        if before_start:
            handler_name, value = self._so_far(handler, payload)
        else:
            handler_name = self._handlers.name_of(handler)
            if type(handler_name) is not str or handler_name not in self._handlers:
                handler_name = checks.name(handler_name, "handler")
            value = self.payload(handler, handler_name, payload)
        parsed = self._calls.parse(schedule, timezone)
        if terms:
            terms = _checked(parsed, job_name, **terms)
        return Draft(
            handler_name, None if job_name is None else checks.name(job_name, "job"), value, check_metadata(metadata),
            parsed, self._handlers.priority(handler_name) if priority is None else checks.priority(priority), terms,
        )  # fmt: skip

    def job(self, moment: Moment, *arguments: Any, **options: Any) -> JobInfo:
        """The row of an enqueue without mistakes; `due_at` is None if no occurrence is left within its bounds. Raises
        an `InputError`."""
        return self.stamped(self.plain_job(moment, *arguments, **options))

    def plain_job(self, moment: Moment, *arguments: Any, **options: Any) -> JobInfo:
        """The same without the stamps of plugins."""
        draft, job_id = self.draft(*arguments, **options), uuid7()
        (now, by), terms, schedule = moment, draft.terms, draft.schedule
        start, until, repeats, jitter = map(terms.get, ("start", "until", "repeats", "jitter"))
        anchor = anchor_for(schedule, now, start)
        plan = Plan(schedule, anchor, start, until, repeats, jitter=jitter or 0.0)
        name = given_name(draft.handler_name, job_id) if draft.job_name is None else draft.job_name
        due = first_due(plan, now)
        return filled(JobInfo, {
            **_FRESH, **terms, "id": job_id, "handler_name": draft.handler_name, "expression_value": schedule.text,
            "payload": draft.payload, "job_name": name, "extra_properties": draft.metadata, "created_at": now,
            "created_by": by, "modified_at": now, "modified_by": by,
            "due_at": due + plan.lag(due, name) if due is not None and jitter else due, "occurrence": due,
            "timezone": schedule.timezone, "anchor": anchor, "priority": draft.priority,
        })  # fmt: skip

    def stamped(self, job: JobInfo) -> JobInfo:
        if stamped := self._calls.stamp(job):
            return attrs.evolve(job, extra_properties=check_metadata({**stamped, **job.extra_properties}))
        return job

    def payload(self, handler: Any, name: str, payload: Any) -> Any:
        handlers, limit = self._handlers, self._limit
        if name in handlers:
            return handlers.compiled(name).check(payload, limit)
        if isinstance(handler, JobType):
            of = handlers.payload_type(handler.payload_type, f"JobType {name!r}")
            return check_typed(payload, of, limit, optional=False, handler=name)
        if not self._client:
            handlers.compiled(name)  # raises UnknownHandler with the nearest name
        return check_json(payload, limit)

    def _so_far(self, handler: Any, payload: Any) -> tuple[str, Any]:
        try:
            name = checks.name(self._handlers.name_of(handler), "handler")
            return name, self.payload(handler, name, payload)
        except (UnknownHandler, InvalidHandler):
            if isinstance(handler, str | JobType) or callable(handler):
                return "", payload  # checked again when the app starts
            raise

    def declare(self, declared: list[Mapping[str, Any]], arguments: dict[str, Any]) -> None:
        """Adds to `declared`. Raises for mistakes in the code, including two declarations of one name."""
        name = arguments["job_name"]
        checks.name(name, "job")
        checks.one_of("if_exists", arguments["if_exists"], IF_EXISTS)
        for option in ("after", "after_any"):
            if option in arguments:
                rule = "must be left out of a declaration"
                checks.refuse(option, arguments[option], rule, "Enqueue the job once its parents are there.")
        self.draft(**_without_if_exists(arguments), before_start=True)
        if any(other["job_name"] == name for other in declared):
            raise JobConflict(
                f"job name {shown(name)}", "a job of that name is declared already",
                "Declare it once; handler(schedule=…) declares a job of the handler's name.",
            )  # fmt: skip
        declared.append(arguments)

    def check_declared(self, declared: list[Mapping[str, Any]]) -> None:
        """When the app starts and all handlers are known: raises for the first declaration that no handler can take."""
        for arguments in declared:
            self.draft(**_without_if_exists(arguments))


def _checked(
    schedule: Schedule, job_name: str | None, *, start: datetime | None = None, repeats: int | None = None,
    until: datetime | None = None, misfire: Any = "once", misfire_grace: Any = 10.0, jitter: Any = 0.0,
    unique_for: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """`Draft.terms`. Raises an `InputError`."""
    if repeats is not None:
        checks.whole("repeats", repeats, least=1)
        if not schedule.recurring:
            rule = "must be left out for a job that does not recur"
            checks.refuse("repeats", repeats, rule, "Or give a recurring schedule.")
    if unique_for is not None:
        unique_for = checks.seconds("unique_for", unique_for, zero=True)
        if job_name is None:
            checks.refuse("unique_for", unique_for, "must come with a job_name", "It says how long a name is held.")
    return {
        "start": checks.instant("start", start), "until": checks.instant("until", until), "repeats": repeats,
        "misfire": checks.one_of("misfire", misfire, ("once", "skip", "all")),
        "misfire_grace": checks.seconds("misfire_grace", misfire_grace, least=1),
        "jitter": checks.seconds("jitter", jitter, zero=True), "unique_for": unique_for,
    }  # fmt: skip


def given_name(handler: str, job_id: UUID) -> str:
    """The name of a job that is enqueued without one."""
    return f"{handler[:160]}-{job_id}"


def _without_if_exists(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "if_exists"}
