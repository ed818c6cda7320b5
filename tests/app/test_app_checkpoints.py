"""Checkpoints: what an attempt leaves for the next one at its occurrence. docs/protocol.md, G2 and G3."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from aether_bg import (
    Aether,
    Backoff,
    InvalidPayload,
    JobContext,
    JobStatus,
    Snooze,
    TokenLost,
    UnitOfWork,
    UsageError,
    hookimpl,
)
from aether_bg.model import KEEP, About, Note, Write
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing import FakeClock, sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


@pytest.fixture(params=["sqlite", "memory"])
def either(request: pytest.FixtureRequest, make_app: Callable[..., Aether]) -> Aether:
    return make_app(MemoryStore() if request.param == "memory" else None)


async def test_a_retry_goes_on_from_it(either: Aether) -> None:
    seen: list[Any] = []

    @either.handler("Import", retries=3, backoff=Backoff(first=0.01))
    async def import_(ctx: JobContext) -> None:
        state = ctx.checkpointed or {"row": 0}
        seen.append(ctx.checkpointed)
        while state["row"] < 6:
            state["row"] += 1
            await ctx.checkpoint(state)
            if state["row"] % 2 == 0 and ctx.attempt < 3:
                raise ZeroDivisionError

    async with either as app:
        row = await app.wait(await app.enqueue("Import"), 10)
    assert seen == [None, {"row": 2}, {"row": 4}]
    assert (row.status, row.checkpoint) == (JobStatus.COMPLETED, None)


async def test_plain_handlers_wait_by_themselves(app: Aether) -> None:
    @app.handler("Plain")
    def plain(ctx: JobContext) -> None:
        ctx.checkpoint([1, 2])
        assert ctx.checkpointed == [1, 2]
        row = app.sync.store.get(ctx.job.id)
        assert row is not None
        assert row.checkpoint == [1, 2]

    @app.handler("Threads")
    async def threads(ctx: JobContext) -> None:
        await anyio.to_thread.run_sync(ctx.checkpoint, "from a thread")
        assert ctx.checkpointed == "from a thread"

    async with app:
        for name in ("Plain", "Threads"):
            row = await app.wait(await app.enqueue(name), 10)
            assert row.status is JobStatus.COMPLETED, row.last_error


async def test_it_is_durable_when_it_returns(app: Aether, make_app: Callable[..., Aether]) -> None:
    @app.handler("One")
    async def one(ctx: JobContext) -> None:
        for value in ({"row": 1}, [None], 0, "", False, None, {"é": 1.5}):
            await ctx.checkpoint(value)
            async with make_app().client() as elsewhere:
                row = await elsewhere.store.get(ctx.job.id)
                assert row is not None
                assert row.checkpoint == value
            assert ctx.checkpointed == value

    async with app:
        row = await app.wait(await app.enqueue("One"), 20)
        assert row.status is JobStatus.COMPLETED, row.last_error


async def test_it_is_a_copy(either: Aether) -> None:
    @either.handler("Copy")
    async def copy(ctx: JobContext) -> None:
        state = {"rows": [1]}
        await ctx.checkpoint(state)
        state["rows"].append(2)
        ctx.checkpointed["rows"].append(3)
        assert ctx.checkpointed == {"rows": [1]}
        row = await either.store.get(ctx.job.id)
        assert row is not None
        assert row.checkpoint == {"rows": [1]}

    async with either as app:
        row = await app.wait(await app.enqueue("Copy"), 10)
        assert row.status is JobStatus.COMPLETED, row.last_error


async def test_the_next_occurrence_begins_without_one(fake_app: Aether, clock: FakeClock) -> None:
    seen: list[tuple[int, Any]] = []

    @fake_app.handler("Often", schedule="@every 1h", retries=1)
    async def often(ctx: JobContext) -> None:
        seen.append((ctx.attempt, ctx.checkpointed))
        await ctx.checkpoint(len(seen))
        if len(seen) in (1, 3, 4):
            raise ZeroDivisionError

    async with fake_app as app:
        for _ in range(5):
            clock.advance(timedelta(hours=1))
            await app.drain()
    assert seen[:5] == [(1, None), (2, 1), (1, None), (2, 3), (1, None)]


async def test_a_snooze_and_a_stop_keep_it(make_app: Callable[..., Aether]) -> None:
    seen: list[Any] = []

    def build() -> Aether:
        app = make_app(grace=0.01)

        @app.handler("Sleepy")
        async def sleepy(ctx: JobContext) -> None:
            seen.append(ctx.checkpointed)
            await ctx.checkpoint(len(seen))
            if len(seen) == 1:
                raise Snooze(timedelta(0))
            if len(seen) == 2:
                await anyio.sleep(60)

        return app

    async with build() as app:
        job = await app.enqueue("Sleepy")
        while len(seen) < 2:
            await anyio.sleep(0.01)
        while (await app.store.find())[0].checkpoint != 2:
            await anyio.sleep(0.01)
    async with build() as app:
        assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
    assert seen == [None, 1, 2]


async def test_attempt_that_lost_its_token_is_cancelled(either: Aether) -> None:
    told: list[BaseException] = []
    cancelled = anyio.Event()
    begun, go = anyio.Event(), anyio.Event()

    @either.handler("Lost")
    async def lost(ctx: JobContext) -> None:
        with anyio.CancelScope(shield=True):
            begun.set()
            await go.wait()
            try:
                await ctx.checkpoint(1)
            except TokenLost as error:
                told.append(error)
        try:
            await anyio.sleep(60)
        finally:
            cancelled.set()

    async with either as app:
        job = await app.enqueue("Lost", "lost")
        with anyio.fail_after(10):
            await begun.wait()
            async with AsyncOperator(app) as other:
                await other.delete(job)
            go.set()
            await cancelled.wait()
        row = await app.store.get(job)
    assert row is not None
    assert (row.status, row.checkpoint) == (JobStatus.CANCELLED, None)
    assert "no longer holds the job" in str(told[0])


class Overtaking(MemoryStore):
    """The earlier a checkpoint is written, the longer it takes."""

    waits = 0.3

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        if any(isinstance(write, Note) and write.checkpoint is not KEEP for write in writes):
            self.waits = wait = max(self.waits - 0.1, 0)
            await anyio.sleep(wait)
        return await super().store_transact(writes)


@pytest.mark.parametrize("store", [None, Overtaking], ids=["sqlite", "overtaking"])
async def test_of_several_at_once_the_last_one_begun_stays(make_app: Callable[..., Aether], store: Any) -> None:
    app = make_app(store and store())

    @app.handler("Several")
    async def several(ctx: JobContext) -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(ctx.checkpoint, number)
            await anyio.sleep(0.05)
            group.start_soon(partial(anyio.to_thread.run_sync, ctx.checkpoint, "thread"))
        row = await app.store.get(ctx.job.id)
        assert row is not None
        assert row.checkpoint == ctx.checkpointed == "thread"
        with anyio.move_on_after(0):  # one that is cancelled does not hold up the others
            await ctx.checkpoint("never")
        await ctx.checkpoint("last")
        assert ctx.checkpointed == "last"

    async with app:
        row = await app.wait(await app.enqueue("Several"), 10)
        assert row.status is JobStatus.COMPLETED, row.last_error


class AsyncOperator:
    """Deletes as another process would: this one does not know."""

    def __init__(self, app: Aether) -> None:
        self._app = app

    async def __aenter__(self) -> Any:
        from aether_bg._app.operator import operating

        self._block = operating(self._app)
        return (await self._block.__aenter__()).verbs

    async def __aexit__(self, *error: Any) -> None:
        await self._block.__aexit__(*error)


BAD = [object(), {1: 2}, float("nan"), {"a": {1, 2}}, b"x", "\ud800", "x" * 300_000]


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:20])
async def test_what_is_not_json_within_the_limits_is_refused(app: Aether, value: Any) -> None:
    @app.handler("Bad")
    async def bad(ctx: JobContext) -> None:
        await ctx.checkpoint("good")
        with pytest.raises(InvalidPayload, match=r"checkpoint|\$"):
            await ctx.checkpoint(value)
        assert ctx.checkpointed == "good"

    async with app:
        row = await app.wait(await app.enqueue("Bad"), 10)
        assert row.status is JobStatus.COMPLETED, row.last_error


async def test_codecs_see_it(make_app: Callable[..., Aether], path: Any) -> None:
    class Codec:
        def encode(self, payload: Any, about: About) -> Any:
            return {"secret": payload}

        def decode(self, stored: Any, about: About) -> Any:
            return stored["secret"]

    class Secrets:
        @hookimpl
        def dispatch_codec(self) -> Any:
            return Codec()

    app, seen = make_app(plugins=[Secrets()]), list[Any]()

    @app.handler("Secret", retries=1)
    async def secret(ctx: JobContext) -> None:
        seen.append(ctx.checkpointed)
        await ctx.checkpoint([7])
        if ctx.attempt == 1:
            async with make_app().client() as bare:
                row = await bare.store.get(ctx.job.id)
                assert row is not None
                assert row.checkpoint == {"secret": [7]}
            raise Snooze(timedelta(0))

    async with app:
        row = await app.wait(await app.enqueue("Secret"), 10)
    assert row.status is JobStatus.COMPLETED, row.last_error
    assert seen == [None, [7]]


async def test_a_unit_of_work_is_a_transaction_of_its_own(app: Aether) -> None:
    seen: list[Any] = []

    @app.handler("Both", retries=1)
    async def both(uow: UnitOfWork, ctx: JobContext) -> None:
        seen.append(ctx.checkpointed)
        await app.enqueue("Follow", "follow")
        await ctx.checkpoint("kept")
        if ctx.attempt == 1:
            raise Snooze(timedelta(0))

    @app.handler("Follow")
    async def follow() -> None: ...

    async with app:
        row = await app.wait(await app.enqueue("Both"), 10)
        assert row.status is JobStatus.COMPLETED, row.last_error
        assert len(await app.store.find(job_name="follow")) == 1
    assert seen == [None, "kept"]


async def test_the_sandbox_has_it(app: Aether) -> None:
    seen: list[Any] = []

    @app.handler("Import", retries=1)
    def import_(ctx: JobContext) -> None:
        seen.append(ctx.checkpointed)
        ctx.checkpoint({"row": 1})
        if ctx.attempt == 1:
            raise ZeroDivisionError

    async with sandbox(app) as jobs:
        job = await jobs.enqueue("Import")
        await jobs.advance(minutes=1, raise_errors=False)
        row = await jobs.store.get(job)
        assert row is not None
        assert row.status is JobStatus.COMPLETED
    assert seen == [None, {"row": 1}]


async def test_a_context_in_another_process_says_so(app: Aether) -> None:
    caught: list[JobContext] = []

    @app.handler("Pickled")
    async def pickled(ctx: JobContext) -> None:
        await ctx.checkpoint(1)
        caught.append(pickle.loads(pickle.dumps(ctx)))

    async with app:
        row = await app.wait(await app.enqueue("Pickled"), 10)
        assert row.status is JobStatus.COMPLETED, row.last_error
    (ctx,) = caught
    assert ctx.checkpointed == 1
    for call in (lambda: ctx.checkpoint(2), lambda: ctx.progress(1)):
        with pytest.raises(UsageError, match="another process"):
            call()
