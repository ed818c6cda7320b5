"""Rows of jobs as values, with a stand-in for a row that cannot be read, and how such a row is set aside (C8).

The types and constraints of the tables leave few possible faults: JSON nested too deep, or written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.errors import shown
from aether_bg.model import JobInfo, Unreadable
from aether_bg.model.filled import filled
from aether_bg.plugins._first import COMMON, NEW, OWN, made
from aether_bg.plugins._stored import REMEDY, WRONG
from aether_bg.plugins.postgres.columns import (
    JOB_COLUMNS,
    literal,
    selected,
    to_text,
    type_of,
)
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.reading import JOB_READERS, job_of
from aether_bg.plugins.postgres.schema import Schema

_DEFAULTS: Final = {
    field.name: None if field.default is attrs.NOTHING or isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
    for field in attrs.fields(JobInfo)
} | {"extra_properties": {}, "expression_value": "@once"}  # fmt: skip


def as_text(table: str) -> str:
    """All columns of a job as one text, whatever a driver makes of their types; `values_of` reads it."""
    columns = ", ".join(
        f"CAST({table}.{name} AS text)" if type_of(name) == "json" else f"{table}.{name}" for name in JOB_COLUMNS
    )
    return f"CAST(json_build_array({columns}) AS text)"


def values_of(text: str) -> list[Any]:
    """JOB_COLUMNS from `as_text`, as `selected` gives them."""
    return [
        value if value is None or (read := _FROM_JSON.get(type_of(name))) is None else read(value)
        for name, value in zip(JOB_COLUMNS, json.loads(text), strict=True)
    ]


_FROM_JSON: Final[dict[str, Callable[[Any], Any]]] = {
    "uuid": UUID, "float8": float, "timestamptz": lambda text: datetime.fromisoformat(text).astimezone(UTC),
}  # fmt: skip


def _is_first(table: str) -> str:
    same = (f"{table}.{name} IS NOT DISTINCT FROM {literal(getattr(NEW, name))}" for name in COMMON)
    return " AND ".join((f"{table}.attempt = 1", *same))


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_OWN_READERS: Final = tuple((OWN.index(name), _optional(read)) for name, read in JOB_READERS if name in OWN)

SET_ASIDE: Final = """
WITH ended AS (
    UPDATE {schema}.jobs SET status = 3, seq = seq + 1, due_at = NULL, owner = NULL, manual = false,
        off_schedule = false, trigger_pending = false, handled_time = clock_timestamp(),
        modified_at = clock_timestamp(), last_error = %(error)s
    WHERE id = %(id)s AND seq = %(seq)s AND status < 2 RETURNING id
), told AS (
    UPDATE {schema}.runs SET outcome = 'failed', finished_at = clock_timestamp(), error = %(error)s
    FROM ended WHERE job_id = ended.id AND outcome IS NULL
)
SELECT id FROM ended
"""


def read_job(row: Sequence[Any]) -> JobInfo:
    """A row, or what stands for it (`Unreadable`)."""
    try:
        return job_of(row)
    except WRONG:
        return _unreadable(row)


FIRST: Final = f"{selected(OWN, 'j.')}, CASE WHEN {_is_first('j')} THEN NULL ELSE {as_text('j')} END AS whole"
"""What is read of a row that has just been claimed: OWN, and the whole row unless it is a first attempt."""


def read_claimed(rows: Iterable[Sequence[Any]], owner: UUID, now: datetime) -> list[JobInfo]:
    """Rows of FIRST that this owner has claimed at `now`, in any order."""
    first, whole = list[Sequence[Any]](), list[str]()
    for row in rows:
        if row[-1] is None:
            first.append(row)
        else:
            whole.append(row[-1])
    jobs = [read_job(values_of(text)) for text in whole]
    if not first:
        return jobs
    columns: list[Any] = list(zip(*first, strict=True))
    try:
        for place, read in _OWN_READERS:
            columns[place] = _all_read(columns[place], read)
        return jobs + made(columns[:-1], owner, now)
    except WRONG:
        stored = {name: getattr(NEW, name) for name in JOB_COLUMNS} | {"status": NEW.status.value, "owner": owner}
        stored |= {"started_at": now, "modified_at": now}
        each = (stored | dict(zip(OWN, row[:-1], strict=True)) for row in first)
        return jobs + [read_job([row[name] for name in JOB_COLUMNS]) for row in each]


def _all_read(values: Sequence[Any], read: Callable[[Any], Any]) -> Sequence[Any]:
    """Where all are the same text, or nothing, it is read once. Other values may be changed, so each job has its
    own."""
    first = values[0]
    if values[-1] == first and values.count(first) == len(values) and isinstance(value := read(first), str | None):
        return [value] * len(values)
    return list(map(read, values))


def _unreadable(row: Sequence[Any]) -> JobInfo:
    stored, wrong = dict(zip(JOB_COLUMNS, row, strict=True)), list[str]()
    values = dict(stored)
    for name, read in JOB_READERS:
        try:
            values[name] = None if stored[name] is None else read(stored[name])
        except WRONG as error:
            values[name] = _DEFAULTS[name]
            wrong.append(f"{name} is {shown(stored[name])} ({shown(str(error) or type(error).__name__)[1:-1]})")
    said = f"its row cannot be read: {'; '.join(wrong)}. {REMEDY}"
    return filled(Unreadable, values | {"handler_paused": False, "last_error": said, "stored": stored})


def set_aside(conn: Connection, schema: Schema, found: Iterable[JobInfo]) -> list[str]:
    """FAILED with the reason, so that the other rows run; returns what to report about them."""
    told = []
    for job in found:
        error = job.last_error or REMEDY
        given = {"id": job.id, "seq": job.seq, "error": to_text(error)}
        if conn.execute(schema(SET_ASIDE), given).fetchall():
            told.append(f"job {job.id} ({shown(job.job_name)}) is FAILED: {error}")
    return told
