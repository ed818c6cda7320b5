"""Enqueueing and completing on a connection of the caller's own, where that is not possible, or used wrongly.

tests/plugins/postgres has the drivers and a real server.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, InvalidOption, JobContext, JobStatus, UnitOfWork, errors, hookimpl
from aether_bg.model import ParamStyle, Statement, Write
from aether_bg.plugins.memory import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


class Reachable(MemoryStore):
    """Says that users' connections reach it; no test gets as far as a statement."""

    @hookimpl
    def store_statements(self, writes: Sequence[Write], style: ParamStyle) -> Sequence[Statement]:
        return [Statement(f"INSERT {style}", ("text",)) for _ in writes]


@pytest.fixture
def mine() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


@pytest.mark.parametrize("verb", ["enqueue", "insertion", "complete"])
async def test_file_store_names_the_unit_of_work(app: Aether, verb: str, mine: sqlite3.Connection) -> None:
    raised: list[Exception] = []

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        try:
            await ctx.complete(mine)
        except errors.Unsupported as error:
            raised.append(error)

    async with app:
        if verb == "complete":
            done = await app.wait(await app.enqueue("Work"), 10)
            assert done.status is JobStatus.COMPLETED
            assert "unit_of_work" in str(raised[0])
            return
        with pytest.raises(errors.Unsupported, match="unit_of_work"):
            await app.enqueue("Work", connection=mine) if verb == "enqueue" else app.insertion("Work")
        assert (await app.store.stats()).total == 0


async def test_blocking_verbs_refuse_as_well(app: Aether, path: Path) -> None:
    app.handler("Work")(lambda: None)
    with app.blocking() as jobs:
        with pytest.raises(errors.Unsupported):
            jobs.enqueue("Work", connection=object())
        with pytest.raises(errors.Unsupported):
            jobs.insertion("Work")


@pytest.mark.parametrize("wrong", [object(), "postgresql://localhost", 5, dict])
async def test_only_connections_and_sessions(make_app: Callable[..., Aether], wrong: Any) -> None:
    async with make_app(Reachable()).client() as jobs:
        with pytest.raises(InvalidOption, match="connection or session of psycopg, asyncpg or SQLAlchemy"):
            await jobs.enqueue("Work", connection=wrong)


async def test_options_are_checked_first(make_app: Callable[..., Aether]) -> None:
    async with make_app(Reachable()).client() as jobs:
        for options in ({"notify": "yes"}, {"if_exists": "replace"}, {"misfire": "never"}, {"until": 5}):
            with pytest.raises(InvalidOption):
                await jobs.enqueue("Work", connection=object(), **options)  # type: ignore[arg-type]
        for options in ({"style": "?"}, {"if_exists": "keep"}, {"connection": None}, {"stile": "%s"}):
            with pytest.raises(InvalidOption):
                jobs.insertion("Work", **options)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidPayload):
            jobs.insertion("Work", payload=object())


async def test_not_inside_a_unit_of_work(make_app: Callable[..., Aether]) -> None:
    async with make_app(Reachable()).client() as jobs, jobs.unit_of_work():
        with pytest.raises(errors.InsideUnitOfWork):
            await jobs.enqueue("Work", connection=object())


async def test_insertion_has_statement_parameters_and_id(make_app: Callable[..., Aether]) -> None:
    async with make_app(Reachable()).client() as jobs:
        one, two = jobs.insertion("Work"), jobs.insertion("Work", style="$1")
        assert (one.sql, one.params, two.sql) == ("INSERT %s", ("text",), "INSERT $1")
        assert one.id != two.id


async def test_complete_is_for_the_handler_alone(make_app: Callable[..., Aether]) -> None:
    app, kept, raised = make_app(Reachable()), list[JobContext](), list[Exception]()

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        kept.append(ctx)

    @app.handler("InUnit")
    async def in_unit(ctx: JobContext, uow: UnitOfWork) -> None:
        try:
            await ctx.complete(object())
        except errors.InsideUnitOfWork as error:
            raised.append(error)

    async with app:
        await app.wait(await app.enqueue("Work"), 10)
        with pytest.raises(errors.UsageError, match="attempt has ended"):
            await kept[0].complete(object())
        with pytest.raises(errors.UsageError, match="not the context of a running attempt"):
            await JobContext(kept[0].job).complete(object())
        with pytest.raises(errors.UsageError):
            await pickle.loads(pickle.dumps(kept[0])).complete(object())
        await app.wait(await app.enqueue("InUnit"), 10)
        assert raised


def test_only_a_store_has_statements() -> None:
    class Statements:
        @hookimpl
        def store_statements(self, writes: Sequence[Write], style: ParamStyle) -> Sequence[Statement]:
            return []

    with pytest.raises(errors.IncompleteLayer, match="no store"):
        Aether(":memory:", plugins=[Statements()])
