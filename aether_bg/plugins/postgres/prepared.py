"""The frequent statements: prepared once for each connection, then one call into libpq each.

psycopg's own way makes a cursor, writes each parameter and waits in a loop of its own: three times the client's time.
It stays the way inside transactions and pipelines, and through a pooler.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from psycopg import OperationalError, RawCursor, errors, pq
from psycopg.adapt import Transformer

from aether_bg.plugins.postgres.connections import Connection

_BINARY: Final = 1
_DONE: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_IDLE: Final = pq.TransactionStatus.IDLE
_NO_PIPELINE: Final = pq.PipelineStatus.OFF
_numbers: Final = count()


def numbered(sql: str) -> str:
    """With `$1`, `$2` and so on in place of each `%s`."""
    first, *rest = sql.split("%s")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


def run(conn: Connection, sql: bytes, params: Sequence[str]) -> None:
    """`sql`: with numbered parameters. Its answer is not read; in a pipeline it is only sent."""
    if _alone(conn):
        _run(conn, sql, params)
    else:
        RawCursor(conn).execute(sql, params)


def fetch(conn: Connection, sql: bytes, params: Sequence[str]) -> list[tuple[Any, ...]]:
    """Its rows. Not in a pipeline."""
    if not _alone(conn):
        return RawCursor(conn).execute(sql, params, binary=True).fetchall()
    result = _run(conn, sql, params)
    reader = Transformer(conn)
    reader.set_pgresult(result)
    return reader.load_rows(0, result.ntuples, tuple)


def _alone(conn: Connection) -> bool:
    """Whether the statement is a transaction of its own, on a session that keeps what it has prepared."""
    pgconn = conn.pgconn
    return conn.names is not None and pgconn.transaction_status == _IDLE and pgconn.pipeline_status == _NO_PIPELINE


def _run(conn: Connection, sql: bytes, params: Sequence[str]) -> pq.abc.PGresult:
    given = [param.encode() for param in params]
    try:
        return _execute(conn, sql, given)
    except errors.InvalidSqlStatementName:  # after a ROLLBACK psycopg has the server forget all of them
        conn.names = {}
        return _execute(conn, sql, given)


def _execute(conn: Connection, sql: bytes, given: Sequence[bytes]) -> pq.abc.PGresult:
    names = conn.names or {}
    if (name := names.get(sql)) is None:
        name = b"aether_bg_%d" % next(_numbers)
        _checked(conn.pgconn.prepare(name, sql))
        conn.names = names | {sql: name}
    return _checked(conn.pgconn.exec_prepared(name, given, None, _BINARY))


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status not in _DONE:
        error = errors.error_from_result(result)
        raise error if error.sqlstate else OperationalError(str(error))  # without one it is libpq's: the server is gone
    return result
