"""Insert and Update: rows of one kind are one statement, and all of them one round trip.

Statements of ours take rows in the order of their ids, or names, so that no two of them wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from aether_bg.errors import AetherError, NameHeld, Stale, StoreContended, StoreRefused
from aether_bg.model import KEEP, Call, Change, Completion, Hold, Insert, JobInfo, Note, Update, Write
from aether_bg.plugins._first import AS_NEW, is_new
from aether_bg.plugins.postgres import at_once, trouble
from aether_bg.plugins.postgres.columns import (
    COMPLETION_COLUMNS,
    DEFINITION_COLUMNS,
    GUARD_COLUMNS,
    JOB_COLUMNS,
    NEW_COLUMNS,
    RUN_COLUMNS,
    STATE_COLUMNS,
    alike,
    arrays,
    encode,
    selected,
    to_progress,
    to_text,
    uuids,
    write_changes,
    write_completions,
    write_definitions,
    write_jobs,
    write_new,
    write_runs,
)
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.prepared import numbered, run
from aether_bg.plugins.postgres.rows import read_job
from aether_bg.plugins.postgres.schema import Schema

INSERT_JOBS: Final = numbered(
    f"INSERT INTO {{schema}}.jobs ({', '.join(JOB_COLUMNS)}) SELECT * FROM unnest({arrays(JOB_COLUMNS)})"
)
_ALIKE: Final = alike(AS_NEW, NEW_COLUMNS)
INSERT_NEW: Final = numbered(
    f"INSERT INTO {{schema}}.jobs ({', '.join((*NEW_COLUMNS, *_ALIKE))}) "
    f"SELECT v.*, {', '.join(_ALIKE.values())} FROM unnest({arrays(NEW_COLUMNS)}) AS v"
)
INSERT_IF_FREE: Final = f"{INSERT_JOBS} ON CONFLICT (job_name) WHERE holds_name DO NOTHING RETURNING id"
_CHANGES: Final = (*GUARD_COLUMNS, *STATE_COLUMNS, "progress")
_RUN_KEY: Final = ("job_id", "token", "gap")
UPDATE_JOBS: Final = numbered(f"""
WITH saved AS (
    UPDATE {{schema}}.jobs AS j SET seq = v.next_seq, schedule_rev = v.next_rev,
        {", ".join(f"{name} = v.{name}" for name in STATE_COLUMNS)},
        progress = coalesce(v.progress, j.progress),
        checkpoint = CASE WHEN v.status > 1 OR v.attempt = 0 THEN NULL ELSE j.checkpoint END
    FROM unnest({arrays(_CHANGES)}) AS v({", ".join(_CHANGES)})
    WHERE j.id = v.job_id AND j.seq = v.seq AND j.schedule_rev = v.schedule_rev RETURNING 1
), told AS (
    INSERT INTO {{schema}}.runs ({", ".join(RUN_COLUMNS)}) SELECT * FROM unnest({arrays(RUN_COLUMNS)})
    ON CONFLICT (job_id, token, gap) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in RUN_COLUMNS if name not in _RUN_KEY)}
)
SELECT {{schema}}.all_of(count(*), %s, %s::uuid[]) FROM saved
""")
COMPLETE_JOBS: Final = numbered(f"""
WITH saved AS (
    UPDATE {{schema}}.jobs AS j SET status = 2, seq = j.seq + 1, due_at = NULL, owner = NULL, manual = false,
        off_schedule = false, trigger_pending = false, last_error = NULL, crash_count = 0, checkpoint = NULL,
        occurrences = j.occurrences + 1, last_occurrence = greatest(j.last_occurrence, j.occurrence),
        handled_time = v.modified_at, modified_at = v.modified_at, modified_by = v.modified_by
    FROM unnest({arrays(COMPLETION_COLUMNS)}) AS v({", ".join(COMPLETION_COLUMNS)})
    WHERE j.id = v.job_id AND j.seq = v.seq AND j.schedule_rev = v.schedule_rev
    RETURNING v.job_id, v.seq, v.modified_at
), told AS (
    UPDATE {{schema}}.runs AS r SET outcome = 'completed', finished_at = saved.modified_at FROM saved
    WHERE r.job_id = saved.job_id AND r.token = saved.seq AND r.gap = 0
)
SELECT {{schema}}.all_of(count(*), %s, CASE WHEN %s THEN $1 END) FROM saved
""")
"""What a `Completion` does to its row, and to the history row that its claim has written."""
UPDATE_DEFINITIONS: Final = f"""
UPDATE {{schema}}.jobs AS j SET {", ".join(f"{name} = v.{name}" for name in DEFINITION_COLUMNS)}
FROM unnest(%s::uuid[], {arrays(DEFINITION_COLUMNS)}) AS v(job_id, {", ".join(DEFINITION_COLUMNS)})
WHERE j.id = v.job_id
"""
UPDATE_PROGRESS: Final = "UPDATE {schema}.jobs SET progress = %s::json WHERE id = %s"
NOTE: Final = """
WITH noted AS (
    UPDATE {schema}.jobs SET progress = coalesce(%s::json, progress),
        checkpoint = CASE WHEN %s THEN checkpoint ELSE %s::json END
    WHERE id = %s AND seq = %s AND status = 1 RETURNING 1
)
SELECT {schema}.all_of(count(*), 1, '{}') FROM noted
"""
HOLD: Final = "INSERT INTO {schema}.handlers VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING"
LET_GO: Final = "DELETE FROM {schema}.handlers WHERE name = %s"
BY_ID: Final = f"SELECT {selected(JOB_COLUMNS)} FROM {{schema}}.jobs WHERE id = ANY(%s::uuid[])"
HOLDERS: Final = f"SELECT {selected(JOB_COLUMNS)} FROM {{schema}}.jobs WHERE job_name = ANY(%s) AND holds_name"


def transact(conn: Connection, schema: Schema, writes: Sequence[Write]) -> list[object] | None:
    """Writes all of `writes` or none, in one round trip; None if that is not possible (see `steps`), and then nothing
    has happened.

    Between an Insert of one job and an Update of another the order makes no difference, except for a name that one
    releases and the other takes: so the Updates come first.
    """
    updates = [write.change for write in writes if type(write) is Update]
    inserts = [write for write in writes if type(write) is Insert]
    if any(write.after for write in inserts) or any(type(one) is not Completion and one.rejoins for one in updates):
        return None
    jobs = [write.job for write in inserts]
    if jobs and not {change.job_id for change in updates}.isdisjoint(job.id for job in jobs):
        return None
    try:
        if not inserts and len(updates) == len(writes) and _are_one(updates):
            update(conn, schema, updates)
        elif not updates and len(inserts) == len(writes):
            if (begun := at_once.insert(conn, schema, inserts[0])) is not None:  # it is the only one, then
                return [begun]
            insert(conn, schema, jobs)
        else:
            with conn.pipeline():  # until its end one transaction
                if len(updates) + len(inserts) < len(writes):
                    for write in writes:
                        one(conn, schema, write)
                else:
                    update(conn, schema, updates)
                    insert(conn, schema, jobs)
    except psycopg.Error as error:
        if conn.closed or trouble.is_lost(error):
            raise
        if error.sqlstate == trouble.CHILDREN:
            return None
        refused = refusal(conn, schema, writes, error)
        if isinstance(refused, NameHeld) and any(refused.current.gives_way_to(job) for job in jobs):
            return None
        raise refused or error from error
    return [None] * len(writes)


def _are_one(changes: list[Change]) -> bool:
    """Whether one statement can write all of them."""
    kinds = {type(change) for change in changes}
    return len(kinds) == 1 and (
        kinds == {Completion} or not any(change.definition or change.progress for change in changes)
    )


def one(conn: Connection, schema: Schema, write: Write) -> None:
    """In an open transaction, without reading its answer."""
    match write:
        case Update(change):
            update(conn, schema, [change])
        case Insert(job):
            insert(conn, schema, [job])
        case Note():
            keep = write.checkpoint is KEEP
            checkpoint = None if keep or write.checkpoint is None else encode(write.checkpoint)
            progress = None if write.progress is None else to_progress(write.progress)
            conn.execute(schema(NOTE), [progress, keep, checkpoint, write.job_id, write.seq])
        case Hold(handler=name, held=True):
            conn.execute(schema(HOLD), [name, write.at, None if write.by is None else to_text(write.by)])
        case Hold(handler=name):
            conn.execute(schema(LET_GO), [name])
        case _:
            raise TypeError(f"not a Write: {write!r:.200}")


def update(conn: Connection, schema: Schema, changes: list[Change], *, alone: bool = True) -> None:
    """`alone`: refuse those whose end other jobs wait for."""
    changes = sorted(changes, key=lambda change: change.job_id.int)
    if completions := [change for change in changes if type(change) is Completion]:
        run(conn, schema(COMPLETE_JOBS), [*write_completions(completions), str(len(completions)), str(alone)])
    if others := [change for change in changes if type(change) is not Completion]:
        runs = [one for change in others for one in change.runs]
        ended = uuids(change.job_id for change in others if alone and change.status.terminal)
        run(conn, schema(UPDATE_JOBS), [*write_changes(others), *write_runs(runs), str(len(others)), ended])
        if defined := [change for change in others if change.definition is not None]:
            ids = uuids(change.job_id for change in defined)
            definitions = [change.definition for change in defined if change.definition is not None]
            conn.execute(schema(UPDATE_DEFINITIONS), [ids, *write_definitions(definitions)])
        for change in others:
            if change.progress is not None:
                conn.execute(schema(UPDATE_PROGRESS), [to_progress(change.progress), change.job_id])


def insert(conn: Connection, schema: Schema, jobs: list[JobInfo]) -> None:
    jobs = sorted(jobs, key=lambda job: job.job_name) if len(jobs) > 1 else jobs
    if jobs and all(map(is_new, jobs)):
        run(conn, schema(INSERT_NEW), write_new(jobs))
    elif jobs:
        run(conn, schema(INSERT_JOBS), write_jobs(jobs))


def refusal(conn: Connection, schema: Schema, writes: Sequence[Write], error: psycopg.Error) -> AetherError | None:
    """Which guard failed; None if no guard did."""
    changes = [write.change for write in writes if type(write) is Update]
    if error.sqlstate == trouble.STALE:
        guarded: list[Change | Note] = [*changes, *(write for write in writes if isinstance(write, Note))]
        rows = conn.execute(schema(BY_ID), [uuids(write.job_id for write in guarded)], binary=True).fetchall()
        current = {job.id: job for job in map(read_job, rows)}
        for write in guarded:
            row = current.get(write.job_id)
            if not write.guards(row) or len(guarded) == 1:
                return Stale(write.job_id, row)
        return StoreContended("some jobs", "their rows changed while they were written", "It can be tried again.")
    if not isinstance(error, psycopg.errors.UniqueViolation):
        return None
    if error.diag.constraint_name == "jobs_name":
        taking = {
            write.job.job_name: write.job.id for write in writes if type(write) is Insert and write.job.holds_name
        }
        back = uuids(change.job_id for change in changes if change.holds_name)
        for job in map(read_job, conn.execute(schema(BY_ID), [back], binary=True).fetchall()):
            if not job.holds_name:
                taking[job.job_name] = job.id
        for holder in map(read_job, conn.execute(schema(HOLDERS), [list(taking)], binary=True).fetchall()):
            if holder.id != taking[holder.job_name]:
                return NameHeld(holder.job_name, holder)
    return StoreRefused(
        "a write", trouble.first_line(error), "Each job is added once, and completes an occurrence once."
    )


def happened(conn: Connection, schema: Schema, writes: Sequence[Write]) -> list[object] | None:
    """The answer to `writes` that was lost, if the rows show them. They are atomic: the first one decides."""
    write = writes[0]
    if isinstance(write, Note | Hold | Call):
        return None
    job_id = write.job.id if isinstance(write, Insert) else write.change.job_id
    row = conn.execute(schema(BY_ID), [uuids([job_id])], binary=True).fetchone()
    if row is None:
        return None
    job, done = read_job(row), isinstance(write, Insert)
    if isinstance(write, Insert) and write.claim is not None and write.claim.holds(job):
        return [job]
    if isinstance(write, Update):
        change = write.change
        wanted = (change.next_seq, change.next_rev, change.modified_at)
        done = wanted == (job.seq, job.schedule_rev, job.modified_at)
    return [None] * len(writes) if done else None
