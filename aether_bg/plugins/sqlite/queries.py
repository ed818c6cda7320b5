"""Reading: `Query`, history and statistics as SQL, on connections that never write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from aether_bg.errors import StoreBroken, shown
from aether_bg.model import JobInfo, JobRun, JobStatus, Purge, Query, Stats
from aether_bg.plugins.sqlite import listing, reading
from aether_bg.plugins.sqlite.choosing import lanes_of
from aether_bg.plugins.sqlite.columns import RUN_COLUMNS, readable_time, to_sorted_json, to_time, to_uuid
from aether_bg.plugins.sqlite.rows import read_run
from aether_bg.plugins.sqlite.schema import (
    MANUAL,
    NOT_HELD,
    NOT_NEEDED,
    PAUSED,
    PAUSED_HANDLERS,
    READY,
    RECURS,
)

_SAME_METADATA = """(
    SELECT count(*) FROM json_each(extra_properties) AS has JOIN json_each(?) AS wants
    ON has.key = wants.key AND has.type = wants.type AND has.value IS wants.value
) = ?"""
_PARENTS = """(
    SELECT aether_jobs.*, links.place AS link_place FROM main.aether_links AS links
    JOIN main.aether_jobs ON aether_jobs.id = links.parent WHERE links.child = ?
)"""
_ODD_ID = "id NOT GLOB '????????-????-????-????-????????????' OR id GLOB '*[^-0-9a-f]*' OR typeof(id) <> 'text'"
_NEWEST = "SELECT max(rowid) FROM main.aether_jobs"
LANES = f"WITH RECURSIVE {lanes_of('SELECT ? AS name', READY)} SELECT priority FROM lane WHERE priority IS NOT NULL"
_PLACE = {"created": "id", "due": "coalesce(due_at, ''), id"}


def find(conn: sqlite3.Connection, query: Query) -> list[JobInfo]:
    terms, params = _where(query)
    if query.order in ("newest", "ended") and query.parents_of is None:
        source, params = listing.source(conn, query, terms, params)
        return _with_stand_ins(conn, query, reading.jobs(conn, f"FROM {source}", params))
    place = _PLACE.get(query.order, "id")
    if query.order == "due" and (query.due_before is not None or query.unarmed):
        place = "due_at, id"  # what can be claimed has a due instant: the order of an index
    table = "main.aether_jobs"
    if query.parents_of is not None:
        place, table = "link_place", _PARENTS
        params.insert(0, str(query.parents_of))
    if query.after is not None and query.parents_of is not None:
        terms.append("link_place > (SELECT place FROM main.aether_links WHERE child = ? AND parent = ?)")
        params += [str(query.parents_of), str(query.after)]
    elif query.after is not None:  # in the order of ids, by the id itself: its row may be purged by now
        last = _PLACE.get(query.order, "id")  # that row may have ended by now, and have no due instant
        terms.append("id > ?" if place == "id" else f"({place}) > (SELECT {last} FROM main.aether_jobs WHERE id = ?)")
        params.append(str(query.after))
    order = "holds_name DESC, id DESC" if query.job_name is not None else place
    if query.holders is not None and place == "id":
        order = "+id"  # found by the index of names
    if query.changed_after is not None:
        order = f"+{order}"  # found by its own small index, not by walking all rows in the order of ids
        if not _any_created_after(conn, query.changed_after):
            terms.append("seq > 0")  # that index has only rows that were changed since they were made
    if query.children_of is not None and order == "id":
        order = "+id"  # found by their links
    if query.status == (JobStatus.RUNNING,) and order == "id":  # few, and found by their own index
        terms.append("status = 1")
        order = "+id"
    if query.job_name is not None and query.parents_of is not None:
        terms.append("job_name = ?")
        params.append(query.job_name)
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    if query.handler_name is not None and place == "due_at, id" and query.job_name is None:
        lanes = [lane for (lane,) in conn.execute(LANES, [query.handler_name])]  # lane by lane
        each = f"SELECT * FROM (SELECT * FROM {table} {where} AND priority = ? ORDER BY {order} LIMIT ?)"
        if lanes:
            table = f"({' UNION ALL '.join([each] * len(lanes))})"
            params, where = [value for lane in lanes for value in (*params, lane, query.limit)], ""
    if query.job_name is not None and query.parents_of is None:  # two partial indexes cover the names
        table = " UNION ALL ".join(
            f"SELECT * FROM main.aether_jobs WHERE job_name = ? AND holds_name = {held}" for held in (1, 0)
        )
        table, params = f"({table})", [query.job_name, query.job_name, *params]
    found = reading.jobs(conn, f"FROM (SELECT * FROM {table} {where} ORDER BY {order} LIMIT ?)", [*params, query.limit])
    return _with_stand_ins(conn, query, found)


def _with_stand_ins(conn: sqlite3.Connection, query: Query, found: list[JobInfo]) -> list[JobInfo]:
    if query.ids is not None and any(one.version == 5 for one in query.ids):  # stand-ins, which no statement can find
        found += [job for job in reading.jobs(conn, f"FROM main.aether_jobs WHERE {_ODD_ID}", []) if query.matches(job)]
    names = held(conn)
    return [job.under(names) for job in found] if names else found


def held(conn: sqlite3.Connection) -> set[str]:
    """Handlers that are paused."""
    with reading.any_text(conn):
        return {name for (name,) in conn.execute(PAUSED_HANDLERS) if isinstance(name, str)}


def _any_created_after(conn: sqlite3.Connection, at: datetime) -> bool:
    """Read from the newest row."""
    newest = conn.execute(f"SELECT created_at FROM main.aether_jobs WHERE rowid = ({_NEWEST})").fetchone()
    return newest is not None and newest[0] > to_time(at)


def _where(query: Query) -> tuple[list[str], list[Any]]:
    """Only our own text becomes SQL; every value is a parameter."""
    terms: list[str] = []
    params: list[Any] = []

    def add(term: str, *values: Any) -> None:
        terms.append(term)
        params.extend(values)

    if query.ids is not None:
        add("id IN (SELECT value FROM json_each(?))", json.dumps([str(i) for i in query.ids]))
    if query.holders is not None:
        add("holds_name = 1 AND job_name IN (SELECT value FROM json_each(?))", json.dumps(query.holders))
    if query.handler_name is not None:
        add("handler_name = ?", query.handler_name)
    if query.status is not None:
        add("status IN (SELECT value FROM json_each(?))", json.dumps([int(s) for s in query.status]))
    if query.owner is not None:
        add("status = 1 AND owner = ?", str(query.owner))
    if query.due_before is not None:
        add(f"{READY} AND {NOT_HELD} AND due_at <= ?", to_time(query.due_before))
    if query.created_after is not None:
        add("created_at > ?", to_time(query.created_after))
    if query.created_before is not None:
        add("created_at < ?", to_time(query.created_before))
    if query.unarmed:
        add(f"{READY} AND {NOT_HELD} AND armed_seq <> seq")
    if query.changed_after is not None:
        add("status = 0 AND modified_at > ?", to_time(query.changed_after))
    if query.zoned:
        add("status = 0 AND timezone IS NOT NULL")
    if query.name_prefix:
        term, range_ = listing.prefix(query.name_prefix)
        add(term.replace("job_name", "+job_name"), *range_)
    if query.error_line is not None:
        add(f"{listing.error_line('last_error')} = ?", query.error_line)
    if query.paused:
        add(PAUSED)
    if query.recurring:
        add(RECURS)
    if query.order == "ended":
        add(listing.ENDED)
    if query.declared:
        add("declared = 1 AND status < 2")
    if query.children_of is not None:
        add("id IN (SELECT child FROM main.aether_links WHERE parent = ?)", str(query.children_of))
    if query.metadata is not None:
        add(_SAME_METADATA, to_sorted_json(dict(query.metadata)), len(query.metadata))
    return terms, params


def history(conn: sqlite3.Connection, job_id: UUID, limit: int) -> list[JobRun]:
    sql = (
        f"SELECT {', '.join(RUN_COLUMNS)} FROM main.aether_runs WHERE job_id = ? ORDER BY token DESC, gap DESC LIMIT ?"
    )
    with reading.any_text(conn):
        return [read_run(row) for row in conn.execute(sql, [str(job_id), limit])]


def stats(conn: sqlite3.Connection, size: int, now: str | None) -> Stats:
    def one(sql: str, *params: Any) -> Any:
        return conn.execute(sql, params).fetchone()[0]

    by_status = dict.fromkeys(JobStatus, 0)
    by_handler: dict[str, dict[str, int]] = {}
    for handler, status, count in conn.execute(COUNTED):
        if status in by_status:  # else the row cannot be read: `check` names it
            by_status[status] += count
            by_handler.setdefault(str(handler), {})[JobStatus(status).name.lower()] = count
    return Stats(
        store_id=store_id(conn),
        **{status.name.lower(): count for status, count in by_status.items()},
        paused=one(f"SELECT count(*) FROM main.aether_jobs WHERE {PAUSED}"),
        due=one(f"SELECT count(*) FROM main.aether_jobs WHERE {READY} AND {NOT_HELD} AND due_at <= ?", now),
        oldest_due=readable_time(one(f"SELECT min(due_at) FROM main.aether_jobs WHERE {READY} AND {NOT_HELD}")),
        owners=one("SELECT count(*) FROM main.aether_owners"),
        runs=one("SELECT count(*) FROM main.aether_runs"),
        size=size,
        by_handler=by_handler,
        paused_handlers=tuple(sorted(held(conn))),
    )


def purgeable(conn: sqlite3.Connection, purge: Purge) -> int:
    """How many jobs a purge of one status would take, in the order in which it takes them, oldest first."""
    sql, params = "SELECT count(*) FROM main.aether_jobs WHERE status = ?", [int(purge.status or 0)]
    (total,) = conn.execute(sql, params).fetchone()
    old = total
    if purge.before is not None:
        (old,) = conn.execute(f"{sql} AND handled_time < ?", [*params, to_time(purge.before)]).fetchone()
    most = min(int(old), int(total) if purge.keep is None else max(int(total) - purge.keep, 0))
    oldest = "SELECT id FROM main.aether_jobs WHERE status = ? ORDER BY handled_time LIMIT ?"
    sql = f"SELECT count(*) FROM ({oldest}) AS aether_jobs WHERE {NOT_NEEDED}"
    count: int = conn.execute(sql, [*params, most]).fetchone()[0]
    return count


def store_id(conn: sqlite3.Connection) -> UUID:
    """Raises `StoreBroken` if it cannot be read."""
    found = conn.execute("SELECT value FROM main.aether_meta WHERE key = 'store_id'").fetchone()
    try:
        return UUID(found[0])
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreBroken(
            "the database", f"its id in the table aether_meta must be a UUID, got {shown(found and found[0])}",
            "Restore a backup, or write a new UUID there: nothing but waiting Dapr triggers knows the old one.",
        ) from error  # fmt: skip


def running(conn: sqlite3.Connection, owner: UUID) -> Iterator[tuple[UUID, int]]:
    """The jobs that this owner holds: id and token."""
    for id_, seq in conn.execute(HELD, [str(owner)]):
        if (found := readable_id(id_)) is not None and isinstance(seq, int):
            yield found, seq


def readable_id(text: Any) -> UUID | None:
    try:
        return to_uuid(text)
    except (ValueError, TypeError):
        return None


COUNTED = f"""
SELECT handler_name, 0, count(*) FROM {listing.SCHEDULED.format("handler_name")} GROUP BY handler_name
UNION ALL SELECT handler_name, 1, count(*) FROM main.aether_jobs INDEXED BY aether_jobs_running WHERE status = 1
GROUP BY handler_name
UNION ALL SELECT handler_name, status, count(*) FROM main.aether_jobs INDEXED BY aether_jobs_ended WHERE status > 1
GROUP BY handler_name, status
"""
"""How many of each handler and status, from indexes alone."""
ALIVE_OWNERS = "SELECT id, beat, handlers, stopping, declares FROM main.aether_owners"
HELD = "SELECT id, seq FROM main.aether_jobs WHERE status = 1 AND owner = ?"
ORPHANED = """
SELECT DISTINCT owner FROM main.aether_jobs
WHERE status = 1 AND (owner IS NULL OR owner NOT IN (SELECT id FROM main.aether_owners))
"""
DUE_HANDLERS = f"""
WITH RECURSIVE h(name) AS (
    SELECT min(handler_name) FROM main.aether_jobs WHERE {READY}
    UNION ALL
    SELECT (SELECT min(handler_name) FROM main.aether_jobs WHERE {READY} AND handler_name > h.name)
    FROM h WHERE name IS NOT NULL
), {lanes_of(f"SELECT name FROM h WHERE name IS NOT NULL AND name NOT IN ({PAUSED_HANDLERS})", READY)}
SELECT handler FROM lane WHERE priority IS NOT NULL AND (
    SELECT min(due_at) FROM main.aether_jobs WHERE {READY} AND handler_name = lane.handler
    AND aether_jobs.priority = lane.priority
) <= :now
UNION SELECT handler_name FROM main.aether_jobs
WHERE {MANUAL} AND handler_name IN ({PAUSED_HANDLERS}) AND due_at <= :now
"""
