"""Connections, as each kind of work needs them, and how to break one from another thread."""

from __future__ import annotations

import os
import socket
import weakref
from contextlib import suppress
from typing import Any, Final

import attrs
import psycopg

from aether_bg.plugins.postgres.places import Place


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """`names`: of prepared statements, by their text (see `prepared`); None where none can be kept."""

    names: dict[bytes, bytes] | None = None


_NETWORK: Final = {
    "connect_timeout": 3, "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000, "application_name": "aether_bg", "client_encoding": "UTF8",
}  # fmt: skip
"""A cut network is noticed within eleven seconds, on both sides."""
_TIMES: Final = "SET timezone = 'UTC'; SET datestyle = 'ISO'"
"""A database may have others, in which psycopg reads no instant."""
_BASE: Final = (
    f"{_TIMES}; SET search_path = pg_catalog, pg_temp; SET jit = off; "
    "SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off; "
    "SET statement_timeout = 0; SET idle_session_timeout = 0; SET lock_timeout = '2s'; "
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
)
SETTINGS: Final = {
    "hot": _BASE + "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; "
    "SET enable_mergejoin = off; SET default_transaction_read_only = off",
    "read": _BASE + "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off",
    "session": _BASE + "SET synchronous_commit = off; SET default_transaction_read_only = off",
    "schema": _BASE + "SET default_transaction_read_only = off",
    "inspection": _BASE + "SET default_transaction_read_only = on; SET statement_timeout = '60s'",
    "unit": f"{_TIMES}; SET default_transaction_isolation = 'read committed'; SET lock_timeout = '2s'; "
    "SET default_transaction_read_only = off; SET idle_session_timeout = 0; SET statement_timeout = '1s'; "
    "SET idle_in_transaction_session_timeout = '10s'",
}
"""By kind of work. A plan made while the table was empty would read all of it until the next ANALYZE; the frequent
statements avoid such plans. SQL of users runs on "unit" alone, with the search path of their role."""
_POOLED: Final = _TIMES
"""All that a pooler in transaction mode keeps separate for each client."""


@attrs.define(eq=False)
class Link:
    """How to connect. `pooled`: a pooler is in between, which has neither sessions nor prepared statements."""

    place: Place
    pooled: bool = False

    def connect(self, kind: str) -> Connection:
        """Raises a `psycopg.Error`."""
        ours = {name: value for name, value in _NETWORK.items() if name not in self.place.options}
        conn = Connection.connect(self.place.conninfo, autocommit=True, **ours)  # type: ignore[arg-type]
        try:
            _open.add(conn)
            if self.pooled:
                conn.prepare_threshold = None
                conn.execute(_POOLED)
            else:
                conn.execute(SETTINGS[kind])
                if kind in ("hot", "session"):  # the same few statements, again and again
                    conn.prepare_threshold, conn.names = 0, {}
        except BaseException:
            conn.close()
            raise
        return conn


def is_pooled(conn: Connection) -> bool:
    """A pooler answers with a process number of its own."""
    row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return row is None or row[0] != conn.info.backend_pid


def is_usable(conn: Connection | None) -> bool:
    """Whether it is open and the server has not hung up: what the server sends between two statements is a farewell or
    a notification."""
    if conn is None or conn.closed:
        return False
    try:
        conn.pgconn.consume_input()  # reads a farewell,
        conn.pgconn.consume_input()  # and only then that the line is closed
    except psycopg.Error:
        return False
    return bool(conn.pgconn.status == psycopg.pq.ConnStatus.OK)


def cut(conn: Connection | None) -> None:
    """Ends its network connection, from any thread: a statement that waits for an answer on it fails at once."""
    if conn is None:  # none was made yet
        return
    with suppress(OSError, psycopg.Error, AttributeError), socket.socket(fileno=os.dup(conn.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


_open: weakref.WeakSet[Connection] = weakref.WeakSet()
_kept: list[Connection] = []


def _after_fork() -> None:
    """In the child: closes its copies of the descriptors and sends nothing to the server. Otherwise the child would
    keep a dead parent's locks, or end the parent's session (docs/protocol.md, P2)."""
    _kept.extend(_open)  # never collected, so that nothing is closed a second time
    for conn in _kept:
        with suppress(OSError, psycopg.Error):
            os.close(conn.pgconn.socket)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
