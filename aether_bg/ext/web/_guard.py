"""Who may see the page and act, and the headers of every answer. Without these checks, such a page was
CVE-2022-30034."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from aether_bg.ext.web._words import line

Allow: TypeAlias = Callable[[Request], "object | Awaitable[object]"]

HEADERS: Final = (
    (b"content-security-policy",
     b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip
NO_STORE: Final = (b"cache-control", b"no-store")
MOST_BODY: Final = 64 * 1024
"""The most bytes of a form."""
ANONYMOUS: Final = "dashboard"
"""Who acted, if `allow` does not say."""


class Refused(Exception):
    """The request is answered with `status` and these words."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(text)
        self.status, self.title, self.text = status, title, text


async def admitted(allow: Allow, request: Request) -> str | Response:
    """The name of the person, or the answer that `allow` gives instead of the page. Raises `Refused`."""
    if inspect.iscoroutinefunction(allow) or inspect.iscoroutinefunction(getattr(allow, "__call__", None)):  # noqa: B004
        answer: Any = await allow(request)  # type: ignore[misc]
    else:
        answer = await anyio.to_thread.run_sync(allow, request)  # it may ask a database
        if inspect.isawaitable(answer):
            answer = await answer
    if isinstance(answer, Response):
        return answer
    if not answer:
        raise Refused(403, "Not allowed", "You may not see this page. `allow` of the dashboard decides who may.")
    return line(answer) if isinstance(answer, str) else ANONYMOUS  # it is stored, and shown


def check_origin(request: Request) -> None:
    """A form of another site must not act here. Raises `Refused`."""
    headers, rule = request.headers, ""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        rule = "" if site == "same-origin" else f"Sec-Fetch-Site must be same-origin, got {site!r:.40}."
    elif origin is None:
        rule = "It has neither Sec-Fetch-Site nor Origin."
    elif _place(origin) != (headers.get("host") or "").lower():
        rule = "Its Origin is not this Host. Behind a proxy, pass the Host header on."
    if rule:
        raise Refused(403, "Refused", f"An action must come from this page itself. {rule}")


def _place(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") and parts.netloc else None


async def form(request: Request) -> dict[str, str]:
    """The fields of a form, the last of each name. Raises `Refused`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY:
            raise Refused(413, "Too large", f"A form here has at most {MOST_BODY // 1024} KiB.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/x-www-form-urlencoded":
        raise Refused(415, "Refused", "A form must be application/x-www-form-urlencoded.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50, errors="strict"))
    except ValueError:
        raise Refused(400, "Refused", "The form cannot be read.") from None
