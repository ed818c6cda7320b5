"""A job that begins with its insert: its row and its history row in one statement (docs/protocol.md, C9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from aether_bg.model import Insert, JobInfo
from aether_bg.plugins._first import NEW, is_new
from aether_bg.plugins.postgres.columns import (
    BEGUN_COLUMNS,
    JOB_COLUMNS,
    alike,
    arrays,
    encode,
    from_json,
    from_mapping,
    to_mapping,
    write_begun,
    write_jobs,
)
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.prepared import fetch, numbered
from aether_bg.plugins.postgres.schema import Schema


def _statement(columns: Sequence[str], same: Mapping[str, str]) -> str:
    return numbered(f"""
WITH put AS (
    INSERT INTO {{schema}}.jobs ({", ".join((*columns, *same))})
    SELECT {", ".join((*(f"v.{name}" for name in columns), *same.values()))}
    FROM unnest({arrays(columns)}) AS v({", ".join(columns)})
    WHERE EXISTS (SELECT FROM {{schema}}.owners AS o WHERE o.id = v.owner)
    AND NOT EXISTS (SELECT FROM {{schema}}.handlers AS held WHERE held.name = v.handler_name)
    RETURNING id, seq, attempt, occurrence, started_at, owner
)
INSERT INTO {{schema}}.runs (job_id, token, gap, attempt, occurrence, started_at, owner, count)
SELECT id, seq, 0, attempt, occurrence, started_at, owner, 1 FROM put RETURNING token
""")


INSERT_BEGUN: Final = _statement(JOB_COLUMNS, {})
INSERT_FIRST: Final = _statement(BEGUN_COLUMNS, alike(NEW, BEGUN_COLUMNS))


def insert(conn: Connection, schema: Schema, wanted: Insert) -> JobInfo | None:
    """The row with which the job has begun, as it would be read; None if nothing was inserted, as no claim could take
    it."""
    if wanted.claim is None:
        return None
    row = wanted.claim.take(wanted.job)
    usual = is_new(wanted.job)
    sql, columns = (INSERT_FIRST, write_begun(row)) if usual else (INSERT_BEGUN, write_jobs([row]))
    if not fetch(conn, schema(sql), columns):
        return None
    payload, notes = from_json(encode(row.payload)), from_mapping(to_mapping(row.extra_properties))
    return attrs.evolve(row, payload=payload, extra_properties=notes)
