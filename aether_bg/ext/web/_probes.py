"""For the host: an app that lives with a web service, and the two questions of an orchestrator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from aether_bg import Aether
from aether_bg.errors import AetherError, InvalidOption, shown
from aether_bg.ext.web._page import Receive, Scope, Send

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]


def lifespan(jobs: Aether, yours: Lifespan | None = None) -> Lifespan:
    """For `FastAPI(lifespan=…)`, Starlette and Litestar: `jobs` starts with the service and stops with it. `yours`,
    your own lifespan, begins after that and ends before it, so it can enqueue; what it yields is passed on."""
    if not isinstance(jobs, Aether):
        raise InvalidOption(shown(jobs), "must be an Aether", 'For example: lifespan(Aether("jobs.db")).', name="jobs")

    @asynccontextmanager
    async def live(service: Any) -> AsyncIterator[Any]:
        async with jobs:
            if yours is None:
                yield None
            else:
                async with yours(service) as state:
                    yield state

    return live


def health(jobs: Aether) -> Health:
    """An ASGI application: `/live` is 200 while the process answers, `/ready` is 200 when `jobs.health()` is well and
    503 otherwise, as JSON. It says nothing about single jobs."""
    if not isinstance(jobs, Aether):
        raise InvalidOption(shown(jobs), "must be an Aether", 'For example: health(Aether("jobs.db")).', name="jobs")
    return Health(jobs)


class Health:
    def __init__(self, jobs: Aether) -> None:
        self._jobs = jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = str(scope["path"]).rstrip("/").rpartition("/")[2]
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, {"ok": False, "error": "GET or HEAD"})
        elif path == "live":
            await _answer(send, 200, {"ok": True})
        elif path == "ready":
            await self._ready(send)
        else:
            await _answer(send, 404, {"ok": False, "error": "/live or /ready"})

    async def _ready(self, send: Send) -> None:
        try:
            state = await self._jobs.health()
        except AetherError as error:
            state = {"ok": False, "problems": {"app": str(error)}}
        told = {"ok": state["ok"], "problems": sorted(state["problems"])}
        await _answer(send, 200 if state["ok"] else 503, told)


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    text = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(text)).encode()),
        (b"cache-control", b"no-store"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
