"""Who is alive: the rows of owners, and what one read of them shows (docs/protocol.md, P1 to P8).

Each owner's session holds an advisory lock, which the server releases when the process is gone. A free lock proves
nothing by itself: it is free after a restart of the server and while a connection is made again. So it counts only if
the owner took it from this start of the server, and if it stays free, with the beat unchanged, for `GRACE`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from aether_bg.model import Alive, Heartbeat
from aether_bg.plugins.postgres.columns import encode
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.schema import MANUAL, READY, Schema

GRACE: Final = 1.0
"""Seconds; longer than an owner takes to connect again."""
_GAP: Final = 3.0
"""If two reads are further apart than this many seconds, earlier observations do not count."""

DUE_HANDLERS: Final = f"""
WITH RECURSIVE lane(name, priority) AS (
    (SELECT handler_name, priority FROM {{schema}}.jobs WHERE {READY} ORDER BY handler_name, priority LIMIT 1)
    UNION ALL
    SELECT n.handler_name, n.priority FROM lane CROSS JOIN LATERAL (
        SELECT handler_name, priority FROM {{schema}}.jobs
        WHERE {READY} AND (handler_name, priority) > (lane.name, lane.priority) ORDER BY handler_name, priority LIMIT 1
    ) AS n
)
SELECT name FROM lane WHERE name NOT IN (SELECT name FROM {{schema}}.handlers) AND (
    SELECT due_at FROM {{schema}}.jobs WHERE {READY} AND handler_name = lane.name AND priority = lane.priority
    ORDER BY due_at LIMIT 1
) <= %(now)s
UNION SELECT handler_name FROM {{schema}}.jobs WHERE {MANUAL} AND due_at <= %(now)s
"""
"""One step of the index for each handler and priority, however many rows wait."""
HELD: Final = """
SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
AND classid::bigint = %(lock_class)s::bigint & 4294967295
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
LOCKED: Final = "epoch IS NULL OR epoch <> pg_postmaster_start_time() OR lock::bigint IN (SELECT * FROM held)"
"""Whether the lock is held, or proves nothing."""
SIZE: Final = "pg_total_relation_size('{schema}.jobs') + pg_total_relation_size('{schema}.runs')"
ALIVE: Final = f"""
WITH held AS MATERIALIZED ({HELD}), known AS MATERIALIZED (
    SELECT id, beat, stopping, {LOCKED} AS locked, handlers, declares FROM {{schema}}.owners
), mine AS MATERIALIZED (SELECT id, seq FROM {{schema}}.jobs WHERE status = 1 AND owner = %(me)s)
SELECT clock_timestamp(),
    ARRAY(SELECT id FROM known ORDER BY id), ARRAY(SELECT beat FROM known ORDER BY id),
    ARRAY(SELECT stopping FROM known ORDER BY id), ARRAY(SELECT locked FROM known ORDER BY id),
    ARRAY(SELECT DISTINCT name FROM known, unnest(handlers) AS name WHERE NOT stopping),
    ARRAY(SELECT DISTINCT name FROM known, unnest(declares) AS name WHERE NOT stopping),
    ARRAY(SELECT DISTINCT owner FROM {{schema}}.jobs WHERE status = 1 AND owner <> %(me)s
        AND NOT EXISTS (SELECT FROM known WHERE known.id = owner)),
    ARRAY(SELECT id FROM mine ORDER BY id), ARRAY(SELECT seq FROM mine ORDER BY id),
    ARRAY({DUE_HANDLERS}),
    CASE WHEN %(size)s THEN {SIZE} ELSE 0 END
"""
JOIN: Final = """
INSERT INTO {schema}.owners (id, lock, epoch, host, pid, stopping, handlers, problems, declares, limits)
VALUES (%s, %s, CASE WHEN %s THEN pg_postmaster_start_time() END, %s, %s, %s, %s, %s, %s, %s::json)
"""
RENEW: Final = """
UPDATE {schema}.owners SET beat = beat + 1, beat_at = clock_timestamp(), stopping = stopping OR %s WHERE id = %s
"""
REGISTER_AGAIN: Final = """
UPDATE {schema}.owners SET beat = beat + 1, beat_at = clock_timestamp(), epoch = pg_postmaster_start_time()
WHERE id = %s
"""
TELL: Final = "UPDATE {schema}.owners SET stopping = stopping OR %s, problems = %s WHERE id = %s"
FORGET: Final = "DELETE FROM {schema}.owners WHERE id = ANY(%s)"
NEXT_LOCK: Final = "SELECT nextval('{schema}.owner_locks')::integer"


def register(conn: Connection, schema: Schema, beat: Heartbeat, lock: int, trusted: bool) -> None:
    """`trusted`: its lock is held by a session of this very server."""
    lists = [list(beat.handlers), list(beat.problems), list(beat.declares)]
    values = [socket.gethostname(), os.getpid(), beat.stopping, *lists, encode(dict(beat.limits))]
    conn.execute(schema(JOIN), [beat.owner, lock, trusted, *values])


class Observer:
    """What this store has seen of the others' locks."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._free: dict[UUID, tuple[float, int]] = {}
        """Owners whose lock was free at each look since then, and their beat."""
        self._looked = 0.0

    def forget(self) -> None:
        """A read failed: what happened since is unknown (docs/protocol.md, P6)."""
        self._free.clear()

    def look(self, conn: Connection, beat: Heartbeat, store_id: UUID, mine: Iterable[UUID]) -> Alive:
        """`mine`: the owners of this store object, which are alive whatever their session's connection is doing."""
        about = {"me": beat.owner, "now": beat.now, "size": beat.join, "lock_class": self._schema.lock_class}
        row = conn.execute(self._schema(ALIVE), about, binary=True).fetchone()
        assert row is not None
        at, owners, beats, stopping, locked, handlers, declared, orphaned, held, tokens, due, size = row
        seen = {id_: (count, lock) for id_, count, lock in zip(owners, beats, locked, strict=True)}
        return Alive(
            store_id=store_id, known=beat.owner in seen, now=at, size=size,
            beats=dict(zip(owners, beats, strict=True)),
            dead=(*self._dead(seen, {beat.owner, *mine}), *orphaned),
            stopping=frozenset(id_ for id_, stops in zip(owners, stopping, strict=True) if stops),
            running=tuple(zip(held, tokens, strict=True)),
            advertised=frozenset(handlers), declared=frozenset(declared), due=frozenset(due),
            begins_at_once=True,
        )  # fmt: skip

    def _dead(self, seen: dict[UUID, tuple[int, bool]], mine: set[UUID]) -> list[UUID]:
        now, before, self._looked = time.monotonic(), self._looked, time.monotonic()
        known = self._free if now - before < _GAP else {}
        self._free = {}
        for id_, (count, locked) in seen.items():
            if not locked and id_ not in mine:
                since, counted = known.get(id_, (now, count))
                self._free[id_] = (since if counted == count else now, count)
        return [id_ for id_, (since, _) in self._free.items() if now - since >= GRACE]
