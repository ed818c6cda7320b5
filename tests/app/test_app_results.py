"""Results: what a handler returns is kept on its run, and comes back typed (docs/protocol.md, K1 and K2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aether_bg import (
    Aether,
    InsideUnitOfWork,
    InvalidHandler,
    InvalidOption,
    JobContext,
    JobFailed,
    JobNotFound,
    JobStatus,
    NeverEnds,
    NewJob,
    NoResult,
    RunOutcome,
    UnitOfWork,
    WaitTimeout,
    hookimpl,
)
from aether_bg._handlers.kept import completed
from aether_bg._handlers.registry import Handlers, info_of
from aether_bg.model import About, JobRun, Ran, Runs
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing import sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


@attrs.define
class Scene:
    size: int


@attrs.define
class Picture:
    size: int
    taken: date
    tags: list[str] = attrs.field(factory=list)


def studio(app: Aether) -> Aether:
    @app.handler("Render", keep_result=True)
    async def render(args: Scene) -> Picture:
        return Picture(args.size, date(2026, 2, 28), ["é"])

    return app


@pytest.mark.parametrize("store", ["file", "memory"])
async def test_a_result_has_the_type_of_the_annotation(make_app: Make, store: str) -> None:
    async with studio(make_app(MemoryStore() if store == "memory" else None)) as app:
        job = await app.enqueue("Render", "one", Scene(3))
        wanted = Picture(3, date(2026, 2, 28), ["é"])
        assert await app.result(job, timeout=10) == wanted
        assert await app.result("one") == wanted
        row = await app.store.get(job)
        assert row is not None
        assert await app.result(row, timedelta(seconds=10)) == wanted
        run = (await app.store.history(job))[0]
        assert (run.has_result, run.result) == (True, {"size": 3, "taken": "2026-02-28", "tags": ["é"]})
        assert run.to_dict()["result"] == run.result
        async with app.client() as client:
            assert await client.result(job) == wanted


async def test_a_client_that_lacks_the_handler_gets_json(make_app: Make) -> None:
    async with studio(make_app()) as app:
        job = await app.enqueue("Render", payload=Scene(3))
        await app.wait(job, 10)
    async with make_app().client() as client:
        assert await client.result(job) == {"size": 3, "taken": "2026-02-28", "tags": ["é"]}


def test_results_without_async(make_app: Make) -> None:
    app = make_app()

    @app.handler("Add", keep_result=True)
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    with app.blocking() as jobs:
        assert jobs.result(jobs.enqueue("Add", payload=[1, 2]), timeout=10) == 3


async def test_results_in_the_sandbox() -> None:
    async with sandbox(studio(Aether(":memory:"))) as jobs:
        job = await jobs.enqueue("Render", payload=Scene(1))
        await jobs.drain()
        assert (await jobs.result(job)).size == 1


async def test_none_is_a_result(make_app: Make) -> None:
    app = make_app()

    @app.handler("Maybe", keep_result=True)
    async def maybe(args: int) -> int | None:
        return args or None

    @app.handler("Nothing", keep_result=True)
    async def nothing() -> None: ...

    async with app:
        assert await app.result(await app.enqueue("Maybe", payload=0), 10) is None
        assert await app.result(await app.enqueue("Nothing"), 10) is None
        async with app.client() as client:
            assert await client.result(await client.enqueue("Maybe", payload=0), 10) is None


async def test_no_result_without_keep_result(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()

    @app.handler("Quiet")
    async def quiet() -> int:
        return 5

    caplog.set_level(logging.DEBUG, "aether_bg")
    async with app:
        for _ in range(3):
            with pytest.raises(NoResult, match=r"none was kept\. Register its handler with keep_result"):
                await app.result(await app.enqueue("Quiet"), 10)
    said = [record for record in caplog.records if "is not kept" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.DEBUG]


async def test_a_job_that_ended_badly_has_no_result(make_app: Make) -> None:
    app = make_app()

    @app.handler("Fail", keep_result=True)
    async def fail() -> int:
        raise ValueError("boom")

    async with app:
        job = await app.enqueue("Fail")
        with pytest.raises(JobFailed, match="it is FAILED: ValueError: boom") as failed:
            await app.result(job, 10)
        assert failed.value.last_error is not None
        assert failed.value.last_error.startswith("ValueError: boom")
        later = await app.enqueue("Fail", schedule=timedelta(hours=1))
        with pytest.raises(WaitTimeout):
            await app.result(later, 0.01)
        await app.delete(later)
        with pytest.raises(JobFailed, match="it is CANCELLED"):
            await app.result(later, 10)
        assert (await app.store.history(job))[0].has_result is False
        await app.store.purge()
        with pytest.raises(JobNotFound):
            await app.result(job)
        async with app.unit_of_work():
            with pytest.raises(InsideUnitOfWork):
                await app.result(later)


async def test_a_result_that_does_not_fit_fails_no_job(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Its work is done: to run it again would do it twice."""
    app, runs = make_app(max_payload=1000), list[str]()

    @app.handler("Liar", retries=3, keep_result=True)
    async def liar() -> int:
        runs.append("liar")
        return "text"  # type: ignore[return-value]

    @app.handler("Large", retries=3, keep_result=True)
    def large() -> str:
        runs.append("large")
        return "x" * 1000

    @app.handler("Odd", retries=3, keep_result=True)
    async def odd() -> Any:
        runs.append("odd")
        return {"f": float("nan")}

    async with app:
        reasons = ("the result at \\$: it does not fit int", "a result of 1,002 bytes", "no NaN")
        for name, reason in zip(("Liar", "Large", "Odd"), reasons, strict=True):
            job = await app.enqueue(name)
            assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
            with pytest.raises(NoResult, match=reason):
                await app.result(job)
            run = (await app.store.history(job))[0]
            assert run.outcome is RunOutcome.COMPLETED
            assert run.error is not None
            assert run.error.startswith("its result is not kept: ")
    assert runs == ["liar", "large", "odd"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3


async def test_a_recurring_job_has_its_last_result(make_app: Make) -> None:
    app, numbers = make_app(), iter(range(1, 10))

    @app.handler("Count", keep_result=True)
    async def count() -> int:
        return next(numbers)

    async with app:
        job = await app.enqueue("Count", "three", schedule="@every 1s", repeats=1)
        await app.trigger(job)
        assert await app.result(job, 10) in (1, 2)
        endless = await app.enqueue("Count", "endless", schedule="@hourly")
        with pytest.raises(NeverEnds):
            await app.result(endless, 1)


async def test_a_unit_of_work_and_its_result_are_one(make_app: Make) -> None:
    app = make_app()

    @app.handler("Import", keep_result=True)
    async def bring_in(work: UnitOfWork) -> int:
        work.execute("CREATE TABLE IF NOT EXISTS found (n)")
        work.execute("INSERT INTO found VALUES (1)")
        return 7

    async with app:
        assert await app.result(await app.enqueue("Import"), 10) == 7


async def test_results_pass_the_codecs(make_app: Make) -> None:
    class Reversed:
        def encode(self, payload: Any, about: About) -> Any:
            return {"r": repr(payload)[::-1]}

        def decode(self, payload: Any, about: About) -> Any:
            import ast

            return ast.literal_eval(payload["r"][::-1])

    class Plugin:
        @hookimpl
        def dispatch_codec(self) -> Any:
            return Reversed()

    async with studio(make_app(plugins=[Plugin()])) as app:
        job = await app.enqueue("Render", payload=Scene(3))
        assert (await app.result(job, 10)).size == 3
        assert (await app.store.history(job))[0].result["size"] == 3
        (ran,) = await app.store.runs(Runs(ids=(job,), last=True, whole=True))
        assert ran.run is not None
        assert ran.run.result["size"] == 3
    async with make_app().client() as client:
        assert set((await client.store.history(job))[0].result) == {"r"}


async def test_a_codec_that_fails_loses_the_result_alone(make_app: Make) -> None:
    class Picky:
        def encode(self, payload: Any, about: About) -> Any:
            if payload == "secret":
                raise ValueError("no")
            return payload

        def decode(self, payload: Any, about: About) -> Any:
            return payload

    class Plugin:
        @hookimpl
        def dispatch_codec(self) -> Any:
            return Picky()

    app = make_app(plugins=[Plugin()])

    @app.handler("Tell", keep_result=True)
    async def tell() -> str:
        return "secret"

    async with app:
        job = await app.enqueue("Tell")
        with pytest.raises(NoResult, match="a codec failed"):
            await app.result(job, 10)


async def test_an_annotation_that_has_changed(make_app: Make) -> None:
    async with studio(make_app()) as app:
        job = await app.enqueue("Render", payload=Scene(3))
        await app.wait(job, 10)
    app = make_app()

    @app.handler("Render", keep_result=True)
    async def render(args: Scene) -> int:
        return args.size

    async with app:
        with pytest.raises(NoResult, match="it does not fit what its handler returns by now"):
            await app.result(job)


def test_what_is_wrong_is_refused_early(make_app: Make) -> None:
    app = make_app()
    with pytest.raises(InvalidOption, match="keep_result must be True or False"):
        app.handler("Wrong", keep_result=1)  # type: ignore[arg-type]

    class Opaque:
        def __init__(self, *args: Any) -> None: ...

    @app.handler("Opaque", keep_result=True)
    async def opaque() -> Callable[[], int]: ...  # type: ignore[empty-body]

    with pytest.raises(InvalidHandler, match="its result type"), app.blocking():
        pass


async def test_two_that_wait_and_one_that_asks_late(make_app: Make) -> None:
    async with studio(make_app()) as app:
        job, got = await app.enqueue("Render", payload=Scene(2), schedule=timedelta(seconds=0.2)), list[int]()

        async def ask() -> None:
            got.append((await app.result(job, 10)).size)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        await ask()
        assert got == [2, 2, 2]


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@cache
def _returns_any() -> Any:
    async def returns() -> Any: ...

    from aether_bg._handlers.dependencies import Dependencies

    handlers = Handlers(Dependencies())
    handlers.add(info_of("Any", returns, keep_result=True))
    return handlers.compiled("Any")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(json)
def test_any_json_comes_back(value: Any) -> None:
    handler = _returns_any()
    done = completed(handler, value, 100_000)
    assert done.has_result
    assert handler.returns is not None
    assert repr(handler.returns.load(done.result)) == repr(value)


@pytest.mark.parametrize("store", ["file", "memory"])
async def test_parents_in_a_plain_handler(make_app: Make, store: str) -> None:
    app = make_app(MemoryStore()) if store == "memory" else make_app()

    @app.handler("Part", keep_result=True)
    def part(n: int) -> int:
        return n * n

    @app.handler("Sum", keep_result=True)
    def total(ctx: JobContext) -> list[int]:
        return [parent.result for parent in ctx.parents()]

    async with app:
        parts = [await app.enqueue("Part", payload=n) for n in range(40)]
        assert await app.result(await app.enqueue("Sum", after=parts), 20) == [n * n for n in range(40)]
        assert await app.result(await app.enqueue("Sum"), 20) == []


async def test_the_context_of_a_job_without_parents(make_app: Make) -> None:
    app = make_app()

    @app.handler("Alone", keep_result=True)
    async def alone(ctx: JobContext) -> int:
        return len(await ctx.parents())

    async with app:
        assert await app.result(await app.enqueue("Alone"), 10) == 0


class Counting(MemoryStore):
    """How often results were read."""

    reads = 0

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        self.reads += 1
        return await super().store_runs(query)

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        self.reads += 1
        return await super().store_history(job_id, limit)


async def test_the_results_of_many_parents_are_read_together(make_app: Make) -> None:
    store = Counting()
    app, reads = make_app(store), list[int]()

    @app.handler("Part", keep_result=True)
    async def part(n: int) -> int:
        return n

    @app.handler("Sum", keep_result=True)
    async def total(ctx: JobContext) -> list[int]:
        before = store.reads
        parents = await ctx.parents()
        reads.append(store.reads - before)
        return [parent.result for parent in parents]

    async with app:
        parts = await app.enqueue_many([NewJob("Part", payload=n) for n in range(300)])
        assert await app.result(await app.enqueue("Sum", after=parts), 60) == list(range(300))
    assert reads == [2]
