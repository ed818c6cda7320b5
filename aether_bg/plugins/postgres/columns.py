"""Which columns there are, and how values are written and read. A field of the model is a column of its type; a special
column is one line in a table here.

Values go in as one array literal per column, whatever the number of rows: psycopg's own lists cost twice as much. They
come out in PostgreSQL's binary form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, Final, TypeVar

import attrs

from aether_bg.model import Change, Definition, JobInfo, JobRun, JobStatus, Progress
from aether_bg.plugins import _stored
from aether_bg.plugins._first import OWN
from aether_bg.plugins._stored import check_depth, written_types

T = TypeVar("T")

JOB_COLUMNS: Final = tuple(name for name in attrs.fields_dict(JobInfo) if name != "handler_paused")
RUN_COLUMNS: Final = tuple(attrs.fields_dict(JobRun))
DEFINITION_COLUMNS: Final = tuple(attrs.fields_dict(Definition))
STATE_COLUMNS: Final = tuple(
    name
    for name in attrs.fields_dict(Change)
    if name in JOB_COLUMNS and name not in ("seq", "schedule_rev", "progress")
)
"""What every `Change` writes, besides seq and schedule_rev. Few have progress: it is written separately."""
COMPLETION_COLUMNS: Final = ("job_id", "seq", "schedule_rev", "modified_at", "modified_by")
"""What a `Completion` says; the rest follows from the row."""
SETTLED_COLUMNS: Final = (
    "id", "status", "seq", "waits_for", "due_at", "holds_name", "manual", "off_schedule", "handled_time", "last_error",
    "modified_at",
)  # fmt: skip
"""What the end of a parent changes in a child, after the child's id."""
NEW_COLUMNS: Final = (*OWN, "modified_at")
"""What is written of most new jobs; their other columns are all the same."""
BEGUN_COLUMNS: Final = (*NEW_COLUMNS, "owner", "started_at")
"""The same of those that begin with their insert."""
GUARD_COLUMNS: Final = ("job_id", "seq", "schedule_rev", "next_seq", "next_rev")

# -- types ---------------------------------------------------------------------------------------

_BY_ANNOTATION: Final = {
    "UUID": "uuid", "int": "integer", "float": "float8", "bool": "boolean", "datetime": "timestamptz",
    "JobStatus": "smallint", "Any": "json", "Mapping[str, Any]": "json", "Progress": "json",
}  # fmt: skip
_SPECIAL: Final = dict.fromkeys(("seq", "schedule_rev", "armed_seq", "token", "next_seq", "next_rev"), "bigint")
FREE: Final = frozenset(("last_error", "created_by", "modified_by", "expression_value", "error"))
"""Texts that may hold anything, also a NUL, which PostgreSQL's text cannot hold."""


def type_of(name: str) -> str:
    return _TYPES[name]


def _types() -> dict[str, str]:
    found = {}
    for cls in (JobRun, Change, JobInfo):
        written = written_types(cls)
        for field in attrs.fields(cls):
            annotation = written[field.name].removesuffix(" | None")
            found[field.name] = _SPECIAL.get(field.name, _BY_ANNOTATION.get(annotation, "text"))
    return found


_TYPES: Final = _types()


def selected(columns: Iterable[str], table: str = "") -> str:
    """Columns as a SELECT or RETURNING lists them, to be read by `job_of` or `run_of`."""
    return ", ".join(f"{table}{name}{'::text' if type_of(name) == 'json' else ''}" for name in columns)


def literal(value: Any) -> str:
    """A number, a boolean, None or a word, as SQL writes it."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    return repr(value.value if isinstance(value, JobStatus) else value)


def alike(row: JobInfo, columns: Iterable[str]) -> dict[str, str]:
    """All columns but these, each with its value in `row` as SQL writes it."""
    written = frozenset(columns)
    return {name: literal(getattr(row, name)) for name in JOB_COLUMNS if name not in written}


def arrays(columns: Iterable[str]) -> str:
    """Arguments of `unnest` for these columns."""
    return ", ".join(f"%s::{type_of(name)}[]" for name in columns)


# -- writing -------------------------------------------------------------------------------------

encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
encode_sorted = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode  # the same text for equal objects: metadata are searched by it
_decode = json.JSONDecoder().decode


def quoted(text: str) -> str:
    """An element of an array literal."""
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if '"' in text:
        text = text.replace('"', '\\"')
    return f'"{text}"'


_ODD: Final = re.compile("[\0\ud800-\udfff]")


def is_odd(text: str) -> bool:
    """Whether PostgreSQL's text cannot hold it."""
    return "\0" in text if text.isascii() else _ODD.search(text) is not None


def to_text(text: str) -> str:
    """The text as it is stored: unchanged, or as JSON after the character 1 if PostgreSQL could not hold it."""
    if text[:1] == "\x01" or is_odd(text):
        return f"\x01{encode(text)}"
    return text


def from_text(stored: str) -> str:
    return stored if stored[:1] != "\x01" else str(_decode(stored[1:]))


def to_json(value: Any) -> str:
    return "null" if value is None else encode(value)


def to_progress(progress: Progress) -> str:
    return encode(progress.to_dict())


def progress_of(text: str) -> Progress:
    found = _decode(text)
    at = datetime.fromisoformat(found["at"]).astimezone(UTC)
    return Progress.checked(found["done"], found["total"], found["note"], at)


def to_mapping(value: Mapping[str, Any]) -> str:
    return encode_sorted(dict(value)) if value else "{}"


def from_json(text: str) -> Any:
    if text == "null":
        return None
    check_depth(text)
    return _decode(text)


from_mapping = partial(_stored.mapping, from_json=from_json)


@lru_cache(maxsize=512)  # most instants of a batch are the same
def _instant(when: datetime) -> str:
    return f'"{when.isoformat()}"'


def _bool(value: Any) -> str:
    return "t" if value else "f"


def _uuid(value: Any) -> str:
    return f"{value.int:032x}"


_WRITERS: Final[dict[str, Callable[[Any], str]]] = {
    "text": lambda value: quoted(str(value)), "timestamptz": _instant, "boolean": _bool, "uuid": _uuid,
    "smallint": lambda value: str(int(value)), "integer": str, "bigint": str,
    "float8": lambda value: repr(float(value)), "json": lambda value: quoted(encode(value)),
}  # fmt: skip
_SPECIAL_WRITERS: Final[dict[str, Callable[[Any], str]]] = {
    "extra_properties": lambda value: quoted(to_mapping(value)),
    "progress": lambda value: quoted(to_progress(value)),
    **dict.fromkeys(FREE, lambda value: quoted(to_text(value))),
}


class _Writer:
    """How these columns are written, of any number of rows: each as an array."""

    def __init__(self, columns: Iterable[str]) -> None:
        names = tuple(columns)
        self._of_row = itemgetter(*names)
        self._columns = tuple(
            (
                '"null"' if name == "payload" else "NULL",  # there None is a value
                _SPECIAL_WRITERS.get(name) or _WRITERS[type_of(name)],
                type_of(name) != "json",  # 1 and True are equal, and not written alike
            )
            for name in names
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        if len(rows) == 1:
            values = zip(self._of_row(rows[0]), self._columns, strict=True)
            return [f"{{{none if value is None else write(value)}}}" for value, (none, write, _) in values]
        if not rows:
            return ["{}"] * len(self._columns)
        columns = zip(*map(self._of_row, rows), strict=True)
        before: dict[Callable[[Any], str], tuple[tuple[Any, ...], str]] = {}
        written = []
        for column, (none, write, alike) in zip(columns, self._columns, strict=True):
            same, text = before.get(write, ((), ""))
            if column != same or not alike:  # most instants of a new job are one
                text = _array(column, none, write, alike)
                before[write] = (column, text)
            written.append(text)
        return written


def _array(values: tuple[Any, ...], none: str, write: Callable[[Any], str], alike: bool) -> str:
    """Most columns have one value in all rows, which is written once."""
    first, count = values[0], len(values)
    if first == values[-1] and (alike or first is None) and values.count(first) == count:
        one = none if first is None else write(first)
        return f"{{{one}{f',{one}' * (count - 1)}}}"
    return f"{{{','.join([none if value is None else write(value) for value in values])}}}"


_JOB: Final = _Writer(JOB_COLUMNS)
_CHANGE: Final = _Writer((*GUARD_COLUMNS, *STATE_COLUMNS, "progress"))
_NEW: Final = _Writer(NEW_COLUMNS)
_BEGUN: Final = _Writer(BEGUN_COLUMNS)
_COMPLETION: Final = _Writer(COMPLETION_COLUMNS)
_RUN: Final = _Writer(RUN_COLUMNS)
_DEFINITION: Final = _Writer(DEFINITION_COLUMNS)
_SETTLED: Final = _Writer(SETTLED_COLUMNS)


def write_jobs(jobs: Sequence[JobInfo]) -> list[str]:
    """JOB_COLUMNS, each as an array."""
    return _JOB([vars(one) for one in jobs])


def write_new(jobs: Sequence[JobInfo]) -> list[str]:
    """NEW_COLUMNS."""
    return _NEW([vars(one) for one in jobs])


def write_begun(job: JobInfo) -> list[str]:
    """BEGUN_COLUMNS."""
    return _BEGUN([vars(job)])


def write_settled(jobs: Sequence[JobInfo]) -> list[str]:
    """SETTLED_COLUMNS."""
    return _SETTLED([vars(one) for one in jobs])


def write_changes(changes: Sequence[Change]) -> list[str]:
    """GUARD_COLUMNS, STATE_COLUMNS, progress."""
    return _CHANGE([vars(one) for one in changes])


def write_completions(changes: Sequence[Change]) -> list[str]:
    """COMPLETION_COLUMNS."""
    return _COMPLETION([vars(one) for one in changes])


def write_runs(runs: Sequence[JobRun]) -> list[str]:
    """RUN_COLUMNS."""
    return _RUN([vars(one) for one in runs])


def write_definitions(definitions: Sequence[Definition]) -> list[str]:
    """DEFINITION_COLUMNS."""
    return _DEFINITION([attrs.asdict(one, recurse=False) for one in definitions])


def array(values: Iterable[Any], write: Callable[[Any], str]) -> str:
    return f"{{{','.join(['NULL' if value is None else write(value) for value in values])}}}"


def uuids(ids: Iterable[Any]) -> str:
    return f"{{{','.join(map(_uuid, ids))}}}"
