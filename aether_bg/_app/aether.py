"""`Aether`, the class that users work with: checks arguments, registers and delegates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Never, Self, TypeVar, overload

from aether_bg._app.admission import ARGUMENTS, ENQUEUE_OPTIONS
from aether_bg._app.argument_types import When
from aether_bg._app.blocking import Blocking, BlockingClient, Hosted
from aether_bg._app.blocks import AsyncBlock, PlainBlock, misused
from aether_bg._app.client import Client, OwnerVerbs
from aether_bg._app.registration import Registration
from aether_bg._app.session import Session
from aether_bg._app.signals import run_until_signal
from aether_bg._handlers.registry import LOADED_TWICE, Handlers, info_of
from aether_bg._hooks.calls import Calls
from aether_bg._hooks.plugins import Plugins
from aether_bg._rules import validation as checks
from aether_bg._rules.settings import Options, handler_bounds
from aether_bg.errors import AlreadyStarted
from aether_bg.model import Backoff
from aether_bg.protocols import Clock

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Aether(OwnerVerbs):
    """Scheduled and background jobs in this process.

    `store`: the path of a SQLite file, `":memory:"` for trials, the URL of another store, or a store plugin.
    `scheduler`: "auto" (Dapr when the environment announces a sidecar, the embedded timer otherwise), "timer", "dapr",
    or a scheduler plugin. `plugins`: further plugins; layers they own are not filled with defaults. `concurrency`:
    attempts at a time. `grace`: seconds that running jobs have at the stop. `lease`: seconds without a heartbeat after
    which an owner counts as dead. `clock`: where time is read. `actor`: a name for the audit fields, or a function that
    returns one. `retention`: an age (timedelta) or count of terminal jobs to keep, or a mapping of status to either;
    None keeps all. `entry_points`: also load plugins that installed packages announce. `max_payload`: bytes of JSON.
    `prune_declared`: at the start, cancel jobs that were declared and that no living process declares any more; without
    it they are named in the log and by `aether-bg check` (docs/protocol.md, N9).

    Raises `InvalidOption` or a `PluginError`, each with its remedy.
    """

    def __init__(
        self,
        store: Any = None,
        *,
        scheduler: Any = "auto",
        plugins: Iterable[Any] = (),
        concurrency: int = 100,
        grace: float = 10,
        lease: float = 15,
        clock: Clock | None = None,
        actor: str | Callable[[], str | None] | None = None,
        retention: Any = None,
        entry_points: bool = False,
        max_payload: int = 262_144,
        prune_declared: bool = False,
        **unknown: Never,
    ) -> None:
        checks.unknown_options(unknown, Aether.__init__)
        options = Options.checked(
            concurrency=concurrency, grace=grace, lease=lease, clock=clock, actor=actor, retention=retention,
            max_payload=max_payload, prune_declared=prune_declared,
        )  # fmt: skip
        self._session = None
        self.registration = Registration.of(store, scheduler, plugins, entry_points, options)

    @property
    def options(self) -> Options:
        return self.registration.options

    @property
    def plugins(self) -> Plugins:
        return self.registration.plugins

    @property
    def calls(self) -> Calls:
        return self.registration.calls

    @property
    def handlers(self) -> Handlers:
        return self.registration.handlers

    def __repr__(self) -> str:
        state = "running" if self._session is not None else "not running"
        return f"<{self._title()} {len(list(self.handlers))} handlers, {state}>"

    def _title(self) -> str:
        store, *_ = [*self.plugins.owners("persistence"), None]
        return f"Aether {store!r}"

    # -- before the start ------------------------------------------------------------------------

    def handler(
        self,
        name: str,
        *,
        retries: int = 0,
        backoff: Backoff | None = None,
        timeout: float | None = None,
        schedule: When | None = None,
        jitter: float | timedelta = 0,
        concurrency: int | None = None,
        priority: int = 0,
        keep_result: bool = False,
        **unknown: Never,
    ) -> Callable[[F], F]:
        """Register a function, or a class with `handle`, as the code for this kind of work; returns it unchanged.

        `retries`: further attempts after a failure; `backoff`: the waiting time between them; `timeout`: seconds per
        attempt. `schedule`: also declares a job of that name, applied at every start; `jitter`: as for `enqueue`.
        `concurrency`: how many of its attempts may run at the same time in the whole store, over all processes; None
        for any number (docs/protocol.md, L1). `priority`: -100 to 100, for its jobs without one of their own; among due
        jobs, higher goes first (docs/protocol.md, L5). `keep_result`: keep what it returns, a JSON value or a value of
        the type that its return annotation names; see `result` (docs/protocol.md, K).
        """
        checks.unknown_options(unknown, Aether.handler)
        self._before_start("handler")
        bounds = handler_bounds(
            name, retries=retries, backoff=backoff, timeout=timeout, concurrency=concurrency, priority=priority,
            keep_result=keep_result,
        )  # fmt: skip
        if schedule is not None:
            self.calls.parse(schedule, None)
        if checks.seconds("jitter", jitter, zero=True) and schedule is None:
            checks.refuse("jitter", jitter, "must come with a schedule", "Or pass it to enqueue or declare.")

        def register(target: F) -> F:
            self.handlers.add(info_of(name, target, **bounds))
            if schedule is not None:
                self.declare(name, name, schedule=schedule, jitter=jitter)
            return target

        return register

    def declare(
        self, handler: Any, job_name: str | None = None, payload: Any = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Declare a job, to be enqueued at every start: `enqueue`'s arguments, with if_exists="replace".

        It needs a name. An unchanged declaration changes nothing; to keep a declared job off, pause it.

        Raises an `InputError` for mistakes in the arguments, and `JobConflict` for a name that is declared already; a
        handler or payload type that is registered later is checked when the app starts. A declaration that the stored
        job or the time makes impossible (its `until` has passed, its `repeats` are used up) never keeps the app from
        starting: it is logged, and shown by `health` and `aether-bg check`. A one-shot that is running is redeclared
        when it has ended.
        """
        self._before_start("declare")
        checks.unknown_options({k: v for k, v in options.items() if k not in ENQUEUE_OPTIONS}, ARGUMENTS)
        arguments: dict[str, Any] = {
            "handler": handler, "job_name": job_name, "payload": payload, "schedule": schedule, "metadata": metadata,
            "if_exists": "replace",
        }  # fmt: skip
        self.registration.admission().declare(self.registration.declared, arguments | options)

    def provide(
        self, type: Any, factory: Callable[..., Any] | None = None, *, ping: Callable[..., Any] | None = None,
        scope: Literal["attempt", "app"] = "attempt",
    ) -> None:  # fmt: skip
        """Register how to make a dependency: once per attempt, closed after it.

        `scope="app"`: once at the start, before the first attempt, and closed at the stop, after the last one; for
        example a pool of connections. Dependencies of an attempt may use it, and it may use others of the app. Clients
        make none. If it cannot be made, the app does not start: `DependencyFailed`.

        `factory`: a function or class, async or not; a generator or context manager is closed after the attempt. What
        the attempt raises (an error, a cancellation, `Snooze`) is raised inside it as well, so that `with connection:
        yield connection` rolls back; suppressing it there changes nothing for the job. Code after a `yield` without
        `try` or `with` around it runs in any case. The factory's own parameters are injected as well. Without a
        factory, the type itself is called. `ping`: for `health`.
        """
        self._before_start("provide")
        checks.one_of("scope", scope, ("attempt", "app"))
        self.registration.provide(type, factory, ping, scope == "app")

    def payload_type(self, type: type[T], encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        """Register how payloads carry a type of yours: `encode` makes a JSON value of it, `decode` makes it again.

        It applies wherever the type appears in a payload's annotations. Raises `InvalidOption`; if `encode` or `decode`
        raises later, that is an `InvalidPayload`.
        """
        self._before_start("payload_type")
        self.handlers.add_type(type, encode, decode)

    def _why_not_started(self) -> tuple[str, str]:
        if self.handlers.loaded_twice():
            return "it is not running: its file was loaded twice, as the program and as a module", LOADED_TWICE
        return super()._why_not_started()

    def _session_of(self, *, client: bool) -> Session:
        return Session(self.registration, f"<{self._title()}>", client=client)

    def _before_start(self, verb: str) -> None:
        if self._session is not None:
            raise AlreadyStarted(f"{verb} on a running app", "it belongs before the start", "Move it up.")

    # -- running ---------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Start running jobs; `async with app:` without the block, for a REPL or a framework with its own hooks.

        Call `stop` on the same event loop, in this task or another one. If the program ends without it, the running
        jobs are taken back as after a crash. Raises `AlreadyStarted`, and the error that keeps the app from starting.
        """
        if self._session is not None:
            raise AlreadyStarted(repr(self), "it is running already", "Use one `async with app:` or start() at a time.")
        self.registration.resolve()
        self.registration.log_start()
        self._session = session = self._session_of(client=False)
        try:
            await session.start()
        except BaseException:
            self._session = None
            raise
        return self

    async def stop(self) -> None:
        """Stop as the end of `async with app:` does: running jobs have `grace` seconds. Returns when all has ended.

        A handler that awaits it waits for itself until the grace is over: start a task for it there. Raises
        `NotStarted` if the app does not run; if two calls overlap, both wait.
        """
        session = self._running
        try:
            await session.stop()
        finally:
            if self._session is session:
                self._session = None

    async def __aenter__(self) -> Self:
        return await self.start()

    if not TYPE_CHECKING:  # for a type checker it is not there

        def __enter__(self) -> Never:
            remedy = "Write `async with app:`; without async `with app.blocking() as jobs:`, or app.run()."
            misused("with app", "an app is started in async code", remedy)

        def __exit__(self, *_: object) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:  # else it was stopped inside of the block
            await self.stop()

    def client(self) -> AbstractAsyncContextManager[Client]:
        """`async with app.client() as jobs`: enqueue and query only."""
        remedy = "Write `async with app.client() as jobs:`; without async `with app.blocking(client=True) as jobs:`."
        return AsyncBlock(self._client(), "app.client()", remedy)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        async with self._session_of(client=True) as session:
            yield Client(session)

    def run(self, *, backend: Literal["asyncio", "trio"] = "asyncio") -> None:
        """Run jobs until SIGINT or SIGTERM; a second signal skips the grace. Blocks.

        No other function installs signal handlers. Raises the error that keeps the app from starting.
        """
        run_until_signal(self, self.options.grace, self._ask_to_stop, self._hurry, backend)

    @property
    def sync(self) -> Blocking:
        """Every verb and `store` as plain functions, for other threads of the process that runs the app.

        For plain handlers, `def` endpoints, Flask and Django views: `app.sync.enqueue("SendEmail", payload=…)`. Raises
        `WrongLoop` on the thread of the app's own event loop, `NotStarted` if the app does not run.
        """
        return Blocking(self)

    @overload
    def blocking(
        self, *, client: Literal[False] = False, backend: Literal["asyncio", "trio"] = "asyncio"
    ) -> AbstractContextManager[Blocking]: ...
    @overload
    def blocking(
        self, *, client: Literal[True], backend: Literal["asyncio", "trio"] = "asyncio"
    ) -> AbstractContextManager[BlockingClient]: ...
    def blocking(
        self, *, client: bool = False, backend: Literal["asyncio", "trio"] = "asyncio"
    ) -> AbstractContextManager[Blocking] | AbstractContextManager[BlockingClient]:
        """`with app.blocking() as jobs`: every verb as a plain function, the app running in a thread of its own.

        `client=True`: enqueue and query only, as `client()`, where another process runs the jobs.
        """
        remedy = "Write `with app.blocking() as jobs:`; in async code `async with app:`, or that of app.client()."
        if client:
            block = Hosted(self.client, BlockingClient, backend, self.options.grace)
            return PlainBlock(block, "app.blocking(client=True)", remedy)
        owner = Hosted(lambda: self, Blocking, backend, self.options.grace, self._ask_to_stop)
        return PlainBlock(owner, "app.blocking()", remedy)

    def _ask_to_stop(self) -> None:
        """From any thread or signal handler: the stop begins as soon as the event loop gets to it."""
        if self._session is not None:
            self._session.kernel.shared.identity.stop_asked = True

    def _hurry(self) -> None:
        """During the stop: no more grace."""
        if self._session is not None:
            self._session.hurry.set()
