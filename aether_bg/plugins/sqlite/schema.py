"""The tables, as migrations. Made to be read: statuses have names, times are ISO 8601 in UTC, JSON is text.

`jobs` is one row per job, `runs` its history, `owners` the processes that run jobs now, `meta` the store's id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from aether_bg.errors import SchemaTooNew
from aether_bg.model import JobStatus

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

READY = "status = 0 AND (paused = 0 OR manual = 1)"
"""What can be claimed once it is due. Queries repeat it to the letter, so that the partial indexes serve them."""

SUSPECT = "crash_count >= 2"

_TABLES = f"""
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE job_status (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL
);
CREATE TABLE owners (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    beat INTEGER NOT NULL,
    beat_at TEXT NOT NULL,
    handlers TEXT NOT NULL
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY NOT NULL,
    job_name TEXT NOT NULL,
    handler_name TEXT NOT NULL,
    status INTEGER NOT NULL REFERENCES job_status(id),
    due_at TEXT,
    expression_value TEXT NOT NULL,
    timezone TEXT,
    payload TEXT NOT NULL,
    extra_properties TEXT NOT NULL,
    handled_time TEXT,
    retry_count INTEGER NOT NULL,
    last_error TEXT,
    occurrence TEXT,
    last_occurrence TEXT,
    occurrences INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    crash_count INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    manual INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    run_again INTEGER NOT NULL,
    holds_name INTEGER NOT NULL,
    owner TEXT,
    started_at TEXT,
    start TEXT,
    repeats INTEGER,
    until TEXT,
    misfire TEXT NOT NULL,
    misfire_grace REAL NOT NULL,
    anchor TEXT NOT NULL,
    seq INTEGER NOT NULL,
    schedule_rev INTEGER NOT NULL,
    armed_seq INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    created_by TEXT,
    modified_at TEXT NOT NULL,
    modified_by TEXT
);
CREATE UNIQUE INDEX jobs_name ON jobs (job_name) WHERE holds_name = 1;
CREATE INDEX jobs_former_name ON jobs (job_name) WHERE holds_name = 0;
CREATE INDEX jobs_ready ON jobs (handler_name, due_at) WHERE {READY};
CREATE INDEX jobs_suspect ON jobs (handler_name, due_at) WHERE {READY} AND {SUSPECT};
CREATE INDEX jobs_begun ON jobs (handled_time) WHERE status = 0 AND attempt > 0;
CREATE INDEX jobs_running ON jobs (owner) WHERE status = 1;
CREATE INDEX jobs_ended ON jobs (status, handled_time) WHERE status > 1;
CREATE TABLE runs (
    job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    token INTEGER NOT NULL,
    part INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    occurrence TEXT,
    outcome TEXT,
    started_at TEXT,
    finished_at TEXT,
    error TEXT,
    owner TEXT,
    last_occurrence TEXT,
    count INTEGER NOT NULL,
    PRIMARY KEY (job_id, token, part)
) WITHOUT ROWID;
CREATE UNIQUE INDEX runs_completed ON runs (job_id, occurrence) WHERE outcome = 'completed';
"""

MAKE_UNARMED_INDEX = f"CREATE INDEX IF NOT EXISTS jobs_unarmed ON jobs (due_at) WHERE {READY} AND armed_seq <> seq"
"""Made when a scheduler first asks what is not armed: the embedded timer arms nothing and need not pay for it."""


STEPS = ("m001_initial",)
"""Names of all migrations, in order."""


def migrations() -> Migrations:
    """The set, in order. A released migration is never changed; a new one is added below it."""
    from sqlite_utils import Migrations

    steps = Migrations("aether_bg")

    @steps()
    def m001_initial(db: Database) -> None:
        for statement in _TABLES.split(";"):
            if statement.strip():
                db.conn.execute(statement)
        db.conn.executemany("INSERT INTO job_status VALUES (?, ?)", [(s.value, s.name.lower()) for s in JobStatus])
        db.conn.execute("INSERT INTO meta VALUES ('store_id', ?)", [str(uuid4())])

    return steps


def migrate(db: Database, path: object) -> None:
    """Bring the file to this version's schema. Call it under the write lock.

    Raises `SchemaTooNew` when a migration has been applied that this version does not know.
    """
    steps = migrations()
    unknown = [done.name for done in steps.applied(db) if done.name not in STEPS]
    if unknown:
        raise SchemaTooNew(
            f"database {path}",
            f"it was written by a newer aether_bg (schema step {unknown[-1]})",
            "Upgrade aether_bg, or open the file with the version that wrote it.",
        )
    if steps.pending(db):
        steps.apply(db)
