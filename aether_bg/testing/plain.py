"""`Jobs` for tests that are not async: each verb runs on the app's loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from aether_bg._app.blocking import OwnersBlocking
from aether_bg.testing.jobs import Jobs

P = ParamSpec("P")
R = TypeVar("R")


def _plain(verb: Callable[Concatenate[Jobs, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[PlainJobs, P], R]:
    def call(self: PlainJobs, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._jobs.wait_for_start()
        return self._verbs._started.crossing.call(partial(verb, self._jobs, *args, **kwargs))

    return update_wrapper(call, verb)


class PlainJobs(OwnersBlocking):
    """`Jobs` as plain functions, from any thread; every verb of the app as well, and its `store`.

    `app`: the same verbs, as `app.sync` has them; its `drain` is the app's own.
    """

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs.app)
        self._jobs, self.app, self.clock = jobs, jobs.app.sync, jobs.clock

    def __repr__(self) -> str:
        return f"<PlainJobs of {self.app!r}>"

    def _call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        self._jobs.wait_for_start()
        return super()._call(verb, *args, **kwargs)

    drain = _plain(Jobs.drain)
    advance = _plain(Jobs.advance)
    pending = _plain(Jobs.pending)
    completed = _plain(Jobs.completed)
    failed = _plain(Jobs.failed)
    assert_enqueued = _plain(Jobs.assert_enqueued)
    assert_not_enqueued = _plain(Jobs.assert_not_enqueued)
