"""`Jobs` for tests that are not async: each verb is carried to the loop that the app runs on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial, update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from aether_bg.errors import UsageError
from aether_bg.testing.jobs import Jobs

P = ParamSpec("P")
R = TypeVar("R")


def _plain(verb: Callable[Concatenate[Jobs, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[PlainJobs, P], R]:
    def call(self: PlainJobs, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._jobs.portal.call(partial(verb, self._jobs, *args, **kwargs))
        return result

    return update_wrapper(call, verb)


class PlainJobs:
    """`Jobs` as plain functions, from any thread. `app`: what `app.blocking()` yields; its verbs are here as well."""

    def __init__(self, jobs: Jobs, app: Any) -> None:
        self._jobs, self.app, self.clock = jobs, app, jobs.clock

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.app, name)

    def __repr__(self) -> str:
        return f"<PlainJobs of {self.app!r}>"

    drain = _plain(Jobs.drain)
    advance = _plain(Jobs.advance)
    pending = _plain(Jobs.pending)
    completed = _plain(Jobs.completed)
    failed = _plain(Jobs.failed)
    assert_enqueued = _plain(Jobs.assert_enqueued)
    assert_not_enqueued = _plain(Jobs.assert_not_enqueued)


class Elsewhere:
    """The verbs of an app that the code under test has started, on a loop of its own, as plain functions."""

    def __init__(self, target: Any, jobs: Jobs) -> None:
        self._target, self._jobs = target, jobs

    def __repr__(self) -> str:
        return f"<Elsewhere {self._target!r}>"

    @property
    def store(self) -> Elsewhere:
        return Elsewhere(self._target.store, self._jobs)

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._target, name)
        if not inspect.iscoroutinefunction(verb):
            raise UsageError(f"jobs.{name}", "the code under test runs the app", "Use the app itself, on its own loop.")
        return lambda *args, **kwargs: self._jobs.portal.call(partial(verb, *args, **kwargs))
