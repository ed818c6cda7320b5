"""SQL for a connection of the user's own, in the user's transaction (docs/protocol.md, W13).

A row goes in as one text: an array with the text of each column, whose types are written out in the statement. It comes
back as one text as well: a JSON array. So any driver can send and receive it, whatever it makes of other types.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aether_bg.errors import Unsupported
from aether_bg.model import Change, Insert, JobInfo, JobStatus, ParamStyle, Statement, Update, Write
from aether_bg.plugins.postgres.columns import (
    GUARD_COLUMNS,
    JOB_COLUMNS,
    RUN_COLUMNS,
    STATE_COLUMNS,
    quoted,
    type_of,
    write_changes,
    write_jobs,
    write_runs,
)
from aether_bg.plugins.postgres.reading import job_of
from aether_bg.plugins.postgres.rows import as_text, values_of
from aether_bg.plugins.postgres.schema import Schema

_APART: Final = 0.05
"""Seconds between two NOTIFYs in users' transactions: with one, a commit waits for every other commit that has one."""
_CHANGE: Final = (*GUARD_COLUMNS, *STATE_COLUMNS, "progress")
_KEY: Final = ("job_id", "token", "gap")
_TEXT: Final = "CAST({place} AS text)"


def _values(columns: Sequence[str], array: str) -> str:
    return ", ".join(f"CAST({array}[{number}] AS {type_of(name)})" for number, name in enumerate(columns, 1))


def _named(columns: Sequence[str], array: str) -> str:
    return ", ".join(f"CAST({array}[{number}] AS {type_of(name)}) AS {name}" for number, name in enumerate(columns, 1))


def _answer(table: str) -> str:
    """The id, and the row."""
    return f"CAST({table}.id AS text) AS id, {as_text(table)} AS row"


INSERT: Final = f"""
WITH given AS MATERIALIZED (SELECT CAST({_TEXT.format(place="{job}")} AS text[]) AS v), put AS (
    INSERT INTO {{schema}}.jobs AS j ({", ".join(JOB_COLUMNS)}) SELECT {_values(JOB_COLUMNS, "v")} FROM given
    ON CONFLICT (job_name) WHERE holds_name DO NOTHING RETURNING {_answer("j")}
)
SELECT id, row FROM put
UNION ALL
SELECT {_answer("h")} FROM {{schema}}.jobs AS h WHERE h.holds_name AND NOT EXISTS (SELECT FROM put)
AND h.job_name = (SELECT v[{JOB_COLUMNS.index("job_name") + 1}] FROM given)
"""
UPDATE: Final = f"""
WITH v AS MATERIALIZED (
    SELECT {_named(_CHANGE, "given.v")} FROM (SELECT CAST({_TEXT.format(place="{change}")} AS text[]) AS v) AS given
), saved AS (
    UPDATE {{schema}}.jobs AS j SET seq = v.next_seq, schedule_rev = v.next_rev,
        {", ".join(f"{name} = v.{name}" for name in STATE_COLUMNS)}, progress = coalesce(v.progress, j.progress),
        checkpoint = CASE WHEN v.status > 1 OR v.attempt = 0 THEN NULL ELSE j.checkpoint END
    FROM v WHERE j.id = v.job_id AND j.seq = v.seq AND j.schedule_rev = v.schedule_rev RETURNING {_answer("j")}
), told AS (
    INSERT INTO {{schema}}.runs ({", ".join(RUN_COLUMNS)}) SELECT {_values(RUN_COLUMNS, "run.v")}
    FROM (SELECT CAST(r AS text[]) AS v FROM unnest(CAST({_TEXT.format(place="{runs}")} AS text[])) AS r) AS run
    WHERE EXISTS (SELECT FROM saved) ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in RUN_COLUMNS if name not in _KEY)}
)
SELECT id, row FROM saved
UNION ALL
SELECT NULL, NULL FROM v WHERE NOT EXISTS (SELECT FROM saved) AND {{schema}}.all_of(
    (SELECT count(*) FROM {{schema}}.jobs AS j WHERE j.id = v.job_id AND j.seq = v.seq), 1, '{{}}') <> 1
"""
"""All, none where schedule_rev has moved on, or the error of a guard that did not hold where seq has."""
SETTLE: Final = f"""
WITH given AS MATERIALIZED (
    SELECT CAST({_TEXT.format(place="{parent}")} AS uuid) AS parent,
        CAST({_TEXT.format(place="{at}")} AS timestamptz) AS at, {_TEXT.format(place="{channel}")} AS channel
), freed AS (
    UPDATE {{schema}}.links AS l SET waiting = false FROM given WHERE l.waiting AND l.parent = given.parent
    RETURNING l.child
), held AS (
    SELECT id FROM {{schema}}.jobs WHERE id IN (SELECT child FROM freed) AND status = 0 AND waits_for > 0
    ORDER BY id FOR UPDATE
), saved AS (
    UPDATE {{schema}}.jobs AS j SET waits_for = j.waits_for - 1,
        due_at = CASE WHEN j.due_at IS NOT NULL THEN greatest(j.due_at, given.at) END,
        seq = j.seq + CASE WHEN j.waits_for = 1 THEN 1 ELSE 0 END,
        modified_at = CASE WHEN j.waits_for = 1 THEN given.at ELSE j.modified_at END
    FROM held, given WHERE j.id = held.id RETURNING j.waits_for
)
SELECT CAST(pg_notify(given.channel, '') AS text) FROM given WHERE EXISTS (SELECT FROM saved WHERE waits_for = 0)
"""
"""What a parent that is COMPLETED makes of its children, as `relieved` says, once its row is locked."""
NOTIFY: Final = f"SELECT pg_notify({_TEXT.format(place='{channel}')}, '')"


class Statements:
    """Of one schema. From any thread."""

    def __init__(self, schema: Schema) -> None:
        self._schema, self._notified = schema, 0.0

    def make(self, writes: Sequence[Write], style: ParamStyle) -> list[Statement]:
        """Raises `Unsupported` for what is not one row."""
        made = [statement for write in writes for statement in self._of(write, style)]
        now = time.monotonic()
        if any(write.wakes for write in writes) and now - self._notified > _APART:
            self._notified = now
            made.append(self._statement(NOTIFY, style, None, channel=self._schema.channel))
        return made

    def _of(self, write: Write, style: ParamStyle) -> list[Statement]:
        if isinstance(write, Insert) and not write.after:
            return [self._statement(INSERT, style, _row, job=_array(write_jobs([write.job])))]
        if isinstance(write, Update) and _of_one_row(write.change):
            runs = ",".join(quoted(_array(write_runs([run]))) for run in write.change.runs)
            change = _array(write_changes([write.change]))
            made = [self._statement(UPDATE, style, _row, change=change, runs=f"{{{runs}}}")]
            if write.change.status is JobStatus.COMPLETED and runs:
                about = {"parent": str(write.change.job_id), "at": write.change.modified_at.isoformat()}
                made.append(self._statement(SETTLE, style, None, **about, channel=self._schema.channel))
            return made
        what = "a job that runs after others" if isinstance(write, Insert) else f"{type(write).__name__} of this kind"
        raise Unsupported(
            what, "it is more than one row, and a connection of yours writes one", "Use unit_of_work, or no connection."
        )

    def _statement(
        self, template: str, style: ParamStyle, read: Callable[[Sequence[Any]], JobInfo] | None, **texts: str
    ) -> Statement:
        places = {"%s": "%s", "$1": "${}", ":name": ":{}"}[style]
        text = template
        for number, name in enumerate(texts, 1):
            text = text.replace(f"{{{name}}}", places.format(name if style == ":name" else number))
        sql = self._schema.once(text).decode().strip()
        values = texts if style == ":name" else tuple(texts.values())
        return Statement(sql, values, read, hint=template is NOTIFY)


def _of_one_row(change: Change) -> bool:
    return change.definition is None and not change.rejoins


def _array(literals: Iterable[str]) -> str:
    """Of arrays with one value each, one array of them all."""
    return f"{{{','.join([text[1:-1] for text in literals])}}}"


def _row(row: Sequence[Any]) -> JobInfo:
    return job_of(values_of(row[1]))
