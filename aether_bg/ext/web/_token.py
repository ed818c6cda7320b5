"""The page for one person on one machine: a link with a token that works once, then a cookie."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aether_bg.ext.web._guard import Refused


class OneLink:
    """An `allow` for the dashboard. `link()`: an address that lets one browser in, once; then its token is used up and
    `used` is called. Requests for another host are refused: the name of another site may lead to this machine."""

    def __init__(self, port: int, actor: str, used: Callable[[], object]) -> None:
        self._port, self._actor, self._used = port, actor, used
        self._token: str | None = None
        self._cookie, self._name = secrets.token_urlsafe(32), f"aether-bg-{port}"

    def link(self) -> str:
        """A new link; the previous one stops working."""
        self._token = secrets.token_urlsafe(32)
        return f"http://127.0.0.1:{self._port}/?token={self._token}"

    async def __call__(self, request: Request) -> str | Response:
        if request.headers.get("host") not in (f"127.0.0.1:{self._port}", f"localhost:{self._port}"):
            raise Refused(403, "Not this host", f"Open http://127.0.0.1:{self._port}/.")
        if _same(request.cookies.get(self._name), self._cookie):
            return self._actor
        if (
            request.method == "GET"
            and self._token is not None
            and _same(request.query_params.get("token"), self._token)
        ):
            self._token = None
            answer = RedirectResponse("./", 303)
            answer.set_cookie(self._name, self._cookie, httponly=True, samesite="strict")
            self._used()
            return answer
        rule = "The link that `aether-bg web` has printed last lets one browser in, once."
        raise Refused(403, "Not allowed", f"{rule} Look at its terminal for a link that has not been used.")


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), wanted.encode())
