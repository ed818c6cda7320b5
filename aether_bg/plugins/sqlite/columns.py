"""Which column holds what, and how it is written: jobs, changes and history rows to lists of columns, and back.

Writing is written out: it runs for every row, and a loop over the fields would cost twice as much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, Progress, RunOutcome
from aether_bg.model.filled import id_text, keep_id_text, uuid_of
from aether_bg.plugins import _stored
from aether_bg.plugins._first import OWN
from aether_bg.plugins._stored import check_depth

JOB_COLUMNS: Final = tuple(name for name in attrs.fields_dict(JobInfo) if name != "handler_paused")
RUN_COLUMNS: Final = tuple(name for name in attrs.fields_dict(JobRun) if name != "has_result")
DEFINITION_COLUMNS: Final = tuple(attrs.fields_dict(Definition))
STATE_COLUMNS: Final = (
    "status", "due_at", "occurrence", "last_occurrence", "occurrences", "attempt", "retry_count", "crash_count",
    "last_error", "handled_time", "paused", "manual", "off_schedule", "trigger_pending", "holds_name", "armed_seq",
    "owner", "modified_at", "modified_by",
)  # fmt: skip
"""What every `Change` writes, besides seq and schedule_rev."""
NEW_COLUMNS: Final = (*OWN, "modified_at")
"""In which one new job differs from another."""
COMPLETION_COLUMNS: Final = ("job_id", "seq", "schedule_rev", "modified_at", "modified_by")


def write_job(job: JobInfo) -> list[Any]:
    """JOB_COLUMNS."""
    return [
        id_text(job.id), job.handler_name, job.job_name, job.expression_value, to_json(job.payload), int(job.status),
        to_time(job.handled_time), job.retry_count, job.last_error, to_mapping(job.extra_properties),
        to_time(job.created_at), job.created_by, to_time(job.modified_at), job.modified_by, to_time(job.due_at),
        to_time(job.occurrence), job.timezone, to_time(job.start), job.repeats, to_time(job.until), job.misfire,
        job.misfire_grace, job.jitter, job.priority, 1 if job.paused else 0, job.seq, job.schedule_rev, job.armed_seq,
        1 if job.manual else 0, 1 if job.off_schedule else 0, 1 if job.trigger_pending else 0, job.crash_count,
        to_time(job.anchor), to_time(job.last_occurrence), job.occurrences, job.attempt, 1 if job.holds_name else 0,
        to_owner(job.owner), to_time(job.started_at), to_progress(job.progress), to_checkpoint(job.checkpoint),
        1 if job.declared else 0, job.unique_for, job.parents, job.waits_for, 1 if job.after_any else 0,
    ]  # fmt: skip


def write_new(job: JobInfo) -> list[Any]:
    """NEW_COLUMNS of a job that `is_new`. Most of its instants are the same object, which is written once."""
    created = job.created_at
    at = to_time(created)
    modified = at if job.modified_at is created else to_time(job.modified_at)
    due = at if job.due_at is created else to_time(job.due_at)
    occurrence = due if job.occurrence is job.due_at else to_time(job.occurrence)
    return [
        id_text(job.id), job.handler_name, job.job_name, job.expression_value, to_json(job.payload),
        to_mapping(job.extra_properties), at, job.created_by, job.modified_by, due, occurrence, job.priority, job.seq,
        at if job.anchor is created else to_time(job.anchor), modified,
    ]  # fmt: skip


def write_definition(definition: Definition) -> list[Any]:
    """DEFINITION_COLUMNS."""
    return [
        definition.handler_name, to_json(definition.payload), definition.expression_value, definition.timezone,
        to_time(definition.start), definition.repeats, to_time(definition.until), definition.misfire,
        definition.misfire_grace, definition.jitter, definition.priority, to_time(definition.anchor),
        to_mapping(definition.extra_properties), 1 if definition.declared else 0, definition.unique_for,
    ]  # fmt: skip


def write_change(change: Change) -> list[Any]:
    """job_id, expected seq and schedule_rev, new seq and schedule_rev, then STATE_COLUMNS."""
    return [
        id_text(change.job_id), change.seq, change.schedule_rev, change.next_seq, change.next_rev, int(change.status),
        to_time(change.due_at), to_time(change.occurrence), to_time(change.last_occurrence), change.occurrences,
        change.attempt, change.retry_count, change.crash_count, change.last_error, to_time(change.handled_time),
        1 if change.paused else 0, 1 if change.manual else 0, 1 if change.off_schedule else 0,
        1 if change.trigger_pending else 0, 1 if change.holds_name else 0, change.armed_seq,
        to_owner(change.owner), to_time(change.modified_at), change.modified_by,
    ]  # fmt: skip


def write_completion(change: Change) -> list[Any]:
    """COMPLETION_COLUMNS."""
    return [
        id_text(change.job_id), change.seq, change.schedule_rev, to_time(change.modified_at), change.modified_by,
    ]  # fmt: skip


def write_run(run: JobRun) -> list[Any]:
    """RUN_COLUMNS."""
    return [
        id_text(run.job_id), run.token, run.gap, run.attempt, to_time(run.occurrence),
        None if run.outcome is None else str(run.outcome), to_time(run.started_at), to_time(run.finished_at), run.error,
        to_owner(run.owner), to_time(run.last_occurrence), run.count, to_json(run.result) if run.has_result else None,
    ]  # fmt: skip


def literal(stored: Any) -> str:
    """A value of a column, as SQL writes it."""
    if isinstance(stored, str):
        return "'" + stored.replace("'", "''") + "'"
    return "NULL" if stored is None else repr(stored)


# -- single values -------------------------------------------------------------------------------

_LONGEST: Final = 1e10
FLAG: Final = {0: False, 1: True}
STATUS: Final = {status.value: status for status in JobStatus}
MISFIRE: Final = {word: word for word in ("once", "skip", "all")}

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
to_sorted_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode  # the same text for equal objects: metadata are compared by it
_decode = json.JSONDecoder(parse_constant=lambda name: _no_constant(name)).decode


def to_json(value: Any) -> str:
    return "null" if value is None else _encode(value)


def from_json(text: str) -> Any:
    if text == "null":
        return None
    check_depth(text)
    try:
        return _decode(text)
    except ValueError:
        return text  # edited by hand: the row stays readable, and the payload check will say what is wrong


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def to_checkpoint(value: Any | None) -> str | None:
    return None if value is None else _encode(value)


def to_progress(progress: Progress | None) -> str | None:
    return None if progress is None else _encode(progress.to_dict())


def progress_of(text: str) -> Progress:
    match from_json(text):
        case {"done": int() | float() as done, "total": total, "note": note, "at": str(at)}:
            return Progress.checked(done, total, note, datetime.fromisoformat(at).astimezone(UTC))
    raise ValueError("not the progress of a job")


def to_mapping(value: Mapping[str, Any]) -> str:
    return to_sorted_json(value) if value else "{}"


def mapping(text: str) -> dict[str, Any]:
    return {} if text == "{}" else _stored.mapping(text, from_json)


_TWO: Final = tuple(f"{number:02}" for number in range(60))
_THREE: Final = tuple(f"{number:03}" for number in range(1000))


@lru_cache(maxsize=256)
def to_time(when: datetime | None) -> str | None:
    """Fixed width, so that text order is time order. `when` is aware and in UTC. Half of what its `isoformat` costs."""
    if when is None:
        return None
    thousands, rest = divmod(when.microsecond, 1000)
    day, minute = f"{when.year:04}-{_TWO[when.month]}-{_TWO[when.day]}", f"{_TWO[when.hour]}:{_TWO[when.minute]}"
    return f"{day}T{minute}:{_TWO[when.second]}.{_THREE[thousands]}{_THREE[rest]}Z"


def from_time(text: str | None) -> datetime | None:
    return None if text is None else instant(text)


@lru_cache(maxsize=256)  # most instants of a new row are the same
def instant(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is not UTC:
        raise ValueError("an instant not in UTC")
    return when


def readable_time(text: Any) -> datetime | None:
    """The instant, or None if `text` is not one."""
    try:
        return from_time(text)
    except (ValueError, TypeError):
        return None


@lru_cache(maxsize=64)
def to_owner(owner: UUID | None) -> str | None:
    return None if owner is None else str(owner)


_CANONICAL: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def to_uuid(text: str) -> UUID:
    """Raises `ValueError` for any other way to write a UUID: no statement would find the row by it."""
    if not _CANONICAL.fullmatch(text):
        raise ValueError("not a UUID as str(UUID) writes it")
    number = int(text.replace("-", ""), 16)
    keep_id_text(number, text)
    return uuid_of(number)


owner_id = lru_cache(maxsize=64)(to_uuid)


def grace(seconds: float) -> float:
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{seconds} seconds")
    return seconds


READ: Final[dict[str, Callable[[Any], Any]]] = {
    "id": to_uuid, "job_id": to_uuid, "owner": owner_id, "status": STATUS.__getitem__, "outcome": RunOutcome,
    "payload": from_json, "progress": progress_of, "checkpoint": from_json, "result": from_json,
    "extra_properties": mapping, "misfire": MISFIRE.__getitem__, "misfire_grace": grace, "jitter": grace,
    "unique_for": grace,
    **dict.fromkeys(
        ("paused", "manual", "off_schedule", "trigger_pending", "holds_name", "declared", "after_any"),
        FLAG.__getitem__,
    ),
    **dict.fromkeys(
        ("created_at", "modified_at", "handled_time", "due_at", "start", "until", "anchor", "occurrence",
         "last_occurrence", "started_at", "finished_at"),
        instant,
    ),
}  # fmt: skip
"""How to read columns whose value differs from what is stored; never called with None."""
