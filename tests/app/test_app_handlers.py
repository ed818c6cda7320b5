"""Handlers: injection, classes, threads, contexts, timeouts, what a handler may raise."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Protocol

import anyio
import attrs
import pytest

from aether_bg import (
    Aether,
    AlreadyStarted,
    DuplicateHandler,
    InvalidHandler,
    JobContext,
    JobInfo,
    JobStatus,
    RunOutcome,
    UnitOfWork,
    UnresolvedDependency,
)
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.any_store]


class Mailer:
    def __init__(self, name: str = "plain") -> None:
        self.name = name


class Session:
    pass


class Repository:
    def __init__(self, session: Session, mailer: Mailer) -> None:
        self.session, self.mailer = session, mailer


async def ran(app: Aether, handler: str, *args: Any, **options: Any) -> JobInfo:
    return await app.wait(await app.enqueue(handler, *args, **options), 10)


# -- injection -------------------------------------------------------------------------------------


def _plain() -> Mailer:
    return Mailer("function")


async def _async() -> Mailer:
    await anyio.sleep(0)
    return Mailer("async")


def _generator() -> Iterator[Mailer]:
    yield Mailer("generator")


async def _async_generator() -> AsyncIterator[Mailer]:
    yield Mailer("async generator")


@contextmanager
def _context() -> Iterator[Mailer]:
    yield Mailer("context manager")


@asynccontextmanager
async def _async_context() -> AsyncIterator[Mailer]:
    yield Mailer("async context manager")


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (_plain, "function"), (_async, "async"), (_generator, "generator"), (_async_generator, "async generator"),
        (_context, "context manager"), (_async_context, "async context manager"), (None, "plain"),
        (lambda: Mailer("lambda"), "lambda"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_every_kind_of_factory(app: Aether, factory: Any, name: str) -> None:
    app.provide(Mailer, factory)
    names = []

    @app.handler("Async")
    async def one(args: str, mailer: Mailer) -> None:
        names.append(mailer.name)

    @app.handler("Sync")
    def two(*, mailer: Mailer) -> None:
        names.append(mailer.name)

    async with app:
        for job in (await ran(app, "Async", payload="x"), await ran(app, "Sync")):
            assert job.status is JobStatus.COMPLETED, job.last_error
    assert names == [name, name]


async def test_scopes_are_per_attempt_shared_within_and_closed_in_reverse(app: Aether) -> None:
    told: list[str] = []

    def session() -> Iterator[Session]:
        made = Session()
        told.append("session opened")
        yield made
        told.append("session closed")

    @asynccontextmanager
    async def mailer(session: Session) -> AsyncIterator[Mailer]:
        told.append("mailer opened")
        yield Mailer()
        told.append("mailer closed")

    app.provide(Session, session)
    app.provide(Mailer, mailer)
    app.provide(Repository)
    got: list[Any] = []

    @app.handler("Work")
    async def work(*, repository: Repository, session: Session, ctx: JobContext) -> None:
        assert repository.session is session
        got.append(session)
        told.append("ran")

    async with app:
        for _ in range(2):
            job = await ran(app, "Work")
            assert job.status is JobStatus.COMPLETED, job.last_error
    once = ["session opened", "mailer opened", "ran", "mailer closed", "session closed"]
    assert told == once * 2
    assert got[0] is not got[1]


async def test_the_scope_is_closed_before_the_outcome_and_after_a_failure(app: Aether) -> None:
    seen: list[Any] = []

    async def session() -> AsyncIterator[Session]:
        yield Session()
        (job,) = await app.store.find()
        seen.append(job.status)

    app.provide(Session, session)

    @app.handler("Fails")
    async def fails(*, session: Session) -> None:
        raise ValueError("no")

    async with app:
        assert (await ran(app, "Fails")).status is JobStatus.FAILED
    assert seen == [JobStatus.RUNNING]


async def test_an_error_while_closing_is_kept_on_the_run_and_does_not_fail_it(app: Aether) -> None:
    closed = []

    def session() -> Iterator[Session]:
        yield Session()
        closed.append("session")

    def mailer(session: Session) -> Iterator[Mailer]:
        yield Mailer()
        raise RuntimeError("the mailer will not close")

    app.provide(Session, session)
    app.provide(Mailer, mailer)

    @app.handler("Work")
    async def work(*, mailer: Mailer) -> None: ...

    async with app:
        job_id = await app.enqueue("Work")
        job = await app.wait(job_id, 10)
        (run,) = await app.store.history(job_id)
    assert (job.status, run.outcome) == (JobStatus.COMPLETED, RunOutcome.COMPLETED)
    assert "the mailer will not close" in str(run.error)
    assert closed == ["session"], "the others are closed all the same"


async def test_a_factory_that_fails_fails_the_attempt(app: Aether) -> None:
    def mailer() -> Mailer:
        raise ConnectionError("no mail server")

    app.provide(Mailer, mailer)
    app.handler("Work")(lambda: None)

    @app.handler("Mail")
    async def mail(*, mailer: Mailer) -> None: ...

    async with app:
        job = await ran(app, "Mail")
        assert job.status is JobStatus.FAILED
        assert "ConnectionError: no mail server" in str(job.last_error)
        assert (await ran(app, "Work")).status is JobStatus.COMPLETED


async def test_classes_with_injected_constructors(app: Aether) -> None:
    app.provide(Mailer, _plain)
    got: list[Any] = []

    @app.handler("Class")
    class Send:
        def __init__(self, mailer: Mailer) -> None:
            self.mailer = mailer

        async def handle(self, args: str, ctx: JobContext, *, other: Mailer) -> None:
            got.append((args, self.mailer.name, other is self.mailer, ctx.attempt))

    @app.handler("Sync")
    class Plain:
        def handle(self, args: int) -> None:
            got.append((args, threading.current_thread() is threading.main_thread()))

    async with app:
        assert (await app.wait(await app.enqueue(Send, payload="a"), 10)).status is JobStatus.COMPLETED
        assert (await app.wait(await app.enqueue(Plain, payload=3), 10)).status is JobStatus.COMPLETED
    assert got == [("a", "function", True, 1), (3, False)]


async def test_protocols_and_defaults(app: Aether) -> None:
    class Sends(Protocol):
        name: str

    app.provide(Sends, _plain)
    got = []

    async def handler(args: str, sends: Any, port: int = 25) -> None:
        got.append((args, sends.name, port))

    handler.__annotations__["sends"] = Sends
    app.handler("Work")(handler)
    async with app:
        job = await ran(app, "Work", payload="a")
        assert job.status is JobStatus.COMPLETED, job.last_error
    assert got == [("a", "function", 25)]


async def test_what_cannot_be_resolved_fails_at_start_by_name(make_app: Callable[..., Aether], path: Any) -> None:
    app = make_app()

    @app.handler("Mail")
    async def mail(args: str, mailer: Mailer) -> None: ...

    with pytest.raises(UnresolvedDependency, match=r"'mailer' of handler 'Mail'.*nothing provides Mailer.*provide"):
        async with app:
            raise AssertionError("it must not start")
    assert not path.exists(), "nothing was opened"
    app.provide(Mailer, lambda missing: Mailer())
    with pytest.raises(UnresolvedDependency, match=r"'missing' of the factory of Mailer.*no annotation"):
        async with app:
            raise AssertionError("it must not start")
    app.provide(Mailer)
    async with app:
        assert (await ran(app, "Mail", payload="x")).status is JobStatus.COMPLETED


async def test_handlers_that_cannot_be(app: Aether) -> None:
    app.handler("Taken")(lambda: None)
    with pytest.raises(DuplicateHandler, match=r"'Taken'.*taken by.*Choose another"):
        app.handler("Taken")(lambda: None)

    class NoHandle: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for bad, said in (
        (NoHandle, "no method `handle`"), (5, "cannot be called"), (generator, "generator"),
        (async_generator, "generator"),
    ):  # fmt: skip
        with pytest.raises(InvalidHandler, match=said):
            app.handler("Bad")(bad)  # type: ignore[type-var]


async def test_a_service_as_first_parameter_that_nothing_provides_is_named(app: Aether) -> None:
    @app.handler("Wrong")
    async def wrong(service: Mailer) -> None: ...

    with pytest.raises(InvalidHandler, match=r"'Wrong'.*Mailer.*app\.provide"):
        async with app:
            raise AssertionError("it must not start")


async def test_the_decorator_returns_the_function_and_belongs_before_the_start(app: Aether) -> None:
    async def work() -> None: ...

    assert app.handler("Work")(work) is work
    async with app:
        for late in (
            lambda: app.handler("Late"),
            lambda: app.provide(Mailer),
            lambda: app.declare("Work", "late"),
        ):
            with pytest.raises(AlreadyStarted, match="before the start"):
                late()
        with pytest.raises(AlreadyStarted, match="running already"):
            async with app:
                raise AssertionError("twice")


# -- contexts and threads ----------------------------------------------------------------------------


async def test_plain_functions_run_in_threads_beside_each_other(app: Aether) -> None:
    met = threading.Barrier(5)
    loop = threading.current_thread()

    @app.handler("Meets")
    def meets(ctx: JobContext) -> None:
        assert threading.current_thread() is not loop
        met.wait(10)

    async with app:
        ids = [await app.enqueue("Meets") for _ in range(5)]
        for job in ids:
            assert (await app.wait(job, 10)).status is JobStatus.COMPLETED


leaked: contextvars.ContextVar[str] = contextvars.ContextVar("leaked", default="clean")


async def test_handlers_start_with_a_clean_context(app: Aether) -> None:
    seen: list[str] = []

    @app.handler("Async")
    async def one() -> None:
        seen.append(leaked.get())
        leaked.set("by a handler")

    @app.handler("Sync")
    def two() -> None:
        seen.append(leaked.get())
        leaked.set("by a thread")

    leaked.set("by the host")
    async with app:
        for _ in range(3):
            assert (await ran(app, "Async")).status is JobStatus.COMPLETED
            assert (await ran(app, "Sync")).status is JobStatus.COMPLETED
        async with app.unit_of_work():
            await app.enqueue("Async", "inside")
        assert (await app.wait("inside", 10)).status is JobStatus.COMPLETED
    assert seen == ["clean"] * 7
    assert leaked.get() == "by the host"


async def test_what_a_wrap_sets_is_seen_by_the_handler_and_its_thread(make_app: Callable[..., Aether]) -> None:
    from aether_bg import hookimpl

    class Tracing:
        @hookimpl
        def dispatch_wrap(self, ctx: JobContext) -> Any:
            @asynccontextmanager
            async def wrap() -> AsyncIterator[None]:
                leaked.set(f"trace of {ctx.job.job_name}")
                yield

            return wrap()

    app = make_app(plugins=[Tracing()])
    seen: list[str] = []
    app.handler("Sync")(lambda: seen.append(leaked.get()))

    @app.handler("Async")
    async def one() -> None:
        seen.append(leaked.get())

    async with app:
        assert (await ran(app, "Sync", "a")).status is JobStatus.COMPLETED
        assert (await ran(app, "Async", "b")).status is JobStatus.COMPLETED
    assert seen == ["trace of a", "trace of b"]


# -- timeouts and errors ---------------------------------------------------------------------------


async def test_a_timeout_cancels_and_is_retried(make_app: Callable[..., Aether], clock: FakeClock, step: Any) -> None:
    app = make_app(clock=clock, scheduler=step)
    tries: list[Any] = []

    @app.handler("Slow", timeout=0.02, retries=1)
    async def slow(ctx: JobContext) -> None:
        tries.append(ctx.deadline)
        await anyio.sleep(10)

    async with app:
        job_id = await app.enqueue("Slow")
        await app.drain()
        clock.advance(seconds=2)
        await app.drain()
        job = await app.wait(job_id, 10)
        assert (job.status, job.retry_count) == (JobStatus.FAILED, 1)
        assert "longer than 0.02 s" in str(job.last_error)
        assert [run.outcome for run in await app.store.history(job_id)] == [RunOutcome.TIMED_OUT] * 2
    assert tries[1] == clock.now() + timedelta(seconds=0.02)


async def test_a_handler_that_returns_after_being_cancelled_succeeded(app: Aether) -> None:
    """docs/protocol.md, S2."""

    @app.handler("Tidy", timeout=0.02)
    async def tidy() -> None:
        with anyio.CancelScope() as scope:
            scope.shield = True
            await anyio.sleep(0.06)

    async with app:
        assert (await ran(app, "Tidy")).status is JobStatus.COMPLETED


async def test_a_thread_past_its_timeout_keeps_its_row_until_it_returns(app: Aether) -> None:
    """docs/protocol.md, S4: otherwise the job would run twice at once."""
    go, now, most = threading.Event(), 0, 0

    @app.handler("Thread", timeout=0.2, retries=1)
    def thread(ctx: JobContext) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if ctx.attempt == 1:
            go.wait(10)
        now -= 1

    async with app:
        job_id = await app.enqueue("Thread")
        await anyio.sleep(0.6)
        job = await app.store.get(job_id)
        assert job is not None
        assert job.status is JobStatus.RUNNING
        go.set()
        job = await app.wait(job_id, 10)
        assert job.status is JobStatus.COMPLETED
    assert most == 1


class Unprintable(Exception):
    error: BaseException = RuntimeError("no text")

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__


class Exits(Unprintable):
    error = SystemExit(3)


class Interrupts(Unprintable):
    error = KeyboardInterrupt()

    @property
    def __notes__(self) -> list[str]:
        raise SystemExit(4)


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3), KeyboardInterrupt(), MemoryError(), RecursionError("deep"), Unprintable(),
        Exits(), Interrupts(), ExceptionGroup("of these", [Exits(), Interrupts()]),
        ExceptionGroup("several", [ValueError("a"), KeyError("b")]), BaseException("base"), GeneratorExit(),
        StopIteration(5), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_whatever_a_handler_raises_is_recorded_and_the_worker_lives(app: Aether, error: BaseException) -> None:
    """Row 9 of the crash programme."""

    @app.handler("Async")
    async def one() -> None:
        raise error

    @app.handler("Sync")
    def two() -> None:
        raise error

    app.handler("Fine")(lambda: None)
    async with app:
        for handler in ("Async", "Sync"):
            job = await ran(app, handler)
            assert job.status is JobStatus.FAILED
            assert job.last_error
        assert (await ran(app, "Fine")).status is JobStatus.COMPLETED


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio has no such exception to raise
async def test_an_unrequested_cancellation_is_a_failure(app: Aether) -> None:
    """docs/protocol.md, S5."""
    import asyncio

    @app.handler("Odd")
    async def odd() -> None:
        raise asyncio.CancelledError

    async with app:
        job = await ran(app, "Odd")
        assert job.status is JobStatus.FAILED
        assert "CancelledError" in str(job.last_error)


async def test_error_text_is_bounded(app: Aether) -> None:
    @app.handler("Long")
    async def long() -> None:
        raise ValueError("x" * 100_000)

    async with app:
        job = await ran(app, "Long")
        assert 1000 < len(str(job.last_error)) <= 8 * 1024


async def test_a_payload_that_no_longer_fits_keeps_its_row(make_app: Callable[..., Aether]) -> None:
    """Stored data is never lost to a code change."""

    @attrs.define
    class Old:
        to: str

    @attrs.define
    class New:
        to: str
        subject: str

    def with_payload(kind: Any) -> Aether:
        app = make_app()

        async def mail(args: Any) -> None: ...

        mail.__annotations__["args"] = kind
        app.handler("Mail", retries=3)(mail)
        return app

    async with with_payload(Old) as app:
        job_id = await app.enqueue("Mail", "job", Old("a"), timedelta(seconds=0.2))
    async with with_payload(New) as app:
        job = await app.wait(job_id, 10)
        assert (job.status, job.payload) == (JobStatus.FAILED, {"to": "a"})
        assert "subject" in str(job.last_error)
        assert len(await app.store.history(job_id)) == 1, "no retry can help"
    async with with_payload(Old) as app:
        await app.retry(job_id)
        assert (await app.wait(job_id, 10)).status is JobStatus.COMPLETED


async def test_a_context_tells_its_attempt(app: Aether, caplog: pytest.LogCaptureFixture) -> None:
    got: list[JobContext] = []

    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        got.append(ctx)
        ctx.log.warning("hello")

    async with app:
        job_id = await app.enqueue("Work", "job")
        job = await app.wait(job_id, 10)
    (ctx,) = got
    assert (ctx.job.id, ctx.attempt, ctx.token, ctx.deadline) == (job_id, 1, 1, None)
    assert ctx.occurrence == job.occurrence
    assert ctx.idempotency_key.startswith(f"{job_id}/")
    (record,) = [record for record in caplog.records if record.message == "hello"]
    assert record.name == "aether_bg.job.Work"
    assert (record.job_name, record.attempt) == ("job", 1)  # type: ignore[attr-defined]


async def test_a_unit_of_work_parameter_is_not_the_payload(app: Aether) -> None:
    kinds = []

    @app.handler("Work")
    async def work(uow: UnitOfWork, ctx: JobContext) -> None:
        kinds.append((type(uow), type(ctx)))

    async with app:
        assert (await ran(app, "Work")).status is JobStatus.COMPLETED
    assert kinds == [(UnitOfWork, JobContext)]


def test_a_blocked_interpreter_exit() -> None:
    """A thread of a sync handler must not keep the interpreter from ending (docs/protocol.md, S4)."""
    from aether_bg.plugins.inprocess import InProcess

    runner, started, go = InProcess(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go.wait(10)

    runner._threads._start(work)
    assert started.wait(10)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "aether_bg handler")
    go.set()
    time.sleep(0)
