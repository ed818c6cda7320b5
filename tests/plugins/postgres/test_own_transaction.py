"""Jobs in a transaction of the user's own: five drivers, each with commit and rollback; completing there; SQL alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest

from aether_bg import Aether, JobConflict, JobContext, JobStatus, errors

sqlalchemy = pytest.importorskip("sqlalchemy")
asyncpg = pytest.importorskip("asyncpg")
from sqlalchemy.ext.asyncio import (  # noqa: E402
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker  # noqa: E402

pytestmark = pytest.mark.anyio
BAD = {"text": 'a"b\\{},\0é\u2028', "float": -0.0, "big": 1e308, "none": None, "list": [[], {}]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # asyncpg and SQLAlchemy know no other


class Way:
    """One open transaction, by one driver."""

    def __init__(self, connection: Any, run: Callable[..., Any], commit: Any, rollback: Any) -> None:
        self.connection, self.run, self.commit, self.rollback = connection, run, commit, rollback


@asynccontextmanager
async def psycopg_sync(url: str) -> AsyncIterator[Way]:
    with psycopg.connect(url) as conn:

        async def run(sql: str) -> Any:
            cursor = conn.execute(sql.encode())
            return cursor.fetchall() if cursor.description else None

        yield Way(conn, run, awaited(conn.commit), awaited(conn.rollback))


@asynccontextmanager
async def psycopg_async(url: str) -> AsyncIterator[Way]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=psycopg.rows.dict_row) as conn:

        async def run(sql: str) -> Any:
            cursor = await conn.execute(sql.encode())
            return [tuple(row.values()) for row in await cursor.fetchall()] if cursor.description else None

        yield Way(conn, run, conn.commit, conn.rollback)


@asynccontextmanager
async def asyncpg_plain(url: str) -> AsyncIterator[Way]:
    conn = await asyncpg.connect(url)
    await conn.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")  # as services do
    transaction = conn.transaction()
    await transaction.start()

    async def run(sql: str) -> Any:
        return [tuple(row) for row in await conn.fetch(sql)]

    try:
        yield Way(conn, run, transaction.commit, transaction.rollback)
    finally:
        await conn.close()


def asking(alchemy: AsyncSession | AsyncConnection) -> Callable[[str], Any]:
    async def run(sql: str) -> Any:
        result = await alchemy.execute(sqlalchemy.text(sql))
        return [tuple(row) for row in result] if result.returns_rows else None

    return run


@asynccontextmanager
async def alchemy_session(url: str) -> AsyncIterator[Way]:
    engine = create_async_engine(url.replace("postgresql", "postgresql+asyncpg", 1))
    async with AsyncSession(engine) as session:
        yield Way(session, asking(session), session.commit, session.rollback)
    await engine.dispose()


@asynccontextmanager
async def alchemy_connection(url: str) -> AsyncIterator[Way]:
    engine = create_async_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    async with engine.connect() as conn:
        yield Way(conn, asking(conn), conn.commit, conn.rollback)
    await engine.dispose()


@asynccontextmanager
async def alchemy_plain_session(url: str) -> AsyncIterator[Way]:
    engine = sqlalchemy.create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    with Session(engine) as session:

        async def run(sql: str) -> Any:
            result = session.execute(sqlalchemy.text(sql))
            return [tuple(row) for row in result] if result.returns_rows else None

        yield Way(session, run, awaited(session.commit), awaited(session.rollback))
    engine.dispose()


def awaited(plain: Callable[[], object]) -> Callable[[], Any]:
    async def call() -> None:
        plain()

    return call


WAYS = [psycopg_sync, psycopg_async, asyncpg_plain, alchemy_session, alchemy_connection, alchemy_plain_session]


@pytest.fixture
async def app(url: str) -> AsyncIterator[Aether]:
    app = Aether(url, scheduler="timer")
    with psycopg.connect(url) as conn:
        conn.execute("CREATE TABLE orders (name text)")

    @app.handler("Work")
    async def work(args: Any = None) -> None: ...

    async with app:
        yield app


def orders(url: str) -> list[str]:
    with psycopg.connect(url) as conn:
        return sorted(name for (name,) in conn.execute("SELECT name FROM orders"))


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("way", WAYS)
async def test_job_and_row_together_or_neither(app: Aether, url: str, way: Any, end: str) -> None:
    async with way(url) as mine:
        await mine.run("INSERT INTO orders VALUES ('one')")
        id_ = await app.enqueue("Work", "order-one", BAD, connection=mine.connection, metadata={"k": "v"})
        assert await app.store.find(job_name="order-one") == []  # not before the commit
        await getattr(mine, end)()
    if end == "rollback":
        assert (orders(url), await app.store.find()) == ([], [])
        return
    job = await app.wait(id_, 10)
    assert (orders(url), job.status, job.metadata) == (["one"], JobStatus.COMPLETED, {"k": "v"})
    assert json.dumps(job.payload) == json.dumps(BAD)


@pytest.mark.parametrize("way", WAYS)
async def test_a_held_name_leaves_the_transaction_usable(app: Aether, url: str, way: Any) -> None:
    first = await app.enqueue("Work", "held", {"n": 1}, timedelta(days=1))
    async with way(url) as mine:
        await mine.run("INSERT INTO orders VALUES ('one')")
        assert await app.enqueue("Work", "held", {"n": 1}, timedelta(days=1), connection=mine.connection) == first
        with pytest.raises(JobConflict, match="payload"):
            await app.enqueue("Work", "held", {"n": 2}, timedelta(days=1), connection=mine.connection)
        options: dict[str, Any] = {"if_exists": "keep", "connection": mine.connection}
        assert await app.enqueue("Work", "held", {"n": 2}, timedelta(days=1), **options) == first
        new = await app.enqueue("Work", "new", schedule=timedelta(days=1), connection=mine.connection)
        again = await app.enqueue("Work", "new", schedule=timedelta(days=1), connection=mine.connection)
        assert again == new  # its own, not committed yet
        await mine.commit()
    assert orders(url) == ["one"]
    assert {job.id for job in await app.store.find()} == {first, new}


@pytest.mark.parametrize(("way", "style"), [(psycopg_sync, "%s"), (asyncpg_plain, "$1"), (alchemy_session, ":name")])
async def test_insertion_is_for_the_callers_own_call(app: Aether, url: str, way: Any, style: Any) -> None:
    insertion = app.insertion("Work", "by hand", BAD, style=style)
    async with way(url) as mine:
        if style == "%s":
            row = mine.connection.execute(insertion.sql, insertion.params).fetchone()
        elif style == "$1":
            row = await mine.connection.fetchrow(insertion.sql, *insertion.params)
        else:
            row = (await mine.connection.execute(sqlalchemy.text(insertion.sql), insertion.params)).one()
        await mine.commit()
    assert UUID(row[0]) == insertion.id
    assert (await app.wait(insertion.id, 10)).payload["text"] == BAD["text"]


async def test_serialization_failure_is_the_callers(app: Aether, url: str) -> None:
    with psycopg.connect(url) as one, psycopg.connect(url) as other:
        one.isolation_level = other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT 1 FROM aether_bg.jobs")
        await app.enqueue("Work", "same", schedule=timedelta(days=1), connection=one)
        one.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            await app.enqueue("Work", "same", schedule=timedelta(days=1), connection=other)
        other.rollback()
    assert len(await app.store.find()) == 1


async def test_a_name_that_another_transaction_is_taking_is_waited_for(app: Aether, url: str) -> None:
    with psycopg.connect(url) as one, psycopg.connect(url) as other:
        first = await app.enqueue("Work", "same", schedule=timedelta(days=1), connection=one)
        timer = threading.Timer(0.3, one.commit)
        timer.start()
        second = await app.enqueue("Work", "same", schedule=timedelta(days=1), connection=other)
        timer.join()
        other.commit()
    assert second == first


async def test_a_name_that_is_free_by_now_changes_hands(app: Aether, url: str) -> None:
    first = await app.enqueue("Work", "sync", if_exists="keep", unique_for=timedelta(0))
    await app.wait(first, 10)
    with psycopg.connect(url) as conn:
        second = await app.enqueue("Work", "sync", if_exists="keep", unique_for=timedelta(0), connection=conn)
        conn.commit()
    assert second != first
    assert (await app.wait(second, 10)).status is JobStatus.COMPLETED
    with psycopg.connect(url) as conn, pytest.raises(errors.InvalidOption, match="after"):
        await app.enqueue("Work", after=[first], connection=conn)


async def test_clients_and_threads_as_well(app: Aether, url: str) -> None:
    async with Aether(url, scheduler="timer").client() as jobs:
        with psycopg.connect(url) as conn:
            one = await jobs.enqueue("Work", connection=conn)
            conn.commit()

    def in_thread() -> UUID:
        with psycopg.connect(url) as conn:
            id_ = app.sync.enqueue("Work", connection=conn, notify=False)
            conn.commit()
            return id_

    two = await anyio.to_thread.run_sync(in_thread)
    for id_ in (one, two):
        assert (await app.wait(id_, 10)).status is JobStatus.COMPLETED


async def test_scoped_sessions_are_those_of_the_caller(app: Aether, url: str) -> None:
    """Their session is another one in each thread, and another thread carries the statement out."""
    engine = sqlalchemy.create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    scoped = scoped_session(sessionmaker(engine))

    def in_thread(name: str) -> None:
        app.sync.enqueue("Work", name, connection=scoped)
        scoped.commit()
        scoped.remove()

    await app.enqueue("Work", "here", connection=scoped)
    scoped.commit()
    scoped.remove()
    await anyio.to_thread.run_sync(in_thread, "in a thread")
    for name in ("here", "in a thread"):
        assert (await app.wait(name, 10)).status is JobStatus.COMPLETED
    other = create_async_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    session = async_scoped_session(async_sessionmaker(other), asyncio.current_task)
    await app.enqueue("Work", "in a task", connection=session)
    await session.commit()
    await session.remove()
    assert (await app.wait("in a task", 10)).status is JobStatus.COMPLETED
    await other.dispose()
    engine.dispose()


async def test_wrong_connections(app: Aether, url: str) -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(errors.InvalidOption, match="sqlite"):
        await app.enqueue("Work", connection=session)
    engine.dispose()
    with pytest.raises(errors.InvalidOption, match="not its pool or engine"):
        await app.enqueue("Work", connection=engine)
    async with app.unit_of_work():
        with pytest.raises(errors.InsideUnitOfWork):
            await app.enqueue("Work", connection=object())
    assert await app.store.find() == []


# -- ctx.complete ------------------------------------------------------------------------------------


async def run_completing(url: str, handle: Any, **options: Any) -> tuple[Aether, UUID]:
    app = Aether(url, scheduler="timer")
    app.handler("Complete", **options)(handle)
    with psycopg.connect(url) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS orders (name text)")
    async with app.client() as jobs:
        return app, await jobs.enqueue("Complete", "complete")


@pytest.mark.parametrize("way", WAYS)
async def test_own_commit_is_the_outcome(url: str, way: Any) -> None:
    async def handle(ctx: JobContext) -> None:
        async with way(url) as mine:
            await mine.run("INSERT INTO orders VALUES ('done')")
            await ctx.complete(mine.connection)
            await mine.commit()

    app, id_ = await run_completing(url, handle)
    async with app:
        job = await app.wait(id_, 10)
        (run,) = await app.store.history(id_)
    assert (job.status, run.outcome, orders(url)) == (JobStatus.COMPLETED, "completed", ["done"])


@pytest.mark.parametrize("way", [psycopg_async, asyncpg_plain, alchemy_session])
async def test_without_a_commit_the_attempt_has_failed(url: str, way: Any) -> None:
    async def handle(ctx: JobContext) -> None:
        async with way(url) as mine:
            await mine.run("INSERT INTO orders VALUES ('done')")
            await ctx.complete(mine.connection)
            if ctx.attempt == 1:
                await mine.rollback()
            else:
                await mine.commit()

    app, id_ = await run_completing(url, handle, retries=1)
    async with app:
        job = await app.wait(id_, 20)
        newest, oldest = await app.store.history(id_)
    assert (job.status, orders(url)) == (JobStatus.COMPLETED, ["done"])
    assert (newest.outcome, oldest.outcome) == ("completed", "failed")
    assert "not committed" in (oldest.error or "")


async def test_what_follows_the_commit_does_not_undo_it(url: str) -> None:
    async def handle(ctx: JobContext) -> None:
        async with psycopg_async(url) as mine:
            await ctx.complete(mine.connection)
            await mine.commit()
        raise RuntimeError("too late")

    app, id_ = await run_completing(url, handle)
    async with app:
        assert (await app.wait(id_, 10)).status is JobStatus.COMPLETED
        (run,) = await app.store.history(id_)
        assert run.outcome == "completed"
        assert (await app.health())["running"] == []


async def test_a_lost_token_fails_the_transaction(url: str) -> None:
    seen: list[Exception] = []

    async def handle(ctx: JobContext) -> None:
        async with psycopg_async(url) as mine:
            await mine.run("INSERT INTO orders VALUES ('lost')")
            with psycopg.connect(url, autocommit=True) as elsewhere:  # another process takes it meanwhile
                elsewhere.execute("UPDATE aether_bg.jobs SET seq = seq + 1, status = 4, due_at = NULL, owner = NULL")
            try:
                await ctx.complete(mine.connection)
            except errors.TokenLost as error:
                seen.append(error)
                raise

    app, id_ = await run_completing(url, handle)
    async with app:
        with anyio.fail_after(10):
            while not seen:
                await anyio.sleep(0.02)
        assert (await app.wait(id_, 10)).status is JobStatus.CANCELLED
    assert orders(url) == []


async def test_a_verb_during_the_attempt_counts(url: str) -> None:
    async def handle(ctx: JobContext) -> None:
        await app.pause(ctx.job.id)
        async with psycopg_async(url) as mine:
            await ctx.complete(mine.connection)
            await mine.commit()

    app, _ = await run_completing(url, handle)
    async with app:
        id_ = await app.enqueue("Complete", "hourly", schedule="@every 1h")
        await app.trigger(id_)
        with anyio.fail_after(10):
            while (job := await app.store.get(id_)) is None or job.handled_time is None:
                await anyio.sleep(0.02)
        assert (job.status, job.paused) == (JobStatus.SCHEDULED, True)


async def test_twice_is_an_error_and_enqueueing_beside_it_is_not(url: str) -> None:
    seen: list[Exception] = []

    async def handle(ctx: JobContext) -> None:
        async with psycopg_async(url) as mine:
            if ctx.job.job_name == "complete":
                await app.enqueue("Complete", "next", connection=mine.connection)
            await ctx.complete(mine.connection)
            try:
                await ctx.complete(mine.connection)
            except errors.UsageError as error:
                seen.append(error)
            await mine.commit()

    app, id_ = await run_completing(url, handle)
    async with app:
        assert (await app.wait(id_, 10)).status is JobStatus.COMPLETED
        assert (await app.wait("next", 10)).status is JobStatus.COMPLETED
    assert len(seen) == 2


async def test_results_and_jobs_that_run_after_it_follow(url: str) -> None:
    async def handle(ctx: JobContext) -> int:
        async with psycopg_async(url) as mine:
            await ctx.complete(mine.connection)
            await mine.commit()
        return 42

    app, id_ = await run_completing(url, handle, keep_result=True)
    app.handler("After")(lambda: None)
    async with app.client() as jobs:
        after = await jobs.enqueue("After", after=[id_])
    async with app:
        assert (await app.wait(after, 10)).status is JobStatus.COMPLETED
        assert await app.result(id_, timeout=10) == 42


async def test_plain_handlers(url: str) -> None:
    def handle(ctx: JobContext) -> None:
        engine = sqlalchemy.create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
        with Session(engine) as session, session.begin():
            session.execute(sqlalchemy.text("INSERT INTO orders VALUES ('plain')"))
            ctx.complete(session)
        engine.dispose()

    app, id_ = await run_completing(url, handle)
    async with app:
        assert (await app.wait(id_, 10)).status is JobStatus.COMPLETED
    assert orders(url) == ["plain"]


@pytest.mark.parametrize("way", WAYS)
async def test_own_commit_settles_the_children(url: str, way: Any) -> None:
    """In the same transaction: they are released before the handler returns, and not before the commit."""
    seen: list[Any] = []

    async def handle(ctx: JobContext) -> None:
        async with way(url) as mine:
            await ctx.complete(mine.connection)
            seen.extend([(job.seq, job.waits_for) for job in await children(ctx)])
            await mine.commit()
        with anyio.fail_after(10):  # the child runs while its parent has not returned
            while (await app.wait("one", 10)).status is not JobStatus.COMPLETED:
                await anyio.sleep(0.02)
        seen.extend([(job.job_name, job.waits_for, job.status) for job in await children(ctx)])

    async def children(ctx: JobContext) -> list[Any]:
        return sorted(await app.store.find(children_of=ctx.job.id), key=lambda job: job.job_name)

    app = Aether(url, scheduler="timer")
    app.handler("Complete")(handle)

    @app.handler("Child")
    async def child() -> None:
        pass

    later = datetime.now(UTC) + timedelta(days=1)
    async with app.client() as jobs:
        parent = await jobs.enqueue("Complete", "complete")
        other = await jobs.enqueue("Child", "other", schedule=later)
        await jobs.enqueue("Child", "both", after=[parent, other])
        await jobs.enqueue("Child", "later", after=[parent], schedule=later)
        await jobs.enqueue("Child", "one", after=[parent])
    async with app:
        assert (await app.wait(parent, 20)).status is JobStatus.COMPLETED
        row = await app.store.get_by_job_name("later")
        both = await app.store.get_by_job_name("both")
    assert seen[:3] == [(0, 2), (0, 1), (0, 1)]
    assert seen[3:] == [
        ("both", 1, JobStatus.SCHEDULED), ("later", 0, JobStatus.SCHEDULED), ("one", 0, JobStatus.COMPLETED),
    ]  # fmt: skip
    assert row is not None
    assert both is not None
    assert (row.due_at, row.seq, both.seq) == (later, 1, 0)


async def test_a_rollback_releases_no_child(url: str) -> None:
    async def handle(ctx: JobContext) -> None:
        async with psycopg_async(url) as mine:
            await ctx.complete(mine.connection)
            await mine.rollback()

    app, parent = await run_completing(url, handle)
    async with app.client() as jobs:
        child = await jobs.enqueue("Complete", "child", after=[parent])
    async with app:
        assert (await app.wait(parent, 20)).status is JobStatus.FAILED
        assert (await app.wait(child, 20)).status is JobStatus.CANCELLED


# -- SQL alone -----------------------------------------------------------------------------------------


async def test_sql_function(app: Aether, url: str) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    with psycopg.connect(url, autocommit=True) as conn:
        call = "SELECT aether_bg.enqueue('Work', %s::json, name => %s, due => %s)"
        (one,) = conn.execute(call, [json.dumps({"to": "ada"}), "by-sql", None]).fetchone() or ()
        (same,) = conn.execute(call, [None, "by-sql", None]).fetchone() or ()
        (later,) = conn.execute(call, [None, "later", due]).fetchone() or ()
        (bare,) = conn.execute("SELECT aether_bg.enqueue('Work')").fetchone() or ()
        for wrong in (None, "", "a/b", "x" * 201, "a\nb"):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                conn.execute("SELECT aether_bg.enqueue(%s)", [wrong])
    job = await app.wait(one, 10)
    assert (same, job.payload, job.status) == (one, {"to": "ada"}, JobStatus.COMPLETED)
    assert (await app.wait(bare, 10)).job_name == f"Work-{bare}"
    waiting = await app.store.get(later)
    assert waiting is not None
    assert (waiting.due_at, waiting.status) == (due, JobStatus.SCHEDULED)
    assert await app.enqueue("Work", "later", schedule=due) == later  # the same enqueue, in Python


async def test_sql_function_in_a_trigger_goes_with_the_row(app: Aether, url: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("""
            CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM aether_bg.enqueue('Work', to_json(NEW), name => 'order-' || NEW.name); RETURN NEW; END $$;
            CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell()
        """)
        conn.commit()
        conn.execute("INSERT INTO orders VALUES ('gone')")
        conn.rollback()
        conn.execute("INSERT INTO orders VALUES ('kept')")
        conn.commit()
    assert (await app.wait("order-kept", 10)).payload == {"name": "kept"}
    assert await app.store.find(job_name="order-gone") == []
