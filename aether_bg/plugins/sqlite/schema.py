"""The tables, as migrations. Made for readers: statuses have names, times are ISO 8601 in UTC, JSON is text.

`aether_jobs` is one row per job, `aether_runs` its history, `aether_links` which job runs after which, `aether_owners`
the processes that run jobs now, `aether_handlers` has the handlers that are paused, `aether_meta` the store's id,
`aether_migrations` the applied steps of this schema. All other names are the user's.
"""

from __future__ import annotations

import json
import re
import sqlite3
from typing import TYPE_CHECKING
from uuid import uuid4

from aether_bg.errors import SchemaTooNew, TablesTaken
from aether_bg.model import JobStatus
from aether_bg.model.job import SUSPECT as CRASHES

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

_FREE = "waits_for = 0 AND (paused = 0 OR manual = 1)"
READY = f"status = 0 AND {_FREE}"
"""What can be claimed once it is due. Queries repeat it exactly, so that the partial indexes serve them."""

HELD_BACK = f"status = 0 AND NOT ({_FREE})"
"""The other rows that are SCHEDULED: paused, or waiting for others."""

PAUSED_HANDLERS = "SELECT name FROM main.aether_handlers"
NOT_HELD = f"(manual = 1 OR handler_name NOT IN ({PAUSED_HANDLERS}))"
"""Not held by the pause of its handler (docs/protocol.md, L3)."""

MANUAL = "status = 0 AND waits_for = 0 AND manual = 1"
"""What can be claimed of a paused handler."""

NOT_NEEDED = """NOT EXISTS (
    SELECT 1 FROM main.aether_links JOIN main.aether_jobs AS children ON children.id = child
    WHERE parent = aether_jobs.id AND children.status < 2
)"""
"""No job that has not ended runs after it (docs/protocol.md, A4)."""

SUSPECT = f"crash_count >= {CRASHES}"

RECURS = """
expression_value <> '@once' AND lower(expression_value) <> '@once'
AND expression_value NOT GLOB '@at *' AND expression_value NOT GLOB '@after *'
"""
"""The first term says nothing new. It spares most rows a call of `lower` at each write."""
PAUSED = "paused = 1 AND status < 2"
ATTEMPTED = "started_at IS NOT NULL AND finished_at IS NOT NULL AND outcome IS NOT NULL"
LISTED = "typeof(id) = 'text'"
"""Always true, and no bound of an index. Only a statement that says it uses the index for listing; the kernel's own
statements must not."""

_TABLES = f"""
CREATE TABLE aether_meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE aether_job_status (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL
);
CREATE TABLE aether_owners (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    beat INTEGER NOT NULL,
    beat_at TEXT NOT NULL,
    handlers TEXT NOT NULL,
    stopping INTEGER NOT NULL DEFAULT 0,
    problems TEXT NOT NULL DEFAULT '[]',
    declares TEXT NOT NULL DEFAULT '[]',
    limits TEXT NOT NULL DEFAULT '{{}}'
);
CREATE TABLE aether_jobs (
    id TEXT PRIMARY KEY NOT NULL,
    job_name TEXT NOT NULL,
    handler_name TEXT NOT NULL,
    status INTEGER NOT NULL REFERENCES aether_job_status(id),
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
    off_schedule INTEGER NOT NULL,
    trigger_pending INTEGER NOT NULL,
    holds_name INTEGER NOT NULL,
    owner TEXT,
    started_at TEXT,
    start TEXT,
    repeats INTEGER,
    until TEXT,
    misfire TEXT NOT NULL,
    misfire_grace REAL NOT NULL,
    jitter REAL NOT NULL,
    priority INTEGER NOT NULL,
    anchor TEXT NOT NULL,
    seq INTEGER NOT NULL,
    schedule_rev INTEGER NOT NULL,
    armed_seq INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    created_by TEXT,
    modified_at TEXT NOT NULL,
    modified_by TEXT,
    progress TEXT,
    checkpoint TEXT,
    declared INTEGER NOT NULL DEFAULT 0,
    unique_for REAL,
    parents INTEGER NOT NULL,
    waits_for INTEGER NOT NULL,
    after_any INTEGER NOT NULL
);
CREATE TABLE aether_handlers (
    name TEXT PRIMARY KEY NOT NULL,
    paused_at TEXT NOT NULL,
    paused_by TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX aether_jobs_name ON aether_jobs (job_name) WHERE holds_name = 1;
CREATE INDEX aether_jobs_former_name ON aether_jobs (job_name) WHERE holds_name = 0;
CREATE INDEX aether_jobs_ready ON aether_jobs (handler_name, priority, due_at) WHERE {READY};
CREATE INDEX aether_jobs_manual ON aether_jobs (handler_name, priority, due_at) WHERE {MANUAL};
CREATE INDEX aether_jobs_suspect ON aether_jobs (handler_name, priority, due_at) WHERE {READY} AND {SUSPECT};
CREATE INDEX aether_jobs_changed ON aether_jobs (modified_at) WHERE status = 0 AND seq > 0;
CREATE INDEX aether_jobs_zoned ON aether_jobs (id) WHERE status = 0 AND timezone IS NOT NULL;
CREATE INDEX aether_jobs_declared ON aether_jobs (id) WHERE declared = 1 AND status < 2;
CREATE INDEX aether_jobs_running ON aether_jobs (owner) WHERE status = 1;
CREATE INDEX aether_jobs_ended ON aether_jobs (status, handled_time, handler_name) WHERE status > 1;
CREATE INDEX aether_jobs_held_back ON aether_jobs (handler_name) WHERE {HELD_BACK};
CREATE INDEX aether_jobs_paused ON aether_jobs (id) WHERE {PAUSED};
CREATE INDEX aether_jobs_recurring ON aether_jobs (id, status) WHERE {RECURS};
CREATE TABLE aether_runs (
    job_id TEXT NOT NULL REFERENCES aether_jobs(id) ON DELETE CASCADE,
    token INTEGER NOT NULL,
    gap INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    occurrence TEXT,
    outcome TEXT,
    started_at TEXT,
    finished_at TEXT,
    error TEXT,
    owner TEXT,
    last_occurrence TEXT,
    count INTEGER NOT NULL,
    result TEXT,
    PRIMARY KEY (job_id, token, gap)
) WITHOUT ROWID;
CREATE UNIQUE INDEX aether_runs_completed ON aether_runs (job_id, occurrence) WHERE outcome = 'completed';
CREATE TABLE aether_links (
    child TEXT NOT NULL REFERENCES aether_jobs(id) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    parent TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    PRIMARY KEY (child, place)
) WITHOUT ROWID;
CREATE INDEX aether_links_parent ON aether_links (parent);
CREATE INDEX aether_links_waiting ON aether_links (parent) WHERE waiting = 1;
"""

MAKE_UNARMED_INDEX = (
    f"CREATE INDEX IF NOT EXISTS main.aether_jobs_unarmed ON aether_jobs (due_at) WHERE {READY} AND armed_seq <> seq"
)
"""Created when a scheduler first asks which rows are not armed: the embedded timer arms nothing and does not pay for
it."""

MAKE_LISTING_INDEXES = (
    f"CREATE INDEX IF NOT EXISTS main.aether_jobs_handler ON aether_jobs (handler_name, id) WHERE {LISTED}",
    f"CREATE INDEX IF NOT EXISTS main.aether_runs_ended ON aether_runs (finished_at) WHERE {ATTEMPTED}",
)
"""Created when somebody first looks at the jobs of a handler, or at the attempts of all jobs. Each of them makes a
commit of one job a quarter larger: only a store that people look at pays for them."""

_NAMES = tuple(
    re.findall(
        r"CREATE (?:UNIQUE )?(?:TABLE|INDEX) (?:IF NOT EXISTS main\.)?(\w+)",
        "".join((_TABLES, MAKE_UNARMED_INDEX, *MAKE_LISTING_INDEXES)),
    )
)
MIGRATIONS = "aether_migrations"

STEPS = ("m001_initial",)
"""Names of all migrations, in order."""


def migrations() -> Migrations:
    """The set, in order. A released migration is never changed; a new one is added below it."""
    from sqlite_utils import Migrations

    steps = Migrations("aether_bg")
    steps.migrations_table = MIGRATIONS

    @steps()
    def m001_initial(db: Database) -> None:
        for statement in _TABLES.split(";"):
            if statement.strip():
                db.conn.execute(statement)
        states = [(status.value, status.name.lower()) for status in JobStatus]
        db.conn.executemany("INSERT INTO aether_job_status VALUES (?, ?)", states)
        db.conn.execute("INSERT INTO aether_meta VALUES ('store_id', ?)", [str(uuid4())])

    return steps


def applied(conn: sqlite3.Connection) -> list[str]:
    """The schema steps that the file has had; empty if it is not ours."""
    columns = [column for (column,) in conn.execute("SELECT name FROM pragma_table_info(?)", [MIGRATIONS])]
    if not {"migration_set", "name"} <= set(columns):
        return []
    sql = f"SELECT name FROM main.{MIGRATIONS} WHERE migration_set = 'aether_bg' ORDER BY name"
    return [name for (name,) in conn.execute(sql)]


FOREIGN = """
SELECT type || ' ' || name || iif(type = 'trigger', ' on ' || tbl_name, '') FROM sqlite_master
WHERE type = 'trigger' AND tbl_name COLLATE NOCASE IN (SELECT value FROM json_each(:names))
OR name COLLATE NOCASE IN (SELECT value FROM json_each(:names)) AND (
    type = 'view' OR type = 'table' AND rootpage = 0
    OR type = 'table' AND EXISTS (SELECT 1 FROM pragma_table_xinfo(sqlite_master.name) WHERE hidden > 1)
)
ORDER BY 1
"""
"""Objects that run other people's SQL inside our statements: triggers on our tables, and views, virtual tables and
tables with generated columns under our names. Read from the schema alone, which runs nothing."""


def foreign_names(conn: sqlite3.Connection) -> list[str]:
    """Objects that have one of our names but are not ours."""
    sql = "SELECT name FROM main.sqlite_master WHERE substr(name, 1, 7) COLLATE NOCASE = 'aether_'"
    return [name for (name,) in conn.execute(sql) if name not in (*_NAMES, MIGRATIONS)]


def refuse_foreign(conn: sqlite3.Connection, path: object) -> None:
    """Raises `TablesTaken` for a file that would run SQL of others inside our statements."""
    found = [name for (name,) in conn.execute(FOREIGN, {"names": json.dumps([*_NAMES, MIGRATIONS])})]
    if found:
        raise TablesTaken(
            f"database {path}",
            f"it has {', '.join(map(str, found[:5]))}: aether_bg did not create that, and it runs inside ours",
            "Remove that, for example with DROP TRIGGER or DROP VIEW, or restore a backup.",
        )


def check(conn: sqlite3.Connection, path: object) -> list[str]:
    """The steps that the file has had. Reads only.

    Raises `SchemaTooNew` for a schema step that this version does not know, `TablesTaken` for a file which is not ours
    and has our names. Tables, indexes and views share one set of names.
    """
    refuse_foreign(conn, path)
    names = json.dumps(_NAMES)
    sql = """
    SELECT type || ' ' || name FROM sqlite_master WHERE name COLLATE NOCASE IN (SELECT value FROM json_each(?))
    OR name = ? AND NOT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name = 'migration_set') ORDER BY name
    """
    taken = [name for (name,) in conn.execute(sql, [names, MIGRATIONS, MIGRATIONS])]
    steps = applied(conn)  # after the names: another process may create all of it in between
    if unknown := [name for name in steps if name not in STEPS]:
        raise SchemaTooNew(
            f"database {path}",
            f"it was written by a newer aether_bg (schema step {unknown[-1]})",
            "Upgrade aether_bg, or open the file with the version that wrote it.",
        )
    if taken and not steps:
        raise TablesTaken(
            f"database {path}",
            f"it already has {', '.join(taken)}, and aether_bg did not create that",
            "Rename it, or give the jobs a file of their own.",
        )
    return steps


def migrate(conn: sqlite3.Connection, path: object) -> None:
    """Brings the file to this version's schema. Call it under the write lock. Raises as `check` does."""
    if check(conn, path) != [*STEPS]:
        from sqlite_utils import Database  # a sixth of the start of a process: not where nothing is to do

        migrations().apply(Database(conn, recursive_triggers=False, execute_plugins=False))
