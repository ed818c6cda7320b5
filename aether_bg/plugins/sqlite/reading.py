"""Rows of jobs from the file: all in one step if possible, otherwise one by one (docs/protocol.md, C8).

A row that cannot be read must not keep the others from being read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aether_bg.model import JobInfo
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS
from aether_bg.plugins.sqlite.rows import JOBS_AS_JSON, read_jobs


def jobs(conn: sqlite3.Connection, source: str, params: Sequence[Any]) -> list[JobInfo]:
    """The jobs of `source`, a FROM clause. A job that cannot be read comes as `Unreadable`."""
    try:
        found = conn.execute(f"SELECT {JOBS_AS_JSON} {source}", params).fetchone()[0]
        return read_jobs(found)
    except (sqlite3.OperationalError, ValueError) as error:
        if not unreadable(error):
            raise
    return read_jobs(rows(conn, source, params))


def rows(conn: sqlite3.Connection, source: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The same as plain rows, whatever they contain."""
    with any_text(conn):
        return conn.execute(f"SELECT {', '.join(JOB_COLUMNS)} {source}", params).fetchall()


def unreadable(error: Exception) -> bool:
    """Whether `error` is about a value (a BLOB, or text that is not UTF-8) rather than about the file."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF == sqlite3.SQLITE_ERROR


@contextmanager
def any_text(conn: sqlite3.Connection) -> Iterator[None]:
    """Inside, text that is not UTF-8 is read as bytes, which no text column may hold."""
    before, conn.text_factory = conn.text_factory, _text
    try:
        yield
    finally:
        conn.text_factory = before


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
