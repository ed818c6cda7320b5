"""Rows as values: which columns differ from what the driver returns, and how to read each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aether_bg.model import JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.model.filled import filled
from aether_bg.plugins.postgres.columns import (
    FREE,
    JOB_COLUMNS,
    RUN_COLUMNS,
    from_json,
    from_mapping,
    from_text,
    progress_of,
    type_of,
)

_STATUS: Final = {status.value: status for status in JobStatus}
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "status": _STATUS.__getitem__, "outcome": RunOutcome, "progress": progress_of,
    "payload": from_json, "extra_properties": from_mapping,
    **dict.fromkeys(FREE, from_text),
}  # fmt: skip
"""How to read columns whose value differs from the driver's; never called with None."""


def _readers(columns: Sequence[str]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    readers = {name: from_json for name in columns if type_of(name) == "json"} | _READERS
    return tuple((name, readers[name]) for name in columns if name in readers)


JOB_READERS: Final = _readers(JOB_COLUMNS)
"""The columns of a job whose value differs from the driver's, and how to read each."""
_RUN_READERS: Final = _readers(RUN_COLUMNS)


def job_of(row: Sequence[Any]) -> JobInfo:
    """The job of a row of `selected(JOB_COLUMNS)`. Raises for a value that cannot be read (see `rows`)."""
    fields = _fields(JOB_COLUMNS, JOB_READERS, row)
    fields["handler_paused"] = False  # kept apart from the rows
    return filled(JobInfo, fields)


def run_of(row: Sequence[Any]) -> JobRun:
    return filled(JobRun, _fields(RUN_COLUMNS, _RUN_READERS, row))


def _fields(
    columns: Sequence[str], readers: Iterable[tuple[str, Callable[[Any], Any]]], row: Sequence[Any]
) -> dict[str, Any]:
    fields = dict(zip(columns, row, strict=True))
    for name, read in readers:
        if (value := fields[name]) is not None:
            fields[name] = read(value)
    return fields
