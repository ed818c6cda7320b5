"""Units of work: an outcome with the user's own SQL in one transaction, on a connection of their own (W4 to W8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg

from aether_bg.errors import DeniedSQL, UnitOfWorkTimeout, shown
from aether_bg.model import Call, Insert, JobInfo, Query, Transaction, Update, Write
from aether_bg.plugins._lent import Lent
from aether_bg.plugins.postgres import queries, trouble
from aether_bg.plugins.postgres.changes import happened, refusal
from aether_bg.plugins.postgres.connections import Connection
from aether_bg.plugins.postgres.schema import Schema
from aether_bg.plugins.postgres.steps import carry_out, insert
from aether_bg.plugins.postgres.workers import Theirs

_CONTROL: Final = frozenset((
    "begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare", "discard", "listen",
    "unlisten", "set", "reset", "lock", "copy", "vacuum",
))  # fmt: skip
"""Statements that end or escape the transaction, or outlast it on the connection (docs/protocol.md, W7)."""
_NUMBER: Final = "SELECT pg_catalog.pg_current_xact_id()::text, pg_catalog.pg_postmaster_start_time()"
_STATUS: Final = "SELECT pg_catalog.pg_xact_status(%s::text::xid8), pg_catalog.pg_postmaster_start_time()"
_SETTLING: Final = 2.0
"""Seconds that the server may take to end a transaction whose client is gone."""


class Unit:
    """One transaction with `writes` in order. `limit`: seconds that it may take; `where`: the store, in words."""

    def __init__(self, schema: Schema, writes: Sequence[Write], limit: float, where: str) -> None:
        self._schema, self._writes, self._limit, self._where = schema, writes, limit, where
        self._results: list[object] = []
        self._number: str | None = None
        """Of its transaction."""
        self._server: object = None
        """When the server was started that gave the number."""

    def run(self, conn: Connection) -> list[object]:
        """The answers. What is left open is rolled back by the caller."""
        until = time.monotonic() + self._limit
        self._results = []
        first = next(place for place, write in enumerate(self._writes) if type(write) is Call)
        try:
            with conn.pipeline():  # the number of the transaction costs no trip of its own
                conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                found = conn.execute(_NUMBER)
            self._number, self._server = found.fetchone() or (None, None)
            self._results += carry_out(conn, self._schema, self._writes[:first])
            for write in self._writes[first:]:
                if isinstance(write, Call):
                    self._results.append(Tx(conn, self._schema, until, write.name).call(write.fn))
                else:
                    self._results += carry_out(conn, self._schema, [write])
            conn.execute("COMMIT")
        except psycopg.Error as error:
            if conn.closed or trouble.is_lost(error):
                raise
            conn.rollback()
            raise refusal(conn, self._schema, self._writes, error) or error from error
        return self._results

    def settle(self, conn: Connection) -> list[object] | None:
        """What became of it, asked on another connection when the answer was lost; None if that is unknown."""
        deadline = time.monotonic() + _SETTLING
        while self._number is not None:
            status, server = conn.execute(_STATUS, [self._number]).fetchone() or (None, None)
            if status == "committed":
                return self._results if self._is_ours(conn, server) else None
            if status == "aborted":
                raise trouble.unreachable(self._where)
            if status is None or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return None

    def _is_ours(self, conn: Connection, server: object) -> bool:
        """Whether the number that is committed is still this transaction's (docs/protocol.md, P13)."""
        if isinstance(self._writes[0], Insert | Update):
            return happened(conn, self._schema, self._writes) is not None
        return server == self._server


class Tx:
    """What a `Call` gets: the open transaction, until the call ends and on its thread alone."""

    def __init__(self, conn: Connection, schema: Schema, until: float, name: str) -> None:
        self._conn, self._schema, self._until, self._name = conn, schema, until, name
        self._lent = Lent()

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        self._check()
        _allowed(sql)
        try:
            with self._conn.pipeline():  # one statement at a time: two in one text are refused
                cursor = self._conn.execute(sql.encode(), params or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.errors.QueryCanceled as error:
            rule = "must end within 1 s"
            remedy = "It holds a connection and rows that others need: let it change fewer rows, or split it."
            raise UnitOfWorkTimeout("a statement in a unit of work", rule, remedy) from error

    def add(self, job: JobInfo, after: Sequence[UUID] = ()) -> None:
        self._check()
        insert(self._conn, self._schema, [Insert(job, tuple(after))])

    def find(self, query: Query) -> list[JobInfo]:
        self._check()
        return queries.find(self._conn, self._schema, query)

    def call(self, fn: Callable[[Transaction], Any]) -> Any:
        """What `fn` returns; the transaction is closed to it afterwards. Its errors come as `Theirs`."""

        def marked(tx: Tx) -> Any:
            try:
                return fn(tx)
            except BaseException as error:
                broken = self._conn.closed or trouble.is_lost(error)
                state = getattr(error, "sqlstate", None) or ""
                if isinstance(error, psycopg.Error) and (broken or state.startswith("40") or state == "55P03"):
                    raise  # trouble of the store, not of the function
                raise Theirs(error) from None

        return self._lent.call(marked, self)

    def _check(self) -> None:
        self._lent.check()
        if time.monotonic() > self._until:
            remedy = "It holds rows that others wait for: do less in it, and nothing that waits."
            raise UnitOfWorkTimeout(f"a unit of work ({self._name})", "has taken too long", remedy)


def _allowed(sql: object) -> None:
    if not isinstance(sql, str) or "\0" in sql:
        raise DeniedSQL(f"a statement in a unit of work, {shown(sql)},", "must be text", "Pass data as parameters.")
    word = _first_word(sql)
    if word in _CONTROL:
        raise DeniedSQL(
            f"{word.upper()} in a unit of work",
            "its statements run inside one transaction, which they may not end or escape",
            "Leave it out; the commit happens when the unit ends.",
        )  # fmt: skip


def _first_word(sql: str) -> str:
    """In lower case, after blanks and comments."""
    text = sql.lstrip(" \t\r\n\f;")
    while text.startswith(("--", "/*")):
        if text.startswith("--"):
            text = text.partition("\n")[2].lstrip(" \t\r\n\f;")
            continue
        depth, place = 1, 2
        while depth and place < len(text):
            pair = text[place : place + 2]
            depth += {"/*": 1, "*/": -1}.get(pair, 0)
            place += 2 if pair in ("/*", "*/") else 1
        text = text[place:].lstrip(" \t\r\n\f;")
    return "".join(character if character.isalpha() else " " for character in text[:20]).split(" ", 1)[0].lower()
