"""Reads for people: attempts of all jobs, failures in groups, and how to search for an error or a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from aether_bg.model import FailureGroup, Failures, JobStatus, Ran, RunOutcome, Runs
from aether_bg.model.job import error_line
from aether_bg.plugins.postgres.columns import RUN_COLUMNS, from_text, selected
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.reading import run_of
from aether_bg.plugins.postgres.schema import ATTEMPTED, Schema

ENDED: Final = "status > 1 AND handled_time IS NOT NULL"


def head(column: str) -> str:
    """As much of an error as `error_line` needs: its first line, or all of one that is stored as JSON."""
    line = f"left(split_part({column}, chr(10), 1), 200)"
    return f"CASE WHEN left({column}, 1) = chr(1) THEN {column} ELSE {line} END"


def has_line(column: str, line: str) -> str:
    """Whether its line may be this parameter; errors stored as JSON cannot be judged here."""
    return f"(left({column}, 1) = chr(1) OR left(split_part(coalesce({column}, ''), chr(10), 1), 200) = {line})"


def _line(stored: str | None) -> str:
    return error_line(None if stored is None else from_text(stored))


def runs(conn: Connection, schema: Schema, query: Runs) -> list[Ran]:
    terms, given = ATTEMPTED.split(" AND "), dict[str, Any](limit=query.limit)
    for name, term, value in (
        ("after", "finished_at > %(after)s", query.after), ("before", "finished_at < %(before)s", query.before),
        ("outcomes", "outcome = ANY(%(outcomes)s::text[])", query.outcomes),
    ):  # fmt: skip
        if value is not None:
            terms.append(term)
            given[name] = [str(outcome) for outcome in value] if isinstance(value, tuple) else value
    table = f"(SELECT * FROM {{schema}}.runs WHERE {' AND '.join(terms)}) AS r"
    if query.ids is not None:
        given["ids"] = list(dict.fromkeys(query.ids))
        some = "ORDER BY token DESC LIMIT 1" if query.last else ""
        table = f"""unnest(%(ids)s::uuid[]) AS wanted CROSS JOIN LATERAL (
            SELECT * FROM {{schema}}.runs WHERE job_id = wanted AND {" AND ".join(terms)} {some}
        ) AS r"""
    elif query.last:
        table = f"""(SELECT DISTINCT ON (job_id) * FROM {{schema}}.runs
            WHERE {" AND ".join(terms)} ORDER BY job_id, token DESC) AS r"""
    of_one = "" if query.handler_name is None else "WHERE j.handler_name = %(handler)s"
    given["handler"] = query.handler_name
    whole = f", {selected(RUN_COLUMNS, 'r.')}" if query.whole else ""
    sql = schema.once(f"""
    SELECT r.job_id, r.token, j.job_name, j.handler_name, r.attempt, r.outcome, r.started_at, r.finished_at,
        {head("r.error")}{whole}
    FROM {table} JOIN {{schema}}.jobs AS j ON j.id = r.job_id {of_one}
    ORDER BY r.finished_at DESC, r.job_id DESC, r.token DESC LIMIT %(limit)s
    """)
    return [
        Ran(
            job_id=job_id, token=token, job_name=job_name, handler_name=handler, attempt=attempt,
            outcome=RunOutcome(outcome), started_at=started, finished_at=finished, error_line=_line(error),
            run=run_of(row) if row else None,
        )
        for job_id, token, job_name, handler, attempt, outcome, started, finished, error, *row in conn.execute(
            sql, given, binary=True
        )
    ]  # fmt: skip


def failures(conn: Connection, schema: Schema, query: Failures) -> list[FailureGroup]:
    of_one = "" if query.handler_name is None else "AND handler_name = %(handler)s"
    sql = schema.once(f"""
    SELECT handled_time, id, handler_name, {head("last_error")} FROM {{schema}}.jobs
    WHERE status = {int(JobStatus.FAILED)} AND {ENDED} {of_one} ORDER BY handled_time DESC, id DESC LIMIT %(among)s
    """)
    given = {"among": query.among, "handler": query.handler_name}

    def lines() -> Iterator[tuple[datetime, UUID, str, str]]:
        for at, job_id, handler, error in conn.execute(sql, given, binary=True):
            yield at, job_id, handler, _line(error)

    return query.grouped(lines())
