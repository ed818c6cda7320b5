"""What an enqueue says, checked without a clock and without the store: mistakes of the code, at the place they are
written (docs/protocol.md, N6)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from aether_bg._handlers.handlers import Handlers, check_typed
from aether_bg._handlers.payloads import check_json, check_metadata
from aether_bg._hooks.calls import Calls
from aether_bg._rules import options as checks
from aether_bg.errors import InvalidHandler, JobConflict, UnknownHandler, shown
from aether_bg.model import JobType, Misfire
from aether_bg.schedule import Schedule

IF_EXISTS: Final = ("raise", "keep", "replace")
ENQUEUE_OPTIONS: Final = ("timezone", "start", "if_exists", "repeats", "until", "misfire", "misfire_grace")
ARGUMENTS: Final = ("job_name", "payload", "schedule", "metadata", *ENQUEUE_OPTIONS)


@attrs.frozen(kw_only=True, slots=False)  # made for every enqueue; see JobInfo
class Draft:
    """An enqueue without mistakes. Whether it has an occurrence left, and who holds its name, is not known yet."""

    handler_name: str
    job_name: str | None
    payload: Any
    metadata: Mapping[str, Any]
    schedule: Schedule
    start: datetime | None
    until: datetime | None
    repeats: int | None
    misfire: Misfire
    misfire_grace: float


class Admission:
    """`client`: handlers need not be known here (JSON limits only)."""

    def __init__(self, calls: Calls, handlers: Handlers, max_payload: int, *, client: bool = False) -> None:
        self._calls, self._handlers, self._limit, self._client = calls, handlers, max_payload, client

    def draft(
        self,
        handler: Any,
        job_name: str | None,
        payload: Any,
        schedule: Any,
        metadata: Any,
        *,
        timezone: str | None = None,
        start: datetime | None = None,
        repeats: int | None = None,
        until: datetime | None = None,
        misfire: Any = "once",
        misfire_grace: Any = 10.0,
        before_start: bool = False,
    ) -> Draft:
        """Raises an `InputError`. `before_start`: handlers and payload types may still come; checked where known."""
        if before_start:
            handler_name, value = self._so_far(handler, payload)
        else:
            handler_name = checks.name(self._handlers.name_of(handler), "handler")
            value = self._payload(handler, handler_name, payload)
        parsed = self._calls.parse(schedule, timezone)
        if repeats is not None:
            checks.whole("repeats", repeats, least=1)
            if not parsed.recurring:
                checks.refuse(
                    "repeats", repeats, "bounds a recurring job", "Leave it out, or give a recurring schedule."
                )
        return Draft(
            handler_name=handler_name, job_name=None if job_name is None else checks.name(job_name, "job"),
            payload=value, metadata=check_metadata(metadata), schedule=parsed, start=checks.instant("start", start),
            until=checks.instant("until", until), repeats=repeats,
            misfire=checks.one_of("misfire", misfire, ("once", "skip", "all")),
            misfire_grace=checks.seconds("misfire_grace", misfire_grace, least=1),
        )  # fmt: skip

    def _payload(self, handler: Any, name: str, payload: Any) -> Any:
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
            return name, self._payload(handler, name, payload)
        except (UnknownHandler, InvalidHandler):
            if isinstance(handler, str | JobType) or callable(handler):
                return "", payload  # looked at again when the app starts
            raise

    def declare(self, declared: list[dict[str, Any]], arguments: dict[str, Any]) -> None:
        """Add to `declared`. Raises for what is wrong in the code, two declarations of one name included."""
        name = arguments["job_name"]
        checks.name(name, "job")
        checks.one_of("if_exists", arguments["if_exists"], IF_EXISTS)
        self.draft(**_without_if_exists(arguments), before_start=True)
        if any(other["job_name"] == name for other in declared):
            raise JobConflict(
                f"job name {shown(name)}", "a job of that name is declared already",
                "Declare it once; handler(schedule=…) declares a job of the handler's name.",
            )  # fmt: skip
        declared.append(arguments)

    def check_declared(self, declared: list[dict[str, Any]]) -> None:
        """When the app starts, with all handlers there. Raises for the first that no handler can take."""
        for arguments in declared:
            self.draft(**_without_if_exists(arguments))


def _without_if_exists(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "if_exists"}
