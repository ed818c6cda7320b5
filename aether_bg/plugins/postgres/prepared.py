"""The frequent statements: prepared once for each connection, then one call into libpq each.

psycopg's own way makes a cursor, writes each parameter and waits in a loop of its own: three times the client's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from psycopg import errors, pq
from psycopg.adapt import Transformer

from aether_bg.plugins.postgres.connections import Connection

_BINARY: Final = 1
_DONE: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


def run(conn: Connection, sql: bytes, params: Sequence[str]) -> None:
    """Nobody reads its answer. In a pipeline it is only sent."""
    if conn.prepared is None or conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        conn.execute(sql, params)
    else:
        _run(conn, conn.prepared, sql, params)


def fetch(conn: Connection, sql: bytes, params: Sequence[str]) -> list[tuple[Any, ...]]:
    """Its rows. Not in a pipeline."""
    if conn.prepared is None:
        return conn.execute(sql, params, binary=True).fetchall()
    result = _run(conn, conn.prepared, sql, params)
    reader = Transformer(conn)
    reader.set_pgresult(result)
    return reader.load_rows(0, result.ntuples, tuple)


def _run(conn: Connection, prepared: dict[bytes, bytes], sql: bytes, params: Sequence[str]) -> pq.abc.PGresult:
    if (name := prepared.get(sql)) is None:
        name = b"aether_bg_%d" % len(prepared)
        _checked(conn.pgconn.prepare(name, _numbered(sql)))
        prepared[sql] = name
    return _checked(conn.pgconn.exec_prepared(name, [param.encode() for param in params], None, _BINARY))


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status not in _DONE:
        raise errors.error_from_result(result)
    return result


def _numbered(sql: bytes) -> bytes:
    """With `$1`, `$2` and so on in place of each `%s`."""
    first, *rest = sql.split(b"%s")
    return first + b"".join(b"$%d%s" % (number, part) for number, part in zip(count(1), rest, strict=False))
