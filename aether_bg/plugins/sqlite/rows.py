"""Rows and values, both ways. One place knows which column is what and how it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, RunOutcome

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Any) -> str:
    return "null" if value is None else _encode(value)


def from_json(text: str) -> Any:
    if text == "null":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text  # edited by hand: the row stays readable, and the payload check will say what is wrong


def _metadata(text: str) -> Any:
    return {} if text == "{}" else from_json(text)


def to_time(when: datetime | None) -> str | None:
    """Fixed width, so that text order is time order. `when` is aware and in UTC."""
    return None if when is None else when.isoformat(timespec="microseconds")[:26] + "Z"


def from_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


Codec = tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]
"""(to the database, from it); None where the value goes as it is."""

_CODECS: Final[dict[str, Codec]] = {
    "id": (str, UUID),
    "job_id": (str, UUID),
    "owner": (_text, _uuid),
    "status": (int, JobStatus),
    "outcome": (_text, lambda text: None if text is None else RunOutcome(text)),
    "payload": (to_json, from_json),
    "extra_properties": (to_json, _metadata),
    **dict.fromkeys(("paused", "manual", "extra", "run_again", "holds_name"), (int, bool)),
    **dict.fromkeys(
        ("created_at", "modified_at", "handled_time", "due_at", "start", "until", "anchor", "occurrence",
         "last_occurrence", "started_at", "finished_at"),
        (to_time, from_time),
    ),
}  # fmt: skip
_PLAIN: Final[Codec] = (None, None)


def _codecs(names: Iterable[str]) -> list[tuple[str, Codec]]:
    return [(name, _CODECS.get(name, _PLAIN)) for name in names]


def _reader(cls: type[Any], names: tuple[str, ...]) -> Callable[[list[Any]], Any]:
    """Compile `row -> cls(...)`: a generated expression, since it runs for every job claimed."""
    scope: dict[str, Any] = {"cls": cls}
    parts = []
    for index, (name, (_, decode)) in enumerate(_codecs(names)):
        scope[f"d{index}"] = decode
        parts.append(f"{name}=r[{index}]" if decode is None else f"{name}=d{index}(r[{index}])")
    made: Callable[[list[Any]], Any] = eval(f"lambda r: cls({', '.join(parts)})", scope)
    return made


def _writer(names: tuple[str, ...]) -> Callable[[Any], list[Any]]:
    """Compile `value -> [columns]`."""
    scope: dict[str, Any] = {}
    parts = []
    for index, (name, (encode, _)) in enumerate(_codecs(names)):
        scope[f"e{index}"] = encode
        parts.append(f"v.{name}" if encode is None else f"e{index}(v.{name})")
    made: Callable[[Any], list[Any]] = eval(f"lambda v: [{', '.join(parts)}]", scope)
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

read_job: Final[Callable[[list[Any]], JobInfo]] = _reader(JobInfo, JOB_COLUMNS)
read_run: Final[Callable[[list[Any]], JobRun]] = _reader(JobRun, RUN_COLUMNS)
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
