"""Runners and policies with one fault each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs

from aether_bg import JobContext, JobInfo, hookimpl
from aether_bg.model import About, Event, Failure, HandlerInfo, Invocation
from aether_bg.schedule import Schedule, parse


class Runs:
    """A plugin with this runner, for async handlers or for plain ones."""

    def __init__(self, run: Callable[[JobContext, Invocation], Any], is_async: bool) -> None:
        self._run, self._is_async = run, is_async

    @hookimpl(tryfirst=True)
    def dispatch_runner(self, handler: HandlerInfo) -> Any:
        return self._run if handler.is_async is self._is_async else None


async def on_the_loop(ctx: JobContext, call: Invocation) -> Any:
    return call()


async def twice(ctx: JobContext, call: Invocation) -> Any:
    await call()
    return str(await call()).upper()


async def as_text(ctx: JobContext, call: Invocation) -> Any:
    try:
        return await call()
    except Exception as error:
        raise RuntimeError(str(error)) from error


async def abandoned(ctx: JobContext, call: Invocation) -> Any:
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)


RUNNERS: Final[dict[str, tuple[str, str, Callable[[], Any]]]] = {
    "takes nothing": ("dispatch_runner", "asked_at_the_start", lambda: Calls()),
    "another result": ("dispatch_runner", "the_result_is_returned", lambda: Runs(twice, True)),
    "another error": ("dispatch_runner", "the_error_is_raised", lambda: Runs(as_text, True)),
    "abandons its thread": ("S4", "cancelled_in_the_middle", lambda: Runs(abandoned, False)),
    "blocks the loop": ("P3", "the_loop_goes_on", lambda: Runs(on_the_loop, False)),
}


class Calls:
    """Hooks that do nothing, but for those given."""

    def __init__(self, **faults: Callable[..., Any]) -> None:
        self._faults = faults

    def _do(self, hook: str, *given: Any) -> Any:
        fault = self._faults.get(hook)
        return fault(*given) if fault else None

    @hookimpl
    def dispatch_runner(self, handler: HandlerInfo) -> Any:
        return None

    @hookimpl
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Any:
        return self._do("decide", failure)

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> Any:
        return self._do("wrap")

    @hookimpl
    def dispatch_stamp(self, job: JobInfo) -> Any:
        return self._do("stamp", job)

    @hookimpl
    def dispatch_codec(self) -> Any:
        return self._do("codec")

    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> Any:
        return self._do("parse", text)

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        self._do("event", event)


@asynccontextmanager
async def _swallows() -> AsyncIterator[None]:
    try:
        yield
    except Exception:
        pass


@asynccontextmanager
async def _goes_on() -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            return
        raise


def _changes(job: JobInfo) -> dict[str, Any]:
    job.payload["stamped"] = True
    return {}


class Stringly:
    def encode(self, payload: Any, about: About) -> Any:
        return json.dumps(payload, default=str)

    def decode(self, stored: Any, about: About) -> Any:
        return json.loads(stored, parse_int=float)


class OfThisStart:
    """Keeps what it has encoded, and stores where it is."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def encode(self, payload: Any, about: About) -> Any:
        self._kept.append(payload)
        return len(self._kept) - 1

    def decode(self, stored: Any, about: About) -> Any:
        return self._kept[stored]


class OfTheTenant:
    """Its key is that of the metadata, and what it stores does not say which."""

    def encode(self, payload: Any, about: About) -> Any:
        return {"data": payload, "check": f"{about.metadata.get('tenant')}"}

    def decode(self, stored: Any, about: About) -> Any:
        return stored["data"] if stored["check"] == f"{about.metadata.get('tenant')}" else None


@attrs.frozen
class StandsStill:
    inner: Schedule = attrs.field(factory=lambda: parse("@hourly"))
    text: str = "@still"
    timezone: str | None = None
    recurring: bool = True

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime:
        return after

    def first(self, anchor: datetime) -> datetime:
        return anchor + timedelta(seconds=1)


def _raises(*_: Any) -> Any:
    raise LookupError("a mistake of the plugin's")


POLICIES: Final[dict[str, tuple[str, str, Callable[[], Any]]]] = {
    "decides on a word": ("dispatch_decide", "a_decision", lambda: Calls(decide=lambda failure: "retry")),
    "cannot decide": ("dispatch_decide", "a_decision", lambda: Calls(decide=_raises)),
    "wraps in nothing": ("dispatch_wrap", "something_to_enter", lambda: Calls(wrap=lambda: print)),
    "swallows errors": ("dispatch_wrap", "the_error_passes", lambda: Calls(wrap=_swallows)),
    "is not cancelled": ("dispatch_wrap", "cancellation_passes", lambda: Calls(wrap=_goes_on)),
    "stamps no JSON": ("dispatch_stamp", "a_stamp", lambda: Calls(stamp=lambda job: {"at": job.created_at})),
    "changes the job": ("dispatch_stamp", "a_stamp", lambda: Calls(stamp=_changes)),
    "loses digits": ("dispatch_codec", "a_codec", lambda: Calls(codec=Stringly)),
    "of this start": ("dispatch_codec", "a_codec_after_a_restart", lambda: Calls(codec=OfThisStart)),
    "of the tenant": ("dispatch_codec", "a_codec_after_a_change", lambda: Calls(codec=OfTheTenant)),
    "cannot read": ("schedule_parse", "other_words", lambda: Calls(parse=_raises)),
    "stands still": ("schedule_parse", "its_own_words", lambda: Calls(parse=lambda text: StandsStill())),
    "fails to listen": ("lifecycle_event", "under_an_app", lambda: Calls(event=_raises)),
}
