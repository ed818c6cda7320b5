"""Rows and values, both ways. One place knows which column is what and how it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import attrs

from aether_bg.errors import shown
from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, RunOutcome, Unreadable
from aether_bg.model.filled import filled

MOST_DEPTH: Final = 256
"""Nesting of stored JSON: more than payloads may have, with room for what codecs put around them."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


_encode_sorted = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode


_decode = json.JSONDecoder(parse_constant=lambda name: _no_constant(name)).decode


def to_json(value: Any) -> str:
    return "null" if value is None else _encode(value)


def to_sorted_json(value: Any) -> str:
    """Of equal objects the same text: metadata are compared by it."""
    return _encode_sorted(value)


def from_json(text: str) -> Any:
    if text == "null":
        return None
    if text.count("[") + text.count("{") > MOST_DEPTH:
        _check_depth(text)
    try:
        return _decode(text)
    except ValueError:
        return text  # edited by hand: the row stays readable, and the payload check will say what is wrong


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*+"|[^\[\]{}"]', "", text, flags=re.DOTALL):
        depth += 1 if bracket in "[{" else -1
        if depth > MOST_DEPTH:
            raise ValueError(f"JSON nested more than {MOST_DEPTH} deep")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _mapping(text: str) -> dict[str, Any]:
    found = from_json(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


@lru_cache(maxsize=256)
def _iso(when: datetime) -> str:
    return when.isoformat(timespec="microseconds")[:26] + "Z"


def to_time(when: datetime | None) -> str | None:
    """Fixed width, so that text order is time order. `when` is aware and in UTC."""
    return None if when is None else _iso(when)


def from_time(text: str | None) -> datetime | None:
    return None if text is None else _instant(text)


@lru_cache(maxsize=256)  # most instants of a new row are the same
def _instant(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is not UTC:
        raise ValueError("an instant not in UTC")
    return when


def readable_time(text: Any) -> datetime | None:
    """An instant, or None for what is none."""
    try:
        return from_time(text)
    except (ValueError, TypeError):
        return None


def _grace(seconds: float) -> float:
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{seconds} seconds")
    return seconds


_LONGEST: Final = 1e10
_FLAG: Final = {0: False, 1: True}
_STATUS: Final = {status.value: status for status in JobStatus}
_MISFIRE: Final = {word: word for word in ("once", "skip", "all")}
_text = lru_cache(maxsize=64)(str)
_CANONICAL: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def to_uuid(text: str) -> UUID:
    """Raises `ValueError` for any other way to write a UUID: no statement would find the row by it."""
    if not _CANONICAL.fullmatch(text):
        raise ValueError("not a UUID as str(UUID) writes it")
    return UUID(text)


_uuid = lru_cache(maxsize=64)(to_uuid)

Codec = tuple[str, str]
"""How a value is written to the database, and how it is read: expressions of `x`, which is no None."""

_TIME: Final = ("_iso(x)", "_instant(x)")
_CODECS: Final[dict[str, Codec]] = {
    "id": ("str(x)", "to_uuid(x)"),
    "job_id": ("str(x)", "to_uuid(x)"),
    "owner": ("_text(x)", "_uuid(x)"),
    "status": ("int(x)", "_STATUS[x]"),
    "outcome": ("str(x)", "RunOutcome(x)"),
    "payload": ("to_json(x)", "from_json(x)"),
    "extra_properties": ("'{}' if not x else to_sorted_json(x)", "{} if (x) == '{}' else _mapping(x)"),
    "misfire": ("x", "_MISFIRE[x]"),
    "misfire_grace": ("x", "_grace(x)"),
    **dict.fromkeys(("paused", "manual", "off_schedule", "trigger_pending", "holds_name"), ("int(x)", "_FLAG[x]")),
    **dict.fromkeys(
        ("created_at", "modified_at", "handled_time", "due_at", "start", "until", "anchor", "occurrence",
         "last_occurrence", "started_at", "finished_at"),
        _TIME,
    ),
}  # fmt: skip
_NOT_NULL: Final = (
    "id", "job_id", "status", "extra_properties", "created_at", "modified_at", "anchor", "misfire", "misfire_grace",
)  # fmt: skip
_SCOPE: Final[dict[str, Any]] = {
    "_iso": _iso, "_instant": _instant, "to_uuid": to_uuid, "_text": _text, "_uuid": _uuid, "_STATUS": _STATUS,
    "RunOutcome": RunOutcome, "to_json": to_json, "to_sorted_json": to_sorted_json, "from_json": from_json,
    "_mapping": _mapping, "_FLAG": _FLAG, "_MISFIRE": _MISFIRE, "_grace": _grace,
}  # fmt: skip


def _converted(name: str, value: str, way: int) -> str:
    """`value`, an expression, converted one way: 0 to the database, 1 from it."""
    if name not in _CODECS:
        return value
    code = _CODECS[name][way]
    if code == "x":
        return value
    if name == "payload":  # None is a payload too
        return code.replace("(x)", f"({value})")
    whole = code.replace("(x)", f"({value})").replace("not x", f"not {value}")
    whole = whole.replace("[x]", f"[{value}]")
    return whole if name in _NOT_NULL else f"None if {value} is None else {whole}"


def _reader(cls: type[Any], names: tuple[str, ...]) -> Callable[[Sequence[Any]], Any]:
    """Compile `row -> cls(...)`: one expression, since it runs for every job claimed."""
    parts = [f"{name!r}: {_converted(name, f'r[{index}]', 1)}" for index, name in enumerate(names)]
    scope = {**_SCOPE, "cls": cls, "filled": filled}
    made: Callable[[Sequence[Any]], Any] = eval(
        f"lambda r: ({_type_checks(cls, names)}, filled(cls, {{{', '.join(parts)}}}))[-1]", scope
    )
    return made


def _type_checks(cls: type[Any], names: tuple[str, ...]) -> str:
    """Two expressions that raise TypeError where a column without conversion holds another type: the cheapest way."""
    plain: dict[str, list[str]] = {"str": [], "int": []}
    nothing = {"str": "''", "int": "0"}
    annotations = {field.name: str(field.type) for field in attrs.fields(cls)}
    for index, name in enumerate(names):
        if name not in _CODECS:
            kind = annotations[name].removesuffix(" | None")
            optional = f"{nothing[kind]} if r[{index}] is None else "
            plain[kind].append(f"({'' if kind == annotations[name] else optional}r[{index}])")
    return f"''.join(({', '.join(plain['str'])},)), 0 | {' | '.join(plain['int'])}"


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

_job: Final[Callable[[Sequence[Any]], JobInfo]] = _reader(JobInfo, JOB_COLUMNS)
_run: Final[Callable[[Sequence[Any]], JobRun]] = _reader(JobRun, RUN_COLUMNS)
write_job: Final = _writer(JOB_COLUMNS)
write_run: Final = _writer(RUN_COLUMNS)
write_definition: Final = _writer(DEFINITION_COLUMNS)
_state = _writer(("job_id", "seq", "schedule_rev", "next_seq", "next_rev", *STATE_COLUMNS))


def write_change(change: Change) -> list[Any]:
    """job_id, expected seq and schedule_rev, new seq and schedule_rev, then STATE_COLUMNS."""
    return _state(change)


JOBS_AS_JSON: Final = f"json_group_array(json_array({', '.join(JOB_COLUMNS)}))"
"""All rows in one step: a step per row would hand the interpreter lock back and forth for each."""


# -- what cannot be read -------------------------------------------------------------------------

QUARANTINED: Final = "quarantined: "
"""How the error of a row begins that was set aside, whatever of it has become readable by that."""
REMEDY: Final = "It is kept and does not run: delete it, and enqueue it again."
_WRONG: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STAND_INS: Final[dict[str, Any]] = {
    "id": UUID(int=0), "job_id": UUID(int=0), "status": JobStatus.FAILED, "seq": 0, "schedule_rev": 0, "token": 0,
    "created_at": _EPOCH, "modified_at": _EPOCH, "anchor": _EPOCH, "expression_value": "@once",
}  # fmt: skip


def _types(annotation: str) -> frozenset[type]:
    """What SQLite may hand out for a column."""
    base = annotation.removesuffix(" | None")
    number = {"int": (int,), "bool": (int,), "JobStatus": (int,), "float": (float, int)}
    none = (type(None),) if base != annotation else ()
    return frozenset((*number.get(base, (str,)), *none))


@attrs.frozen
class _Column:
    name: str
    types: frozenset[type]
    read: Callable[[Any], Any]
    default: Any

    def value(self, raw: Any) -> Any:
        if type(raw) not in self.types:
            raise TypeError(f"a {type(raw).__name__}")
        return self.read(raw)


def _columns(cls: type[Any]) -> tuple[_Column, ...]:
    found = []
    for field in attrs.fields(cls):
        read = eval(f"lambda x: {_converted(field.name, 'x', 1)}", dict(_SCOPE))
        default = None if field.default is attrs.NOTHING or isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
        default = _STAND_INS.get(field.name, default)
        found.append(_Column(field.name, _types(str(field.type)), read, default))
    return tuple(found)


_JOB: Final = _columns(JobInfo)
_RUN: Final = _columns(JobRun)


def read_job(row: Sequence[Any]) -> JobInfo:
    """A row, or what stands for it (`Unreadable`)."""
    try:
        job = _job(row)
    except _WRONG:
        return _unreadable(row)
    error = job.last_error
    return job if error is None or not error.startswith(QUARANTINED) else _unreadable(row)


def read_run(row: Sequence[Any]) -> JobRun:
    values, wrong = _values(_RUN, row)
    return JobRun(**values | ({"error": wrong} if wrong else {}))


def _unreadable(row: Sequence[Any]) -> JobInfo:
    values, wrong = _values(_JOB, row)
    before = values["last_error"] or ""
    if not wrong and not (before.startswith(QUARANTINED) and values["status"] is JobStatus.FAILED):
        return filled(JobInfo, values)
    for name in ("job_name", "handler_name"):
        values[name] = shown(row[JOB_COLUMNS.index(name)]) if values[name] is None else values[name]
    values["extra_properties"] = values["extra_properties"] or {}
    stored = dict(zip(JOB_COLUMNS, row, strict=True))
    if values["id"] == _STAND_INS["id"]:
        values["id"] = stand_in(stored["id"])
    error = before if before.startswith(QUARANTINED) else f"{wrong}. {REMEDY}"
    return filled(Unreadable, values | {"last_error": error, "stored": stored})


def stand_in(stored: object) -> UUID:
    """The id under which a row is known whose stored id cannot be read: the same each time it is read."""
    return uuid5(NAMESPACE_OID, repr(stored))


def stand_ins(text: str) -> tuple[UUID, UUID]:
    """The same for a stored id as `check` shows it: text as it is, or a BLOB as Python writes it."""
    return stand_in(text), uuid5(NAMESPACE_OID, text)


def _values(columns: tuple[_Column, ...], row: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """The values of a row, and in words what of it cannot be read."""
    values, wrong = {}, []
    for column, raw in zip(columns, row, strict=True):
        try:
            values[column.name] = column.value(raw)
        except _WRONG as error:
            values[column.name] = column.default
            wrong.append(f"{column.name} is {shown(raw)} ({first_words(error)})")
    return values, f"its row cannot be read: {'; '.join(wrong)}" if wrong else ""


def first_words(error: BaseException) -> str:
    return shown(str(error))[1:-1] if str(error) else type(error).__name__


def read_jobs(rows: str | Sequence[Sequence[Any]]) -> list[JobInfo]:
    """Those that cannot be read come as `Unreadable`."""
    return [read_job(row) for row in (json.loads(rows) if isinstance(rows, str) else rows)]
