"""The trigger route for HTTP apps, behind a sidecar with `--app-protocol http`: POST /job/{name}.

200: Dapr forgets the trigger. 503: Dapr delivers it again. Dapr takes a 404 for done and drops the job: no POST under
/job is ever answered with 404, whatever prefix mounts, proxies and root paths add.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from aether_bg.plugins.dapr.door import MAX_BODY, TOKEN_HEADER, Door
from aether_bg.plugins.dapr.names import ours
from aether_bg.plugins.dapr.settings import loopback

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_JOB: Final = re.compile(r"(?:.*?/)?job(?:/(.*))?", re.DOTALL)
_HEALTH: Final = "/healthz"


class HealthRoute:
    """GET /healthz: 200. Dapr's app health checks ask it; an app that answers otherwise gets no triggers at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _answer(send, 200 if scope["method"] in ("GET", "HEAD") else 405)


class TriggerRoute:
    """An ASGI application to mount in yours."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.health: Any = HealthRoute()
        """The answer to GET /healthz, an ASGI app of its own: `api.add_route("/healthz", scheduler.asgi.health)`.
        Any: Starlette takes an ASGI app there, but its annotation does not say so."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            return
        await _answer(send, await self._status(scope, receive))

    def wrapping(self, app: ASGIApp) -> ASGIApp:
        """An app that takes our triggers and leaves all else to `app`, its own Dapr jobs included, wherever its routes
        are: `api.add_middleware(scheduler.asgi.wrapping)`. If `app` has no /healthz, the answer is 200."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            http = scope["type"] == "http"
            if http and scope["method"] == "POST" and ours(_last(str(scope["path"]))):
                await self(scope, receive, send)
            elif http and str(scope["path"]).endswith(_HEALTH):
                await app(scope, receive, _or_healthy(send))
            else:
                await app(scope, receive, send)

        return wrapped

    async def _status(self, scope: Scope, receive: Receive) -> int:
        path, root = str(scope["path"]), str(scope.get("root_path", ""))
        path = path if path.startswith(root) else root + path  # frameworks differ in what they leave in the path
        if path.rstrip("/").endswith(_HEALTH) and scope["method"] in ("GET", "HEAD"):
            return 200
        name = _last(path)
        if not ours(name):
            found = _JOB.fullmatch(path)
            if found is None:
                if scope["method"] == "POST":
                    self._door.went_astray(path)
                return 404
            name = found[1] or ""
        if scope["method"] != "POST":
            return 405
        headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
        if not self._door.admits([value for name, value in headers if name == TOKEN_HEADER.encode()]):
            return 401
        client = scope.get("client")
        if not self._door.guarded and client and not loopback(str(client[0])):
            self._door.exposed = True
        body = await _read(receive)
        if body is None:
            return 413
        return 200 if await self._door.consumes(name, body) else 503


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _or_healthy(send: Send) -> Send:
    """Passes an answer on, but replaces a 404 by 200."""
    missing = False

    async def sending(message: MutableMapping[str, Any]) -> None:
        nonlocal missing
        if message["type"] == "http.response.start" and message["status"] == 404:
            missing = True
            await _answer(send, 200)
        elif not missing:
            await send(message)

    return sending


async def _read(receive: Receive) -> bytes | None:
    """The body; None when it is too long or the caller has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
