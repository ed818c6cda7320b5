"""The value that a handler's call returns is inspected, and arguments reach it through any wrapper."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import attrs
import pytest

from aether_bg import (
    Aether,
    InvalidHandler,
    InvalidPayload,
    JobContext,
    JobStatus,
    RunOutcome,
    UnitOfWork,
    UnresolvedDependency,
)

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    ran.clear()


class Mailer:
    def __init__(self, name: str = "plain") -> None:
        self.name = name


async def send(args: str, ctx: JobContext) -> None:
    await anyio.sleep(0.001)
    ran.append((args, ctx.attempt))


def plain_wrapper(fn: Callable[..., Any]) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def other_names(fn: Callable[..., Any]) -> Any:
    @functools.wraps(fn)
    def wrapper(data: Any, **rest: Any) -> Any:
        return fn(data, **rest)

    return wrapper


def all_other_names(fn: Callable[..., Any]) -> Any:
    @functools.wraps(fn)
    async def wrapper(data: Any, context: Any) -> Any:
        return await fn(data, context)

    return wrapper


def by_name_only(fn: Callable[..., Any]) -> Any:
    @functools.wraps(fn)
    def wrapper(**kwargs: Any) -> Any:
        return fn(**kwargs)

    return wrapper


class Holder:
    @staticmethod
    async def static(args: str, ctx: JobContext) -> None:
        await send(args, ctx)

    async def method(self, args: str, ctx: JobContext) -> None:
        await send(args, ctx)

    async def __call__(self, args: str, ctx: JobContext) -> None:
        await send(args, ctx)


class Sends:
    """Awaitable, and no coroutine."""

    def __init__(self, args: str, ctx: JobContext) -> None:
        self.args, self.ctx = args, ctx

    def __await__(self) -> Any:
        return send(self.args, self.ctx).__await__()


def gives_awaitable(args: str, ctx: JobContext) -> Awaitable[None]:
    return Sends(args, ctx)


async def forgets_to_await(args: str, ctx: JobContext) -> Any:
    return send(args, ctx)


def prefixed(prefix: str, args: str, ctx: JobContext) -> Any:
    return send(args, ctx)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(plain_wrapper(send), id="plain wrapper"),
        pytest.param(plain_wrapper(plain_wrapper(send)), id="two wrappers"),
        pytest.param(other_names(send), id="wrapper with its own name for the payload"),
        pytest.param(all_other_names(send), id="wrapper with its own names"),
        pytest.param(by_name_only(send), id="wrapper of keywords"),
        pytest.param(staticmethod(send), id="staticmethod"),
        pytest.param(staticmethod(plain_wrapper(send)), id="staticmethod of a wrapper"),
        pytest.param(functools.partial(send), id="partial"),
        pytest.param(functools.partial(prefixed, "x"), id="partial of a plain function"),
        pytest.param(functools.partial(functools.partial(plain_wrapper(send))), id="partial of a wrapper"),
        pytest.param(functools.lru_cache(send), id="lru_cache"),
        pytest.param(functools.cache(plain_wrapper(send)), id="cache of a wrapper"),
        pytest.param(Holder.static, id="static method"),
        pytest.param(Holder().method, id="bound method"),
        pytest.param(Holder(), id="object with an async call"),
        pytest.param(gives_awaitable, id="awaitable"),
        pytest.param(forgets_to_await, id="coroutine of a coroutine"),
    ],
)
async def test_async_code_behind_a_wrapper_runs_before_the_job_is_completed(app: Aether, handler: Any) -> None:
    app.handler("Send")(handler)
    async with app:
        for payload in ("a", "b"):
            job = await app.wait(await app.enqueue("Send", payload=payload), 10)
            assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [("a", 1), ("b", 1)]


async def test_a_lambda_that_returns_a_coroutine(app: Aether) -> None:
    async def work() -> None:
        await anyio.sleep(0.001)
        ran.append("worked")

    app.handler("Work")(lambda: work())
    async with app:
        job = await app.wait(await app.enqueue("Work"), 10)
    assert (job.status, ran) == (JobStatus.COMPLETED, ["worked"])


async def _noted(args: str) -> None:
    ran.append(args)


def _noted_in_a_thread(args: str) -> None:
    ran.append(args)


class _CachedHandle:
    handle = functools.lru_cache(lambda self, args: ran.append(args))


@pytest.mark.parametrize(
    "handler",
    [functools.cache(_noted), functools.lru_cache(plain_wrapper(_noted)), functools.cache(_noted_in_a_thread),
     functools.cache(lambda args: _noted(args)), _CachedHandle],
)  # fmt: skip
async def test_a_job_runs_although_its_handler_is_cached(app: Aether, handler: Any) -> None:
    app.handler("Work")(handler)
    async with app:
        for _ in range(2):
            job = await app.wait(await app.enqueue("Work", payload="same"), 10)
            assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == ["same", "same"]


async def test_an_error_behind_a_wrapper_fails_the_job_and_is_retried(app: Aether) -> None:
    async def fails(ctx: JobContext) -> None:
        ran.append(ctx.attempt)
        raise ValueError("inside")

    app.handler("Fails", retries=1, backoff=None)(plain_wrapper(fails))
    async with app:
        job = await app.wait(await app.enqueue("Fails"), 20)
    assert (job.status, ran) == (JobStatus.FAILED, [1, 2])
    assert "ValueError: inside" in str(job.last_error)


async def test_a_wrapped_coroutine_is_cancelled_at_its_timeout(app: Aether) -> None:
    async def slow() -> None:
        await anyio.sleep_forever()

    app.handler("Slow", timeout=0.1)(plain_wrapper(slow))
    async with app:
        job_id = await app.enqueue("Slow")
        assert (await app.wait(job_id, 10)).status is JobStatus.FAILED
        (run,) = await app.store.history(job_id)
    assert run.outcome is RunOutcome.TIMED_OUT


# -- classes ---------------------------------------------------------------------------------------


def _async_handle(self: Any, args: str, ctx: JobContext) -> Any:
    return send(args, ctx)


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(_async_handle, id="plain"),
        pytest.param(staticmethod(send), id="static"),
        pytest.param(classmethod(_async_handle), id="class"),
        pytest.param(plain_wrapper(_async_handle), id="wrapped"),
        pytest.param(functools.partialmethod(_async_handle), id="partial"),
        pytest.param(Holder(), id="object"),
    ],
)
async def test_every_kind_of_method_is_a_handle(app: Aether, handle: Any) -> None:
    app.handler("Class")(type("Class", (), {"handle": handle}))
    async with app:
        job = await app.wait(await app.enqueue("Class", payload="a"), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [("a", 1)]


# -- generators ------------------------------------------------------------------------------------


def generator(args: str) -> Iterator[int]:
    ran.append("never")
    yield 1


async def async_generator(args: str) -> AsyncIterator[int]:
    ran.append("never")
    yield 1


class Generates:
    def __call__(self, args: str) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    "handler",
    [
        generator, async_generator, functools.partial(generator), functools.partial(async_generator),
        staticmethod(generator), Generates(), type("Class", (), {"handle": staticmethod(generator)}),
    ],
    ids=["function", "async function", "partial", "async partial", "static", "object", "class"],
)  # fmt: skip
def test_a_generator_is_refused_at_registration(app: Aether, handler: Any) -> None:
    with pytest.raises(InvalidHandler, match=r"'Bad'.*generator.*return"):
        app.handler("Bad")(handler)


@pytest.mark.parametrize(
    "handler",
    [
        plain_wrapper(generator),
        plain_wrapper(async_generator),
        functools.cache(generator),
        lambda args: generator(args),
    ],
    ids=["wrapped", "wrapped async", "cached", "lambda"],
)  # fmt: skip
async def test_a_generator_that_a_call_returns_fails_the_job_at_once(app: Aether, handler: Any) -> None:
    app.handler("Bad", retries=3)(handler)
    async with app:
        job = await app.wait(await app.enqueue("Bad", payload="a"), 10)
    assert (job.status, job.retry_count, ran) == (JobStatus.FAILED, 0, [])
    assert "generator" in str(job.last_error)


async def test_a_wrapper_that_runs_its_generator_is_a_handler(app: Aether) -> None:
    @functools.wraps(generator)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        ran.extend(generator(*args, **kwargs))

    app.handler("Good")(wrapper)
    async with app:
        job = await app.wait(await app.enqueue("Good", payload="a"), 10)
    assert (job.status, ran) == (JobStatus.COMPLETED, ["never", 1])


# -- arguments -------------------------------------------------------------------------------------


@attrs.define
class Mail:
    to: str


def _first(mailer: Mailer, args: str) -> None:
    ran.append((mailer.name, args))


async def _context_first(ctx: JobContext, args: str, *, mailer: Mailer) -> None:
    ran.append((mailer.name, args))


async def _unit_first(uow: UnitOfWork, mailer: Mailer, args: str) -> None:
    ran.append((mailer.name, args))


def _positional_only(mailer: Mailer, args: str, /, ctx: JobContext) -> None:
    ran.append((mailer.name, args))


async def _optional(mailer: Mailer | None = None, args: str = "-", ctx: JobContext | None = None) -> None:
    assert mailer is not None
    assert ctx is not None
    ran.append((mailer.name, args))


async def _default_between(args: str, port: int = 25, mailer: Mailer | None = None) -> None:
    assert mailer is not None
    assert port == 25
    ran.append((mailer.name, args))


@pytest.mark.parametrize(
    "handler",
    [_first, _context_first, _unit_first, _positional_only, _optional, _default_between, plain_wrapper(_first),
     plain_wrapper(_unit_first), functools.partial(_context_first)],
    ids=lambda handler: getattr(handler, "__name__", "partial"),
)  # fmt: skip
async def test_provided_types_are_injected_wherever_they_stand(app: Aether, handler: Any) -> None:
    app.handler("Work")(handler)
    app.provide(Mailer)  # after the handler: what is provided counts at the start
    async with app:
        job = await app.wait(await app.enqueue("Work", payload="a"), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [("plain", "a")]


class _Called:
    """A decorator that is an object, with a signature of its own."""

    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    async def __call__(self, *args: object, **kwargs: object) -> None:
        await self.fn(*args, **kwargs)


async def _payload_first(args: str, mailer: Mailer) -> None:
    ran.append((mailer.name, args))


@pytest.mark.parametrize(
    "handler",
    [_Called(_payload_first), plain_wrapper(functools.partial(_payload_first)),
     functools.partial(_Called(plain_wrapper(_payload_first)))],
    ids=["object", "partial in a wrapper", "all of them"],
)  # fmt: skip
async def test_what_a_wrapper_hides_is_injected(app: Aether, handler: Any) -> None:
    app.handler("Work")(handler)
    app.provide(Mailer)
    async with app:
        job = await app.wait(await app.enqueue("Work", payload="a"), 10)
        with pytest.raises(InvalidPayload):
            await app.enqueue("Work", payload=5)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [("plain", "a")]


async def test_a_provided_type_alone_leaves_no_payload(app: Aether) -> None:
    app.provide(Mail, lambda: Mail("provided"))

    @app.handler("Work")
    async def work(mail: Mail) -> None:
        ran.append(mail)

    async with app:
        job = await app.wait(await app.enqueue("Work"), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [Mail("provided")]


async def test_a_client_knows_what_is_provided(app: Aether) -> None:
    app.handler("Work")(_first)
    async with app.client() as jobs:
        with pytest.raises(InvalidHandler, match="Mailer"):
            await jobs.enqueue("Work", payload="a")
    app.provide(Mailer)
    async with app.client() as jobs:
        assert await jobs.enqueue("Work", payload="a")


async def test_two_payload_parameters_are_named(app: Aether) -> None:
    @app.handler("Two")
    async def two(to: str, subject: str) -> None: ...

    with pytest.raises(UnresolvedDependency, match=r"'subject'.*'Two'.*one payload, here 'to'.*one class"):
        async with app:
            raise AssertionError("it must not start")


async def test_a_wrapper_that_cannot_take_the_arguments_is_named(app: Aether) -> None:
    def wrong(fn: Callable[..., Any]) -> Any:
        @functools.wraps(fn)
        def wrapper() -> Any: ...

        return wrapper

    app.handler("Wrong")(wrong(send))
    with pytest.raises(InvalidHandler, match=r"'Wrong'.*takes \(\).*args, ctx.*\*args"):
        async with app:
            raise AssertionError("it must not start")


# -- factories -------------------------------------------------------------------------------------


def _generator(name: str = "made") -> Iterator[Mailer]:
    yield Mailer(name)
    ran.append("closed")


async def _async_generator() -> AsyncIterator[Mailer]:
    yield Mailer("made")
    ran.append("closed")


async def _async() -> Mailer:
    await anyio.sleep(0)
    return Mailer("made")


class Factory:
    async def __call__(self) -> Mailer:
        return Mailer("made")

    def generator(self) -> Iterator[Mailer]:
        yield Mailer("made")
        ran.append("closed")


@attrs.frozen(eq=False)
class Settings:
    value: object


async def _context_later() -> Any:
    return contextmanager(_generator)()


@pytest.mark.parametrize(
    ("factory", "closes"),
    [
        (plain_wrapper(_async), False), (functools.partial(_async), False), (lambda: _async(), False),
        (staticmethod(_async), False), (Factory(), False),
        (plain_wrapper(_generator), True), (functools.partial(_generator, "made"), True), (lambda: _generator(), True),
        (lambda: _async_generator(), True), (plain_wrapper(_async_generator), True), (Factory().generator, True),
        (lambda: asynccontextmanager(_async_generator)(), True), (_context_later, True),
    ],
)  # fmt: skip
async def test_what_a_factory_returns_decides(app: Aether, factory: Any, closes: bool) -> None:
    app.provide(Mailer, factory)

    @app.handler("Work")
    async def work(mailer: Mailer) -> None:
        ran.append(mailer.name)

    async with app:
        job = await app.wait(await app.enqueue("Work"), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == ["made", *(["closed"] if closes else [])]


@pytest.mark.parametrize("provides", [False, True])
async def test_constructor_that_takes_only_the_context(app: Aether, provides: bool) -> None:
    @app.handler("Work")
    class Work:
        def __init__(self, ctx: JobContext) -> None:
            self.ctx = ctx

        def handle(self, args: int = 5) -> None:
            ran.append((args, self.ctx.attempt))

    if provides:
        app.provide(Mailer, lambda: Mailer("made"))
    async with app:
        for payload in (None, 9):
            job = await app.wait(await app.enqueue("Work", payload=payload), 10)
            assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [(5, 1), (9, 1)]


class Connection(Mailer):
    """As some drivers have it: to be awaited, or used in `async with`; and awaiting gives the connection itself."""

    def __init__(self) -> None:
        super().__init__("made")

    def __await__(self) -> Any:
        return self.connect().__await__()

    async def connect(self) -> Connection:
        await anyio.sleep(0)
        return self

    async def __aenter__(self) -> Connection:
        return await self

    async def __aexit__(self, *error: object) -> None:
        ran.append("closed")


async def _connection() -> Any:
    return Connection()


@pytest.mark.parametrize("factory", [Connection, lambda: Connection(), _connection, Connection().connect])
@pytest.mark.parametrize("scope", ["attempt", "app"])
async def test_what_can_be_awaited_and_closed_is_closed(app: Aether, factory: Any, scope: Any) -> None:
    app.provide(Connection, factory, scope=scope)

    @app.handler("Work")
    async def work(connection: Connection) -> None:
        ran.append(connection.name)

    async with app:
        job = await app.wait(await app.enqueue("Work"), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == ["made", "closed"]


class Session:
    """Awaiting it gives the session itself."""

    def __await__(self) -> Any:
        yield from ()
        return self


async def _session() -> Any:
    return Session()


@pytest.mark.parametrize("make", [Session, _session])
async def test_what_is_awaited_for_ever_is_awaited_once(app: Aether, make: Any) -> None:
    app.provide(Session, make)
    app.handler("Give")(lambda: make())

    @app.handler("Take")
    async def take(session: Session) -> Any:
        ran.append(type(session))
        return session

    @app.handler("Family")
    def family(ctx: JobContext) -> Any:
        return ctx.parents()

    async with app:
        with anyio.fail_after(10):
            for name in ("Give", "Take", "Family"):
                job = await app.wait(await app.enqueue(name))
                assert job.status is JobStatus.COMPLETED, job.last_error
    assert ran == [Session]


@pytest.mark.parametrize(
    "factory", [_async, _generator, _async_generator, contextmanager(_generator), plain_wrapper(_async)]
)
async def test_a_cached_factory_makes_a_fresh_one_where_it_must(app: Aether, factory: Any) -> None:
    app.provide(Mailer, functools.cache(factory))
    settings = object()
    app.provide(Settings, functools.cache(lambda: Settings(settings)))  # one for all, as it says

    @app.handler("Work")
    async def work(mailer: Mailer, settings: Settings) -> None:
        ran.append((mailer.name, id(settings)))

    async with app:
        for _ in range(2):
            job = await app.wait(await app.enqueue("Work"), 10)
            assert job.status is JobStatus.COMPLETED, job.last_error
    made = [each for each in ran if each != "closed"]
    assert made[0] == made[1], "the same settings"


async def test_a_plain_wrapper_still_runs_in_a_thread(app: Aether) -> None:
    def blocks() -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert not inspect.iscoroutinefunction(blocks)
        ran.append("thread")

    app.handler("Blocks")(plain_wrapper(blocks))
    async with app:
        assert (await app.wait(await app.enqueue("Blocks"), 10)).status is JobStatus.COMPLETED
    assert ran == ["thread"]
