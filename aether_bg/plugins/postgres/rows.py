"""Rows of jobs as values, with a stand-in for a row that cannot be read, and how such a row is set aside (C8).

The types and constraints of the tables leave few possible faults: JSON nested too deep, or written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from aether_bg.errors import shown
from aether_bg.model import JobInfo, Unreadable
from aether_bg.model.filled import filled
from aether_bg.plugins._stored import REMEDY, WRONG
from aether_bg.plugins.postgres.columns import JOB_COLUMNS, JOB_READERS, job_of, to_text
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.schema import Schema

_DEFAULTS: Final = {
    field.name: None if field.default is attrs.NOTHING or isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
    for field in attrs.fields(JobInfo)
} | {"extra_properties": {}, "expression_value": "@once"}  # fmt: skip

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
