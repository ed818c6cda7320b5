"""Rows and values, both ways. One place knows which column is what and how it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.model.filled import filled

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


_encode_sorted = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode


def to_json(value: Any) -> str:
    return "null" if value is None else _encode(value)


def to_sorted_json(value: Any) -> str:
    """Of equal objects the same text: metadata are compared by it."""
    return _encode_sorted(value)


def from_json(text: str) -> Any:
    if text == "null":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text  # edited by hand: the row stays readable, and the payload check will say what is wrong


@lru_cache(maxsize=256)
def _iso(when: datetime) -> str:
    return when.isoformat(timespec="microseconds")[:26] + "Z"


def to_time(when: datetime | None) -> str | None:
    """Fixed width, so that text order is time order. `when` is aware and in UTC."""
    return None if when is None else _iso(when)


def from_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


_STATUS: Final = tuple(JobStatus)
_text = lru_cache(maxsize=64)(str)
_uuid = lru_cache(maxsize=64)(UUID)

Codec = tuple[str, str]
"""How a value is written to the database, and how it is read: expressions of `x`, which is no None."""

_TIME: Final = ("_iso(x)", "fromisoformat(x)")
_CODECS: Final[dict[str, Codec]] = {
    "id": ("str(x)", "UUID(x)"),
    "job_id": ("str(x)", "UUID(x)"),
    "owner": ("_text(x)", "_uuid(x)"),
    "status": ("int(x)", "_STATUS[x]"),
    "outcome": ("str(x)", "RunOutcome(x)"),
    "payload": ("to_json(x)", "from_json(x)"),
    "extra_properties": ("'{}' if not x else to_sorted_json(x)", "{} if x == '{}' else from_json(x)"),
    **dict.fromkeys(("paused", "manual", "extra", "run_again", "holds_name"), ("int(x)", "x == 1")),
    **dict.fromkeys(
        ("created_at", "modified_at", "handled_time", "due_at", "start", "until", "anchor", "occurrence",
         "last_occurrence", "started_at", "finished_at"),
        _TIME,
    ),
}  # fmt: skip
_NOT_NULL: Final = ("id", "job_id", "status", "extra_properties", "created_at", "modified_at", "anchor")
_SCOPE: Final[dict[str, Any]] = {
    "_iso": _iso, "fromisoformat": datetime.fromisoformat, "UUID": UUID, "_text": _text, "_uuid": _uuid,
    "_STATUS": _STATUS, "RunOutcome": RunOutcome, "to_json": to_json, "to_sorted_json": to_sorted_json,
    "from_json": from_json,
}  # fmt: skip


def _converted(name: str, value: str, way: int) -> str:
    """`value`, an expression, converted one way: 0 to the database, 1 from it."""
    if name not in _CODECS:
        return value
    code = _CODECS[name][way]
    if name == "payload":  # None is a payload too
        return code.replace("(x)", f"({value})")
    whole = code.replace("(x)", f"({value})").replace("x ==", f"{value} ==").replace("not x", f"not {value}")
    whole = whole.replace("[x]", f"[{value}]")
    return whole if name in _NOT_NULL else f"None if {value} is None else {whole}"


def _reader(cls: type[Any], names: tuple[str, ...]) -> Callable[[Sequence[Any]], Any]:
    """Compile `row -> cls(...)`: one expression, since it runs for every job claimed."""
    parts = [f"{name!r}: {_converted(name, f'r[{index}]', 1)}" for index, name in enumerate(names)]
    scope = {**_SCOPE, "cls": cls, "filled": filled}
    made: Callable[[Sequence[Any]], Any] = eval(f"lambda r: filled(cls, {{{', '.join(parts)}}})", scope)
    return made


def _writer(names: tuple[str, ...]) -> Callable[[Any], list[Any]]:
    """Compile `value -> [columns]`."""
    parts = [_converted(name, f"v.{name}", 0) for name in names]
    made: Callable[[Any], list[Any]] = eval(f"lambda v: [{', '.join(parts)}]", dict(_SCOPE))
    return made


JOB_COLUMNS: Final = tuple(field.name for field in attrs.fields(JobInfo))
RUN_COLUMNS: Final = tuple(field.name for field in attrs.fields(JobRun))
DEFINITION_COLUMNS: Final = tuple(field.name for field in attrs.fields(Definition))
STATE_COLUMNS: Final = tuple(
    field.name
    for field in attrs.fields(Change)
    if field.name in JOB_COLUMNS and field.name not in ("seq", "schedule_rev")
)
"""What every Change writes, besides seq and schedule_rev."""

read_job: Final[Callable[[Sequence[Any]], JobInfo]] = _reader(JobInfo, JOB_COLUMNS)
read_run: Final[Callable[[Sequence[Any]], JobRun]] = _reader(JobRun, RUN_COLUMNS)
write_job: Final = _writer(JOB_COLUMNS)
write_run: Final = _writer(RUN_COLUMNS)
write_definition: Final = _writer(DEFINITION_COLUMNS)
_state = _writer(("job_id", "seq", "schedule_rev", "next_seq", "next_rev", *STATE_COLUMNS))


def write_change(change: Change) -> list[Any]:
    """job_id, expected seq and schedule_rev, new seq and schedule_rev, then STATE_COLUMNS."""
    return _state(change)


JOBS_AS_JSON: Final = f"json_group_array(json_array({', '.join(JOB_COLUMNS)}))"
"""All rows in one step: a step per row would hand the interpreter lock back and forth for each."""


def read_jobs(text: str) -> list[JobInfo]:
    return [read_job(row) for row in json.loads(text)]
