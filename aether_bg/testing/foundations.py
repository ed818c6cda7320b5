"""An app on other foundations during a test: a temporary store, a clock that the test moves, fakes for dependencies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal

import attrs

from aether_bg import Aether
from aether_bg._app.registration import Registration
from aether_bg.errors import AlreadyStarted, InvalidOption, UsageError, WaitTimeout, shown
from aether_bg.plugins.inprocess import InProcess
from aether_bg.testing.clock import FakeClock
from aether_bg.testing.jobs import Jobs
from aether_bg.testing.plain import PlainJobs
from aether_bg.testing.still import Still


def sandbox(
    app: Aether,
    *,
    clock: FakeClock | None = None,
    override: Mapping[Any, Any] | None = None,
    store: Any = ":memory:",
) -> Sandbox:
    """The app itself, as long as a block lasts, on a temporary store; nothing runs before it is drained.

        async with sandbox(app, override={Mailer: FakeMailer()}) as jobs:    # a Jobs
            await sign_up("ada@example.org")                    # code under test, which uses the global `app`
            await jobs.assert_enqueued("Welcome", payload={"to": "ada@example.org"})
            await jobs.drain()

    Its handlers, declared jobs, dependencies, options and plugins stay; only the plugins that own persistence and
    scheduling are left out. `with sandbox(app).blocking() as jobs:` is the same for tests that are not async, with
    plain functions. `with sandbox(app) as jobs:` does not start the app: the code under test starts it, on the same
    loop; if it runs in another thread, for example a test client's, use `blocking(start=False)`.

    `clock`: a new FakeClock by default. `override`: from a type to its replacement: a function or class is a factory as
    in `app.provide`, anything else, for example a mock, is used as it is. `store`: another store, as for `Aether`.

    Raises `AlreadyStarted` at the block when the app is running, and `InvalidOption` for what cannot be overridden.
    """
    return Sandbox(app, FakeClock() if clock is None else clock, dict(override or {}), store)


class Sandbox:
    """Made by `sandbox`. Each block has a store of its own."""

    def __init__(self, app: Aether, clock: FakeClock, override: Mapping[Any, Any], store: Any) -> None:
        if not callable(getattr(clock, "advance", None)):
            raise InvalidOption(shown(clock), "must be a FakeClock", "Leave it out for one of its own.", name="clock")
        self._app, self._clock, self._override, self._store = app, clock, override, store
        self._before: Registration
        self._jobs: Jobs

    def __repr__(self) -> str:
        return f"<Sandbox of {self._app!r}>"

    # -- not started -----------------------------------------------------------------------------

    def __enter__(self) -> Jobs:
        """Other code has its own references to the app and must find the sandbox: the app's registration is
        exchanged."""
        app, still = self._app, Still()
        if app._session is not None:
            raise AlreadyStarted(repr(app), "it runs already, in a sandbox or without one", "Leave that block first.")
        if any(isinstance(plugin, Still) for plugin in app.plugins.all):
            raise UsageError(repr(app), "it is in a sandbox already", "Leave that block first.")
        self._before, app.registration = app.registration, self._trial(still)
        self._jobs = Jobs(app, self._clock, still)
        return self._jobs

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running, self._app._session = self._app._session is not None, None
        self._app.registration = self._before
        self._jobs.leave()
        if kind is None:
            self._jobs.close()
            if running:
                raise UsageError("the end of a sandbox", "its app runs still", "Let it stop within the block.")

    def _trial(self, still: Still) -> Registration:
        """The same handlers and declarations on another store and clock, with fakes for dependencies."""
        real = self._app.registration
        owners = [*real.plugins.owners("persistence"), *real.plugins.owners("scheduling")]
        kept = [p for p in real.plugins.all if not isinstance(p, InProcess) and all(p is not owner for owner in owners)]
        options = attrs.evolve(real.options, clock=self._clock)
        trial = Registration.of(self._store, still, kept, False, options)
        trial = attrs.evolve(trial, handlers=real.handlers, declared=[*real.declared], timings=real.timings)
        for provided in real.provided:
            trial.provide(*provided)
        for kind, fake in self._override.items():
            trial.dependencies.provide(kind, _factory(fake), None, lasts=kind in trial.dependencies.lasting)
        self._check_wanted(trial)
        return trial

    def _check_wanted(self, trial: Registration) -> None:
        """A fake that no handler requests hides a mistake: the real dependency would be used."""
        trial.handlers.resolve(trial.dependencies)
        wanted = {kind for kind, *_ in trial.provided}
        for handler in map(trial.handlers.compiled, trial.handlers):
            wanted |= {*handler.wanted.values(), *(handler.constructor or {}).values()}
        for kind in self._override:
            if kind not in wanted:
                raise InvalidOption(
                    f"override of {shown(kind)}", "no handler asks for that type, and nothing provides it",
                    "Is it another class of the same name, imported from elsewhere?",
                )  # fmt: skip

    # -- started ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Jobs:
        jobs = self.__enter__()
        try:
            await self._app.__aenter__()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return jobs

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _hint(error)
        try:
            await self._app.__aexit__(kind, error, trace)
        finally:
            self.__exit__(kind, error, trace)

    def blocking(
        self, *, start: bool = True, backend: Literal["asyncio", "trio"] = "asyncio"
    ) -> AbstractContextManager[PlainJobs]:
        """`with sandbox(app).blocking() as jobs`: the app in a thread of its own, everything as plain functions.

        `start=False`: the code under test starts it, for example a web service in a test client.
        """
        return self._blocking(start, backend)

    @contextmanager
    def _blocking(self, start: bool, backend: Literal["asyncio", "trio"]) -> Iterator[PlainJobs]:
        with self as jobs:
            if start:
                with self._app.blocking(backend=backend):
                    try:
                        yield PlainJobs(jobs)
                    except Exception as error:
                        _hint(error)
                        raise
            else:
                yield PlainJobs(jobs)


_HINTS: Final = {
    AlreadyStarted: "The sandbox has started the app. Where the code under test starts it: `with sandbox(app) as jobs`,"
    " or `with sandbox(app).blocking(start=False) as jobs` when that is in another thread.",
    WaitTimeout: "In a sandbox nothing runs by itself: `jobs.drain()` before the wait.",
}


def _hint(error: BaseException | None) -> None:
    """What the app's own error does not say: that it is in a sandbox."""
    for kind, text in _HINTS.items():
        if isinstance(error, kind):
            error.add_note(text)


def _factory(fake: Any) -> Callable[..., Any]:
    if inspect.isclass(fake) or inspect.isroutine(fake) or isinstance(fake, partial):
        return fake

    def as_it_is() -> Iterator[Any]:
        yield fake  # not returned: a fake that happens to be a context manager is not to be entered

    return as_it_is
