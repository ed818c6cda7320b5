"""The user's own connections: which kind one is, and how to run one of the store's statements on it.

Nothing here begins, commits, rolls back or repeats: the transaction is the user's, and so are the driver's errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import anyio.to_thread
import attrs

from aether_bg.errors import InvalidOption, shown
from aether_bg.model import ParamStyle, Statement

Row: TypeAlias = Sequence[Any] | None
_ACCEPTED: Final = "psycopg, asyncpg or SQLAlchemy"


class Run(Protocol):
    def __call__(self, connection: Any, statement: Statement) -> Awaitable[Row]: ...


@attrs.frozen
class Kind:
    """`style`: how its SQL marks a parameter; `run`: carries out one statement and returns its first row."""

    style: ParamStyle
    run: Run


def unscoped(connection: Any) -> Any:
    """The session of this thread or task behind SQLAlchemy's scoped session: another thread or task would get another
    one."""
    scoped = ("scoped_session", "async_scoped_session")
    names = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(connection).__mro__}
    return connection() if any(("sqlalchemy", name) in names for name in scoped) else connection


def kind_of(connection: Any, dialect: str | None = None) -> Kind:
    """Found by its class, so that no driver is imported. `dialect`: SQLAlchemy's name for the store's database.

    Raises `InvalidOption` for anything else: a pool, an engine, a cursor.
    """
    for cls in type(connection).__mro__:
        if (kind := _KINDS.get((cls.__module__.partition(".")[0], cls.__name__))) is not None:
            break
    else:
        raise InvalidOption(
            shown(connection), f"must be a connection or session of {_ACCEPTED}",
            "Pass the one that your own statements run on, not its pool or engine.", name="connection",
        )  # fmt: skip
    if kind.style == ":name" and dialect is not None:
        bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
        if bind.dialect.name != dialect:
            rule = f"must be connected to the store's database, {dialect}; it is {bind.dialect.name}"
            raise InvalidOption(shown(connection), rule, "Pass a session of that database.", name="connection")
    return kind


async def _psycopg_async(connection: Any, statement: Statement) -> Row:
    from psycopg import AsyncCursor
    from psycopg.rows import tuple_row

    async with AsyncCursor(connection, row_factory=tuple_row) as cursor:  # whatever row factory the connection has
        await cursor.execute(statement.sql.encode(), statement.params)
        return await cursor.fetchone()


async def _psycopg(connection: Any, statement: Statement) -> Row:
    from psycopg import Cursor
    from psycopg.rows import tuple_row

    def run() -> Row:
        with Cursor(connection, row_factory=tuple_row) as cursor:
            return cursor.execute(statement.sql.encode(), statement.params).fetchone()

    return await anyio.to_thread.run_sync(run)


async def _asyncpg(connection: Any, statement: Statement) -> Row:
    row: Row = await connection.fetchrow(statement.sql, *statement.params)
    return row


async def _sqlalchemy_async(connection: Any, statement: Statement) -> Row:
    from sqlalchemy import text

    row: Row = (await connection.execute(text(statement.sql), statement.params)).first()
    return row


async def _sqlalchemy(connection: Any, statement: Statement) -> Row:
    from sqlalchemy import text

    run: Callable[[], Row] = lambda: connection.execute(text(statement.sql), statement.params).first()  # noqa: E731
    return await anyio.to_thread.run_sync(run)


_KINDS: Final = {
    ("psycopg", "AsyncConnection"): Kind("%s", _psycopg_async),
    ("psycopg", "Connection"): Kind("%s", _psycopg),
    ("asyncpg", "Connection"): Kind("$1", _asyncpg),
    ("asyncpg", "PoolConnectionProxy"): Kind("$1", _asyncpg),
    **{("sqlalchemy", name): Kind(":name", _sqlalchemy) for name in ("Session", "Connection")},
    **{("sqlalchemy", name): Kind(":name", _sqlalchemy_async) for name in ("AsyncSession", "AsyncConnection")},
}
"""By package and class."""
