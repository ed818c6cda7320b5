"""The tables, as steps of a migration, and their names for the statements.

All of it is in one schema of the database. `jobs` has a row per job, `runs` its history, `links` which job runs after
which, `owners` the processes that run jobs now, `handlers` those that are paused, `meta` the store's id and the steps
applied.
"""

from __future__ import annotations

import time
import zlib
from typing import Final
from uuid import UUID

import psycopg

from aether_bg.errors import SchemaMissing, SchemaTooNew, StoreBusy, StoreError, TablesTaken
from aether_bg.model import JobInfo, JobRun
from aether_bg.model.job import SUSPECT as CRASHES
from aether_bg.plugins.postgres import trouble
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.functions import ENQUEUE
from aether_bg.plugins.postgres.tables import DOMAINS, SORTED, declared

READY: Final = "status = 0 AND waits_for = 0 AND (NOT paused OR manual)"
"""What can be claimed once it is due. Queries repeat it exactly, so that the partial indexes serve them."""
NOT_HELD: Final = "(manual OR NOT EXISTS (SELECT FROM {schema}.handlers AS held WHERE held.name = handler_name))"
"""Not held by the pause of its handler (docs/protocol.md, L3)."""
MANUAL: Final = "status = 0 AND waits_for = 0 AND manual"
"""These are never held by the pause of a handler; there are few at any time, with an index of their own."""
SUSPECT: Final = f"crash_count >= {CRASHES}"
_BUSY: Final = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, "
_VACUUM: Final = f"{_BUSY}autovacuum_vacuum_cost_limit = 2000, autovacuum_vacuum_cost_delay = 1"
_ROOM: Final = " WITH (fillfactor = 50)"
"""For indexes that keep a row through its claim and its end: each is a new version, which finds room beside the one
before."""
_DOMAINS: Final = "\n".join(f"CREATE DOMAIN {{schema}}.{name} AS {kind};" for name, kind in DOMAINS.items())

_INITIAL: Final = f"""
CREATE TABLE {{schema}}.meta (
    key text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO {{schema}}.meta VALUES ('store_id', gen_random_uuid()::text);
CREATE SEQUENCE {{schema}}.owner_locks AS integer CYCLE;
CREATE TABLE {{schema}}.owners (
    id uuid PRIMARY KEY,
    lock integer NOT NULL,
    epoch timestamptz,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat bigint NOT NULL DEFAULT 0,
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stopping boolean NOT NULL DEFAULT false,
    handlers text[] NOT NULL,
    problems text[] NOT NULL DEFAULT '{{}}',
    declares text[] NOT NULL DEFAULT '{{}}',
    limits json NOT NULL DEFAULT '{{}}'
) WITH (fillfactor = 50);
CREATE TABLE {{schema}}.handlers (
    name text{SORTED} PRIMARY KEY,
    paused_at timestamptz NOT NULL,
    paused_by text
);
{_DOMAINS}
CREATE TABLE {{schema}}.jobs (
    {declared(JobInfo)},
    PRIMARY KEY (id){_ROOM}
) WITH (fillfactor = 90, {_VACUUM});
CREATE UNIQUE INDEX jobs_name ON {{schema}}.jobs (job_name){_ROOM} WHERE holds_name;
CREATE INDEX jobs_former_name ON {{schema}}.jobs (job_name) WHERE NOT holds_name;
CREATE INDEX jobs_ready ON {{schema}}.jobs (handler_name, priority, due_at) WHERE {READY};
CREATE INDEX jobs_manual ON {{schema}}.jobs (handler_name, due_at) WHERE {MANUAL};
CREATE INDEX jobs_suspect ON {{schema}}.jobs (handler_name, due_at) WHERE {READY} AND {SUSPECT};
CREATE INDEX jobs_changed ON {{schema}}.jobs (modified_at) WHERE status = 0 AND seq > 0;
CREATE INDEX jobs_zoned ON {{schema}}.jobs (id) WHERE status = 0 AND timezone IS NOT NULL;
CREATE INDEX jobs_declared ON {{schema}}.jobs (id) WHERE declared AND status < 2;
CREATE INDEX jobs_running ON {{schema}}.jobs (owner) WHERE status = 1;
CREATE INDEX jobs_ended ON {{schema}}.jobs (status, handled_time, handler_name) WHERE status > 1;
CREATE TABLE {{schema}}.runs (
    {declared(JobRun)},
    PRIMARY KEY (job_id, token, gap){_ROOM}
) WITH (fillfactor = 90, {_VACUUM});
CREATE UNIQUE INDEX runs_completed ON {{schema}}.runs (job_id, occurrence) WHERE outcome = 'completed';
CREATE TABLE {{schema}}.links (
    child uuid NOT NULL,
    parent uuid NOT NULL,
    place integer NOT NULL,
    waiting boolean NOT NULL,
    PRIMARY KEY (child, place)
) WITH (fillfactor = 90);
CREATE INDEX links_parent ON {{schema}}.links (parent);
CREATE INDEX links_waiting ON {{schema}}.links (parent) WHERE waiting;
CREATE FUNCTION {{schema}}.all_of(got bigint, wanted bigint, ended uuid[]) RETURNS bigint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN  -- makes one statement all or nothing; its own queries see what others have committed meanwhile
    IF got <> wanted THEN
        RAISE EXCEPTION 'stale' USING ERRCODE = '{trouble.STALE}';
    END IF;
    IF EXISTS (SELECT FROM {{schema}}.links WHERE waiting AND parent = ANY(ended)) THEN
        RAISE EXCEPTION 'children wait' USING ERRCODE = '{trouble.CHILDREN}';
    END IF;
    RETURN got;
END $$;
{ENQUEUE}"""

PAUSED: Final = "paused AND status < 2"
RECURS: Final = (
    "(lower(expression_value) <> '@once' AND left(expression_value, 4) <> '@at ' "
    "AND left(expression_value, 7) <> '@after ')::integer = 1"
)
"""As an equation: the planner takes one that it has no statistics for to be rare, so it uses the index. It would take
inequations to be true of nearly all rows, and walk through them."""
ATTEMPTED: Final = "started_at IS NOT NULL AND finished_at IS NOT NULL AND outcome IS NOT NULL"
_INDEX: Final = "CREATE INDEX CONCURRENTLY IF NOT EXISTS"
INDEXES: Final = {
    "jobs_unarmed": f"{_INDEX} jobs_unarmed ON {{schema}}.jobs (due_at) WHERE {READY} AND armed_seq <> seq",
    "jobs_handler": f"{_INDEX} jobs_handler ON {{schema}}.jobs (handler_name, id)",
    "jobs_paused": f"{_INDEX} jobs_paused ON {{schema}}.jobs (id) WHERE {PAUSED}",
    "jobs_recurring": f"{_INDEX} jobs_recurring ON {{schema}}.jobs (status, id) WHERE {RECURS}",
    "runs_ended": f"{_INDEX} runs_ended ON {{schema}}.runs (finished_at) WHERE {ATTEMPTED}",
}
LISTING: Final = ("runs_ended", "jobs_handler", "jobs_recurring", "jobs_paused")
"""Created when they are first needed: by a scheduler that asks for rows that are not armed; `LISTING` by people who
look at attempts, at the newest jobs of a handler, or at what recurs or is paused. A store that has none of these does
not pay for them."""

_HALF_MADE: Final = """
SELECT 1 FROM pg_index AS i WHERE i.indexrelid = to_regclass(%s) AND NOT i.indisvalid
AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)
"""
"""What is left of an index if making it was interrupted, or a transaction that stayed open was in its way."""

STEPS: Final = {"m001_initial": _INITIAL}
"""All migrations, in order. A released one is never changed."""
_STEP: Final = "step "


class Schema:
    """Names of one schema: `schema(text)` is a statement with `{schema}` filled in, made once."""

    def __init__(self, name: str) -> None:
        self.name, self._texts = name, dict[str, bytes]()
        self.lock_class = zlib.crc32(f"aether_bg:{name}".encode()) - 2**31
        """First half of the keys of its advisory locks; the second is an owner's number, or 0 for migrations."""
        self.channel = f"{name}.jobs"
        """Of NOTIFY."""

    def __call__(self, template: str) -> bytes:
        if (text := self._texts.get(template)) is None:
            text = self._texts[template] = self.once(template)
        return text

    def once(self, template: str) -> bytes:
        """The same for a text that is built for one use."""
        return template.replace("{schema}", f'"{self.name}"').encode()


def steps_sql(schema: Schema) -> str:
    """Everything that `migrate` would do on an empty database, to be run by hand in one transaction."""
    texts = [f'CREATE SCHEMA IF NOT EXISTS "{schema.name}";']
    for step, text in STEPS.items():
        texts.append(schema(text).decode().strip())
        texts.append(f"""INSERT INTO "{schema.name}".meta VALUES ('{_STEP}{step}', clock_timestamp()::text);""")
    return "\n".join(texts) + "\n"


def applied(conn: Connection, schema: Schema) -> list[str]:
    """The steps applied so far; empty if there are none.

    Read from the table of tables: `to_regclass` may remember, until the transaction ends, that there was no table.
    """
    found = conn.execute("SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'meta'", [schema.name])
    if found.fetchone() is None:
        return []
    rows = conn.execute(schema("SELECT key FROM {schema}.meta WHERE key LIKE 'step %%' ORDER BY key"), []).fetchall()
    return [key.removeprefix(_STEP) for (key,) in rows]


def check(conn: Connection, schema: Schema, where: str) -> list[str]:
    """The steps that are missing. Raises `SchemaTooNew`, or `TablesTaken` for tables that something else created."""
    names = ["meta", "owners", "handlers", "jobs", "runs", "links"]
    sql = (
        "SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace "
        "WHERE nspname = %s AND relname = ANY(%s)"
    )
    taken = [name for (name,) in conn.execute(sql, [schema.name, names])]
    done = applied(conn, schema)  # after the names: another process may create all of it in between
    if unknown := [step for step in done if step not in STEPS]:
        rule = f"it was written by a newer aether_bg (schema step {unknown[-1]})"
        raise SchemaTooNew(where, rule, "Upgrade aether_bg, or use the version that wrote it.")
    if taken and not done:
        rule = f"its schema {schema.name!r} already has {', '.join(sorted(taken))}, and aether_bg did not create that"
        raise TablesTaken(where, rule, "Give the jobs a schema of their own: PostgresStore(…, schema=…).")
    return [step for step in STEPS if step not in done]


def require(conn: Connection, schema: Schema, where: str) -> None:
    """Raises `SchemaMissing` unless all steps are applied."""
    if missing := check(conn, schema, where):
        raise trouble.missing(where, f"schema step {missing[0]} of schema {schema.name!r} is missing")


def migrate(conn: Connection, schema: Schema, where: str, within: float) -> list[str]:
    """Applies what is missing, each step in a transaction; returns the steps applied. One process at a time does it."""
    deadline, done = time.monotonic() + within, list[str]()
    while missing := check(conn, schema, where):
        try:
            if _apply(conn, schema, where, missing[0]):
                done.append(missing[0])
        except psycopg.errors.LockNotAvailable as error:
            if time.monotonic() > deadline:
                rule = "another session holds what its migration needs"
                raise StoreBusy(where, rule, "End that session, or wait for it.") from error
    return done


def _apply(conn: Connection, schema: Schema, where: str, step: str) -> bool:
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s, 0)", [schema.lock_class])
        if step not in check(conn, schema, where):
            return False  # another process has done it meanwhile
        row = conn.execute("SELECT to_regnamespace(%s) IS NULL", [f'"{schema.name}"']).fetchone()
        if row is not None and row[0]:  # IF NOT EXISTS would ask for the right to create it all the same
            conn.execute(schema("CREATE SCHEMA {schema}"))
        conn.execute(schema(STEPS[step]))
        conn.execute(schema("INSERT INTO {schema}.meta VALUES (%s, clock_timestamp()::text)"), [_STEP + step])
        return True


def make_index(conn: Connection, schema: Schema, name: str) -> None:
    """Make one of `INDEXES`, while others read and write. Raises a `psycopg.Error`; a later call tries it again."""
    if conn.execute(_HALF_MADE, [f'"{schema.name}".{name}']).fetchone() is not None:
        conn.execute(schema(f"DROP INDEX CONCURRENTLY IF EXISTS {{schema}}.{name}"))
    conn.execute(schema(INDEXES[name]))


def store_id(conn: Connection, schema: Schema, where: str) -> UUID:
    try:
        row = conn.execute(schema("SELECT value FROM {schema}.meta WHERE key = 'store_id'")).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise SchemaMissing(where, f"it has no tables in schema {schema.name!r}", "Run `aether-bg migrate`.") from error
    try:
        return UUID(row[0] if row else None)
    except (ValueError, TypeError) as error:
        raise StoreError(where, "its id in the table meta must be a UUID", "Write a UUID there.") from error
