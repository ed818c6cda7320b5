"""Checks the arguments of an enqueue without the store and makes a job of them: mistakes in the code are refused where
they are written (docs/protocol.md, N6)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from aether_bg._app.kinds import Kind, key_of
from aether_bg._handlers.handlers import check_typed
from aether_bg._handlers.payloads import check_json, check_metadata
from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg._rules import validation as checks
from aether_bg._rules.changes import Moment
from aether_bg.errors import InvalidHandler, JobConflict, UnknownHandler, shown
from aether_bg.model import JobInfo, JobType
from aether_bg.schedule import Schedule

IF_EXISTS: Final = ("raise", "keep", "replace")
ENQUEUE_OPTIONS: Final = (
    "timezone", "start", "if_exists", "repeats", "until", "misfire", "misfire_grace", "jitter", "priority",
    "unique_for", "after", "after_any",
)  # fmt: skip
ARGUMENTS: Final = ("job_name", "payload", "schedule", "metadata", *ENQUEUE_OPTIONS)
_MOST_KINDS: Final = 1000
"""How many kinds of jobs are remembered."""


class Admission:
    """`client`: handlers need not be known here (JSON limits only)."""

    def __init__(self, calls: Calls, handlers: Handlers, max_payload: int, *, client: bool = False) -> None:
        self._calls, self._handlers, self._limit, self._client = calls, handlers, max_payload, client
        self._kinds: dict[Any, Kind] = {}

    def job(
        self, moment: Moment, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any,
        **options: Any,
    ) -> JobInfo:  # fmt: skip
        """The row of an enqueue without mistakes; `due_at` is None if no occurrence is left within its bounds. Raises
        an `InputError`."""
        name = self._handlers.name_of(handler)
        known = type(name) is str and name in self._handlers
        if not known:
            name = checks.name(name, "handler")
        value = self.payload(handler, name, payload)
        kind = self._kind(name, known, schedule, job_name, options)
        if job_name is not None:
            job_name = checks.name(job_name, "job")
        job = kind.job(moment, job_name, value, check_metadata(metadata))
        if self._calls.stamped and (stamped := self._calls.stamp(job)):
            return attrs.evolve(job, extra_properties=check_metadata({**stamped, **job.extra_properties}))
        return job

    def _kind(self, name: str, known: bool, schedule: Any, job_name: str | None, options: Mapping[str, Any]) -> Kind:
        """`known`: the handler is; it may be added while a client is open, and has a priority from then on."""
        key = key_of((name, known), schedule, job_name is not None, options)
        if (kind := self._kinds.get(key)) is None:
            kind = self._new_kind(name, schedule, job_name, **options)
            if key is not None:
                if len(self._kinds) >= _MOST_KINDS:
                    self._kinds.clear()
                self._kinds[key] = kind
        return kind

    def _new_kind(
        self, name: str, schedule: Any, job_name: str | None, *, timezone: str | None = None, priority: Any = None,
        **terms: Any,
    ) -> Kind:  # fmt: skip
        parsed = self._calls.parse(schedule, timezone)
        if terms:
            terms = _checked(parsed, job_name, **terms)
        priority = self._handlers.priority(name) if priority is None else checks.priority(priority)
        return Kind(name, parsed, priority, terms)

    def check(
        self, handler: Any, job_name: str | None, payload: Any, schedule: Any, metadata: Any, *,
        before_start: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        """Raises an `InputError`. `before_start`: handlers and payload types may still be added; known ones are
        checked."""
        try:
            name = checks.name(self._handlers.name_of(handler), "handler")
            self.payload(handler, name, payload)
        except (UnknownHandler, InvalidHandler):
            if not before_start or not (isinstance(handler, str | JobType) or callable(handler)):
                raise
            name = ""  # checked again when the app starts
        self._new_kind(name, schedule, job_name, **options)
        if job_name is not None:
            checks.name(job_name, "job")
        check_metadata(metadata)

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

    def declare(self, declared: list[Mapping[str, Any]], arguments: dict[str, Any]) -> None:
        """Adds to `declared`. Raises for mistakes in the code, including two declarations of one name."""
        name = arguments["job_name"]
        checks.name(name, "job")
        checks.one_of("if_exists", arguments["if_exists"], IF_EXISTS)
        for option in ("after", "after_any"):
            if option in arguments:
                rule = "must be left out of a declaration"
                checks.refuse(option, arguments[option], rule, "Enqueue the job once its parents are there.")
        self.check(**_without_if_exists(arguments), before_start=True)
        if any(other["job_name"] == name for other in declared):
            raise JobConflict(
                f"job name {shown(name)}", "a job of that name is declared already",
                "Declare it once; handler(schedule=…) declares a job of the handler's name.",
            )  # fmt: skip
        declared.append(arguments)

    def check_declared(self, declared: list[Mapping[str, Any]]) -> None:
        """When the app starts and all handlers are known: raises for the first declaration that no handler can take."""
        for arguments in declared:
            self.check(**_without_if_exists(arguments))


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


def _without_if_exists(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "if_exists"}
