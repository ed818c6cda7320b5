"""Rows of jobs and history as values, with a stand-in for a row that cannot be read (docs/protocol.md, C8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import attrs

from aether_bg.errors import shown
from aether_bg.model import JobInfo, JobRun, JobStatus, Unreadable
from aether_bg.model.filled import filled
from aether_bg.plugins._first import COMMON, NEW, OWN, made
from aether_bg.plugins._stored import REMEDY, WRONG, written_types
from aether_bg.plugins.sqlite.columns import (
    JOB_COLUMNS,
    READ,
    RUN_COLUMNS,
    from_json,
    instant,
    literal,
    mapping,
    to_owner,
    to_time,
    write_job,
)

JOBS_AS_JSON: Final = f"json_group_array(json_array({', '.join(JOB_COLUMNS)}))"
"""All rows in one step: a step per row would hand the interpreter lock back and forth for each."""

_MANY: Final = 8
"""From this number of rows on, they are read column by column."""
_ERROR: Final = JOB_COLUMNS.index("last_error")
QUARANTINED: Final = "quarantined: "
"""How the error of a row begins that was set aside although its columns can be read by now."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STAND_INS: Final[dict[str, Any]] = {
    "id": UUID(int=0), "job_id": UUID(int=0), "status": JobStatus.FAILED, "seq": 0, "schedule_rev": 0, "token": 0,
    "created_at": _EPOCH, "modified_at": _EPOCH, "anchor": _EPOCH, "expression_value": "@once",
}  # fmt: skip


def _types(annotation: str) -> frozenset[type]:
    """What SQLite may return for a column."""
    base = annotation.removesuffix(" | None")
    number = {"int": (int,), "bool": (int,), "JobStatus": (int,), "float": (float, int)}
    none = (type(None),) if base != annotation else ()
    return frozenset((*number.get(base, (str,)), *none))


def _as_stored(value: Any) -> Any:
    return value


_ITS_OWN: Final = (from_json, mapping)
"""Makes mutable values: each row gets one of its own."""


_STRICT: Final = (str, type(None))
"""What is equal to a value of these types has its type."""


@attrs.frozen
class _Column:
    name: str
    types: frozenset[type]
    read: Callable[[Any], Any]
    default: Any

    def value(self, raw: Any) -> Any:
        if type(raw) not in self.types:
            raise TypeError(f"a {type(raw).__name__}")
        return None if raw is None else self.read(raw)

    def values(self, raw: Sequence[Any]) -> Sequence[Any]:
        """The values of many rows: a value that is the same in all of them is read once."""
        first, read = raw[0], self.read
        same = type(first) in _STRICT and raw.count(first) == len(raw)
        types = {type(first)} if same else set(map(type, raw))
        if not self.types.issuperset(types):
            raise TypeError(f"one of {types}")
        if read is _as_stored:
            return raw
        if same and read not in _ITS_OWN:
            return [None if first is None else read(first)] * len(raw)
        return [None if value is None else read(value) for value in raw]


def _columns(cls: type[Any], names: Sequence[str]) -> tuple[_Column, ...]:
    found, fields, written = [], attrs.fields_dict(cls), written_types(cls)
    for field in map(fields.__getitem__, names):
        default = None if field.default is attrs.NOTHING or isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
        default = _STAND_INS.get(field.name, default)
        found.append(_Column(field.name, _types(written[field.name]), READ.get(field.name, _as_stored), default))
    return tuple(found)


_JOB: Final = _columns(JobInfo, JOB_COLUMNS)
_RUN: Final = _columns(JobRun, RUN_COLUMNS)
_RESULT: Final = RUN_COLUMNS.index("result")
_READERS: Final = [(column.name, column.types, column.read) for column in _JOB]
_NAMES: Final = (*JOB_COLUMNS, "handler_paused")


_NEW_STORED: Final = dict(zip(JOB_COLUMNS, write_job(NEW), strict=True))
FIRST_AS_JSON: Final = f"json_group_array(json_array({', '.join(OWN)}))"
IS_FIRST: Final = (
    f"attempt = 1 AND ({', '.join(COMMON)}) IS ({', '.join(literal(_NEW_STORED[name]) for name in COMMON)})"
)
"""Whether a row that has just been claimed is such a first attempt."""
_OWN: Final = tuple(column for column in _JOB if column.name in OWN)


def read_first(rows: str, owner: UUID, now: datetime) -> list[JobInfo]:
    """`FIRST_AS_JSON` of rows that this owner has claimed at `now`."""
    found = json.loads(rows)
    try:
        columns = _values_of(_OWN, found)
    except WRONG:
        stored = _NEW_STORED | {"owner": to_owner(owner), "started_at": to_time(now), "modified_at": to_time(now)}
        whole = (stored | dict(zip(OWN, row, strict=True)) for row in found)
        return [read_job([row[name] for name in JOB_COLUMNS]) for row in whole]
    return made(columns, owner, now)


def _values_of(columns: Sequence[_Column], rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Of each column the values of all rows. Instants that are the same in two columns are read once."""
    times: list[tuple[frozenset[type], Sequence[Any], Sequence[Any]]] = []
    found: list[Sequence[Any]] = []
    for column, raw in zip(columns, zip(*rows, strict=True), strict=True):
        if column.read is not instant:
            found.append(column.values(raw))
            continue
        known = next((values for types, other, values in times if types <= column.types and other == raw), None)
        if known is None:
            known = column.values(raw)
            times.append((column.types, raw, known))
        found.append(known)
    return found


def read_job(row: Sequence[Any]) -> JobInfo:
    """A row, or what stands for it (`Unreadable`)."""
    fields: dict[str, Any] = {"handler_paused": False}
    try:
        for (name, types, read), raw in zip(_READERS, row, strict=True):
            if type(raw) not in types:
                raise TypeError(name)
            fields[name] = raw if raw is None or read is _as_stored else read(raw)
    except WRONG:
        return _unreadable(row)
    error = fields["last_error"]
    return filled(JobInfo, fields) if error is None or not error.startswith(QUARANTINED) else _unreadable(row)


def read_run(row: Sequence[Any]) -> JobRun:
    values, wrong = _values(_RUN, row)
    values["has_result"] = row[_RESULT] is not None
    return JobRun(**values | ({"error": wrong} if wrong else {}))


def _unreadable(row: Sequence[Any]) -> JobInfo:
    values, wrong = _values(_JOB, row)
    values["handler_paused"] = False
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
    """The id for a row whose stored id cannot be read: the same each time it is read."""
    return uuid5(NAMESPACE_OID, repr(stored))


def stand_ins(text: str) -> tuple[UUID, UUID]:
    """The same for a stored id as `check` shows it: text as it is, or a BLOB as Python writes it."""
    return stand_in(text), uuid5(NAMESPACE_OID, text)


def _values(columns: tuple[_Column, ...], row: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """The values of a row, and in words which of them cannot be read."""
    values, wrong = {}, []
    for column, raw in zip(columns, row, strict=True):
        try:
            values[column.name] = column.value(raw)
        except WRONG as error:
            values[column.name] = column.default
            wrong.append(f"{column.name} is {shown(raw)} ({first_words(error)})")
    return values, f"its row cannot be read: {'; '.join(wrong)}" if wrong else ""


def first_words(error: BaseException) -> str:
    return shown(str(error))[1:-1] if str(error) else type(error).__name__


def read_jobs(rows: str | Sequence[Sequence[Any]]) -> list[JobInfo]:
    """Those that cannot be read come as `Unreadable`."""
    found: Sequence[Sequence[Any]] = json.loads(rows) if isinstance(rows, str) else rows
    if len(found) >= _MANY:
        try:
            columns = _values_of(_JOB, found)
            columns.append([False] * len(found))
        except WRONG:
            pass  # some row cannot be read: one by one
        else:
            if columns[_ERROR].count(None) == len(found):  # else one may be quarantined
                return [
                    filled(JobInfo, dict(zip(_NAMES, values, strict=True))) for values in zip(*columns, strict=True)
                ]
    return [read_job(row) for row in found]
