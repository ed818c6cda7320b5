"""Jobs of one kind: what they share is checked and computed once, not for each enqueue."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from aether_bg._rules.changes import Moment
from aether_bg._rules.ids import uuid7
from aether_bg._rules.recurrence import Plan, anchor_for, first_due
from aether_bg.model import JobInfo
from aether_bg.model.filled import filled, id_text
from aether_bg.schedule import Schedule
from aether_bg.schedule._simple import Once

_FRESH: Final[dict[str, Any]] = {
    field.name: field.default
    for field in attrs.fields(JobInfo)
    if not isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
}
"""The fields of a new job that no argument sets."""
_COMPARED: Final = frozenset((str, int, float, bool, type(None), timedelta))
"""Types whose equal values mean the same to an enqueue; others, for example datetimes, are checked each time."""
_BOUNDS: Final = ("start", "until", "repeats", "jitter")


class Kind:
    """The jobs of one handler with the same schedule and options: they differ in name, payload and metadata. `terms`:
    the options that end up in the row, as far as any were given."""

    def __init__(self, handler_name: str, schedule: Schedule, priority: int, terms: Mapping[str, Any]) -> None:
        self._schedule = schedule
        self._bounds = tuple(map(terms.get, _BOUNDS))
        self._at_once = isinstance(schedule, Once) and not terms
        self._fields = {
            **_FRESH, **terms, "handler_name": handler_name, "expression_value": schedule.text,
            "timezone": schedule.timezone, "priority": priority,
        }  # fmt: skip
        self._prefix = f"{handler_name[:160]}-"
        self._last: tuple[datetime | None, Plan | None, datetime, datetime | None] = None, None, datetime.min, None
        """Jobs of the same moment are first due at the same instant."""

    def job(self, moment: Moment, name: str | None, payload: Any, metadata: Mapping[str, Any]) -> JobInfo:
        """`due_at` is None if no occurrence is left within the bounds. Without a name, one is made."""
        job_id, (now, by), (read, plan, anchor, due) = uuid7(), moment, self._last
        if read is not now:
            plan, anchor, due = self._planned(now)
            self._last = now, plan, anchor, due
        if name is None:
            name = f"{self._prefix}{id_text(job_id)}"
        due_at = due if due is None or plan is None else due + plan.lag(due, name)
        return filled(JobInfo, dict(
            self._fields, id=job_id, job_name=name, payload=payload, extra_properties=metadata, created_at=now,
            created_by=by, modified_at=now, modified_by=by, due_at=due_at, occurrence=due, anchor=anchor,
        ))  # fmt: skip

    def _planned(self, now: datetime) -> tuple[Plan | None, datetime, datetime | None]:
        if self._at_once:
            return None, now, now
        start, until, repeats, jitter = self._bounds
        anchor = anchor_for(self._schedule, now, start)
        plan = Plan(self._schedule, anchor, start, until, repeats, jitter=jitter or 0.0)
        return plan, anchor, first_due(plan, now)


def key_of(handler: tuple[str, bool], schedule: Any, named: bool, options: Mapping[str, Any]) -> Any:
    """Equal for jobs of one kind. None: they cannot be compared."""
    if not options and type(schedule) is str:
        return handler, schedule
    types = type(schedule), *map(type, options.values())
    return (handler, schedule, named, types, *options.items()) if _COMPARED.issuperset(types) else None
