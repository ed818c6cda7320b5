"""The verbs as plain functions: for other threads of a running app, and for scripts that have no event loop."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, Never, ParamSpec, TypeVar, Unpack, overload
from uuid import UUID

import anyio

from aether_bg._app.argument_types import EnqueueOptions, Handles, When
from aether_bg._app.blocks import PlainBlock, misused
from aether_bg._app.client import OnlyClient, OwnerVerbs
from aether_bg._app.store_view import StoreView
from aether_bg._app.verbs import Verbs
from aether_bg._handlers import work
from aether_bg._handlers.work import UnitOfWork
from aether_bg._hooks.connections import unscoped
from aether_bg.bridge import Bridge
from aether_bg.model import Insertion, JobType, ParamStyle

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

V = TypeVar("V", bound=Verbs)
B = TypeVar("B", bound="Plain")

_LAST: Final = 10.0
"""Seconds beyond the grace that the thread of an app may take to end."""


class plain(Generic[P, R]):  # noqa: N801 - reads as a decorator
    """Makes a plain function of a verb: it calls the async one on the app's loop. Keeps the types."""

    def __init__(self, verb: Callable[Concatenate[Any, P], Awaitable[R]]) -> None:
        self._name = getattr(verb, "__name__", "")
        self.__doc__ = verb.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> plain[P, R]: ...
    @overload
    def __get__(self, instance: Plain, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: Plain | None, owner: type) -> Any:
        if instance is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._call(self._name, *args, **kwargs)

        call.__name__, call.__doc__ = self._name, self.__doc__
        return call


class Plain:
    """Plain functions for the verbs of `verbs`, from any thread except that of its event loop."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs

    def __repr__(self) -> str:
        return f"<blocking {self._verbs!r}>"

    @property
    def _target(self) -> Any:
        return self._verbs

    def _call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return self._verbs._started.crossing.call(lambda: getattr(self._target, verb)(*args, **kwargs))

    if not TYPE_CHECKING:  # for a type checker they are not there

        def __enter__(self) -> Never:
            misused(repr(self), "it is no block", "Call its verbs: `app.sync.enqueue(…)`.")

        def __exit__(self, *_: object) -> None: ...

        __aenter__, __aexit__ = __enter__, __exit__


class PlainStore(Plain):
    """`app.store` as plain functions."""

    get = plain(StoreView.get)
    get_by_job_name = plain(StoreView.get_by_job_name)
    get_by_handler_name = plain(StoreView.get_by_handler_name)
    get_active = plain(StoreView.get_active)
    history = plain(StoreView.history)
    runs = plain(StoreView.runs)
    failures = plain(StoreView.failures)
    stats = plain(StoreView.stats)
    update_status = plain(StoreView.update_status)
    purge = plain(StoreView.purge)
    backup = plain(StoreView.backup)

    find = plain(StoreView.find)

    @property
    def _target(self) -> StoreView:
        return self._verbs.store


class BlockingClient(OnlyClient, Plain):
    """Enqueues and queries as plain functions; another process runs the jobs."""

    enqueue_many = plain(Verbs.enqueue_many)
    wait = plain(Verbs.wait)
    result = plain(Verbs.result)
    explain = plain(Verbs.explain)

    @overload
    def enqueue(
        self, /, handler: type[Handles[T]], job_name: str | None = None, payload: T | Mapping[str, Any] | None = None,
        schedule: When = "@once", metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> UUID: ...  # fmt: skip
    @overload
    def enqueue(
        self, /, handler: str | JobType[T] | Callable[Concatenate[T, ...], Any], job_name: str | None = None,
        payload: T | Mapping[str, Any] | None = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> UUID: ...  # fmt: skip
    @overload
    def enqueue(
        self, /, handler: Callable[..., Any], job_name: str | None = None, payload: None = None,
        schedule: When = "@once", metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> UUID: ...  # fmt: skip
    def enqueue(self, /, *arguments: Any, **options: Any) -> UUID:
        if "connection" in options:
            options["connection"] = unscoped(options["connection"])
        stored: UUID = self._call("enqueue", *arguments, **options)
        return stored

    update_wrapper(enqueue, Verbs.enqueue)  # its documentation and its parameters

    def insertion(
        self, /, handler: Any, job_name: str | None = None, payload: Any = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, *, style: ParamStyle = "%s", **options: Any,
    ) -> Insertion:  # fmt: skip
        return self._verbs.insertion(handler, job_name, payload, schedule, metadata, style=style, **options)

    insertion.__doc__ = Verbs.insertion.__doc__

    @property
    def store(self) -> PlainStore:
        return PlainStore(self._verbs)

    def unit_of_work(self) -> AbstractContextManager[UnitOfWork]:
        """`with`; as `Aether.unit_of_work`: all of it, or nothing."""
        remedy = "Write `with jobs.unit_of_work() as uow:`; in async code `async with app.unit_of_work() as uow:`."
        return PlainBlock(self._unit_of_work(), "jobs.unit_of_work()", remedy)

    @contextmanager
    def _unit_of_work(self) -> Iterator[UnitOfWork]:
        if (outer := work.joined(self._verbs._started.kernel.store_id)) is not None:
            yield outer
            return
        with work.entered(self._call("_new_work")) as unit:  # calls carry this thread's context, so that enqueue joins
            yield unit
        self._call("_commit", unit)


class OwnersBlocking(BlockingClient):
    """Every verb of an app except `drain`."""

    update = plain(OwnerVerbs.update)
    delete = plain(OwnerVerbs.delete)
    retry = plain(OwnerVerbs.retry)
    trigger = plain(OwnerVerbs.trigger)
    pause = plain(OwnerVerbs.pause)
    resume = plain(OwnerVerbs.resume)
    health = plain(OwnerVerbs.health)


class Blocking(OwnersBlocking):
    """Every verb of an app, and its `store`, as plain functions; from any thread except that of its event loop."""

    drain = plain(OwnerVerbs.drain)


class Hosted(AbstractContextManager[B], Generic[V, B]):
    """A thread with its own event loop, on which an app, or a client of it, runs as long as the block lasts. `plain`
    makes plain functions of its verbs. `ask` announces the stop, since the loop may be blocked."""

    def __init__(
        self, enter: Callable[[], AbstractAsyncContextManager[V]], plain: Callable[[V], B], backend: str, grace: float,
        ask: Callable[[], object] = bool,
    ) -> None:  # fmt: skip
        self._enter, self._plain, self._backend, self._within, self._ask = enter, plain, backend, grace + _LAST, ask
        self._pid = os.getpid()
        self._bridge: Bridge | None = None
        self._verbs: V | None = None
        self._error: BaseException | None = None
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._main, name="aether_bg app", daemon=True)

    def __enter__(self) -> B:
        atexit.register(self.__exit__)  # a block that is never left does not keep the interpreter from ending
        self._thread.start()
        try:
            self._ready.wait()
            if self._error is not None:
                raise self._error
            assert self._verbs is not None
            return self._plain(self._verbs)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """A forked child has nothing to stop: the thread is the parent's (docs/protocol.md, P2)."""
        if os.getpid() != self._pid:
            return
        self._stopping.set()
        self._ask()
        if self._bridge is not None:
            self._bridge.post(self._stop.set)
        self._thread.join(self._within)
        atexit.unregister(self.__exit__)

    def _main(self) -> None:
        try:
            anyio.run(self._live, backend=self._backend)
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._stop = anyio.Event()
        self._bridge = Bridge()
        if self._stopping.is_set():  # interrupted before it began
            return
        async with self._enter() as self._verbs:
            self._ready.set()
            await self._stop.wait()
