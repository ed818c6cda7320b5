"""The trigger route for HTTP apps, behind a sidecar with `--app-protocol http`: POST /job/{name}.

200: Dapr forgets the trigger. 503: it comes again. Mounted at "/" or at "/job"; Dapr always calls /job/….
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from aether_bg.plugins.dapr.door import MAX_BODY, TOKEN_HEADER, Door

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_ROUTE: Final = re.compile(r"/job/([^/]+)")


class TriggerRoute:
    """An ASGI application, to be mounted in yours."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            return
        await _answer(send, await self._status(scope, receive))

    async def _status(self, scope: Scope, receive: Receive) -> int:
        path, root = str(scope["path"]), str(scope.get("root_path", ""))
        path = path if path.startswith(root) else root + path  # frameworks differ in what they leave in the path
        if path == "/healthz" and scope["method"] == "GET":
            return 200
        found = _ROUTE.fullmatch(path)
        if found is None:
            return 404
        if scope["method"] != "POST":
            return 405
        headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
        if not self._door.admits([value for name, value in headers if name == TOKEN_HEADER.encode()]):
            return 401
        body = await _read(receive)
        if body is None:
            return 413
        return 200 if await self._door.consumes(unquote(found[1]), body) else 503


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
