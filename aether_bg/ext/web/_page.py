"""The page as an ASGI application: routes, who may come in, what goes out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import UUID

import jinja2
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from aether_bg import __version__
from aether_bg.errors import (
    AetherError,
    InputError,
    InvalidTransition,
    JobConflict,
    JobNotFound,
    NotStarted,
    StoreError,
    WrongLoop,
)
from aether_bg.ext.web import _words
from aether_bg.ext.web._actions import MOST, SINGLE, Actions, Outcome
from aether_bg.ext.web._activity import MOST as MOST_ATTEMPTS
from aether_bg.ext.web._cache import Kept
from aether_bg.ext.web._filters import Filter, job_id
from aether_bg.ext.web._guard import HEADERS, NO_STORE, Allow, Refused, admitted, check_origin, form
from aether_bg.ext.web._screens import PAGE, SHOWN, Context, Screens
from aether_bg.ext.web._source import Source
from aether_bg.ext.web._words import Payloads

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
log = logging.getLogger("aether_bg.web")

HERE: Final = Path(__file__).parent
STATIC: Final = {
    "style.css": "text/css", "icon.svg": "image/svg+xml", "page.js": "text/javascript",
    "htmx.min.js": "text/javascript",
}  # fmt: skip
METHODS: Final = "GET, HEAD, POST"
SCREENS: Final = ("jobs", "failures", "recurring", "handlers", "processes", "system")
LIVE: Final = 'hx-get="" hx-trigger="every {}s, refresh" hx-select="#live" hx-target="#live" hx-swap="outerHTML"'
_DONE: Final = {
    "retry": "It is due again.", "delete": "It is cancelled.", "run": "It runs as soon as it can.",
    "pause": "It is paused.", "resume": "It goes on.", "schedule": "It has the new schedule, from now.",
    "nothing": "It had ended already. Nothing was changed.",
    "handler-pause": "Jobs of that handler wait.", "handler-resume": "Jobs of that handler go on.",
}  # fmt: skip
_STATUS: Final[tuple[tuple[type[AetherError], int, str], ...]] = (
    (JobNotFound, 404, "No such job"), (JobConflict, 409, "Not possible now"),
    (InvalidTransition, 409, "Not possible now"), (NotStarted, 503, "Not running"), (WrongLoop, 503, "Not here"),
    (StoreError, 503, "The store does not answer"), (InputError, 400, "Not possible"),
)  # fmt: skip


class Page:
    """The dashboard. Its links are relative: it works under any prefix and behind any proxy."""

    def __init__(self, source: Source, allow: Allow, *, read_only: bool, payloads: Payloads) -> None:
        self._source, self._allow, self._payloads = source, allow, payloads
        self._read_only = read_only or not source.writable
        self._screens, self._actions = Screens(source, payloads), Actions(source)
        self._templates = _environment()
        self._static = {name: (HERE / "static" / name).read_bytes() for name in STATIC}
        self._version = hashlib.sha256(b"".join(self._static.values())).hexdigest()[:12]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            return
        request = Request(scope, receive)
        path = _path(scope)
        response = await self._answered(request, path)
        cached = path[:1] == ["static"] and response.status_code == 200
        response.raw_headers = [
            *(header for header in response.raw_headers if header[0] != b"cache-control"), *HEADERS,
            (b"cache-control", b"public, max-age=31536000, immutable") if cached else NO_STORE,
        ]  # fmt: skip
        await response(scope, receive, send)

    async def _answered(self, request: Request, path: list[str]) -> Response:
        look = _Look(request, path)
        try:
            if path[:1] == ["static"] and len(path) == 2 and path[1] in STATIC:
                return Response(self._static[path[1]], media_type=STATIC[path[1]])
            admission = await admitted(self._allow, request)
            if isinstance(admission, Response):
                return admission
            look.actor = admission
            if request.method in ("GET", "HEAD"):
                return await self._get(look)
            if request.method != "POST":
                raise Refused(405, "Refused", f"This page answers {METHODS}.")
            return await self._post(look)
        except Refused as refused:
            answer = self._trouble(look, refused.status, refused.title, refused.text)
            if refused.status == 405:
                answer.headers["allow"] = METHODS
            return answer
        except HTTPException as error:  # an answer of `allow`
            answer = self._trouble(look, error.status_code, "Not allowed", str(error.detail))
            answer.headers.update(error.headers or {})
            return answer
        except AetherError as error:
            status, title = next(((s, t) for kind, s, t in _STATUS if isinstance(error, kind)), (500, "Not possible"))
            return self._trouble(look, status, title, str(error))
        except Exception:
            log.exception("the page could not answer %s", request.url.path)
            return self._trouble(look, 500, "Something went wrong", "The log of this process says what.")

    # -- reading ---------------------------------------------------------------------------------

    async def _get(self, look: _Look) -> Response:
        path, screens = look.path, self._screens
        if not path and not look.request.scope["path"].endswith("/"):  # relative links need the slash
            return RedirectResponse(look.request.scope["path"].rpartition("/")[2] + "/", 307)
        look.told = _DONE.get(look.fields.get("done", ""), "")
        async with self._source.open() as reader:
            if not path:
                return self._shown(look, "overview", await screens.overview(reader, look.fields), reader.now())
            if len(path) == 1 and path[0] in SCREENS:
                context = await getattr(screens, path[0])(reader, look.fields)
                return self._shown(look, path[0], context, reader.now())
            if len(path) == 2 and path[0] == "jobs" and (id_ := job_id(path[1])) is not None:
                return self._shown(look, "job", await screens.job(reader, id_, look.fields), reader.now())
        raise Refused(404, "No such page", "There is nothing at this address.")

    # -- acting ----------------------------------------------------------------------------------

    async def _post(self, look: _Look) -> Response:
        check_origin(look.request)
        if self._read_only:
            raise Refused(403, "Read only", "This page only shows. " + (
                "Open it with read_only=False to act." if self._source.writable else
                "It reads the store from outside, or through a client."))  # fmt: skip
        look.fields = await form(look.request)
        path = look.path
        if path == ["bulk"]:
            return await self._bulk(look)
        if len(path) == 3 and path[0] == "jobs" and path[2] in SINGLE and (id_ := job_id(path[1])) is not None:
            return await self._one(look, path[2], id_)
        if len(path) == 2 and path[0] == "handlers" and path[1] in ("pause", "resume"):
            await self._actions.kind(path[1], look.fields.get("handler", ""), look.actor)
            self._screens.forget()
            return RedirectResponse(f"../handlers?done=handler-{path[1]}", 303)
        raise Refused(404, "No such action", "There is nothing to do at this address.")

    async def _one(self, look: _Look, verb: str, id_: UUID) -> Response:
        if verb == "delete" and "confirmed" not in look.fields:
            async with self._source.open() as reader:
                job = (await self._screens.job(reader, id_, {}))["job"]
                return self._shown(look, "confirm_delete", {"job": job, "back": look.fields.get("back")}, reader.now())
        done = verb if await self._actions.one(verb, id_, look.fields, look.actor) else "nothing"
        self._screens.forget()
        back = look.fields.get("back")
        if back == "overview":
            return RedirectResponse(f"{look.up}?done={done}", 303)
        if back in ("jobs", "failures", "recurring"):
            link = Filter.of(look.fields).link(done=done) if back == "jobs" else f"?done={done}"
            return RedirectResponse(f"{look.up}{back}{link}", 303)
        return RedirectResponse(f"{look.up}jobs/{id_}?done={done}", 303)

    async def _bulk(self, look: _Look) -> Response:
        verb, chosen = look.fields.get("verb", ""), Filter.of(look.fields)
        if verb not in ("retry", "delete"):
            raise Refused(400, "No such action", "A bulk action is retry or delete.")
        outcome: Outcome | None = None
        if "confirmed" in look.fields:
            outcome = await self._actions.bulk(verb, chosen, look.actor)
            self._screens.forget()
        async with self._source.open() as reader:
            context = {
                "verb": verb, "filter": chosen, "most": MOST, "outcome": outcome,
                "statuses": [status.name.lower() for status in self._actions.statuses(verb, chosen)],
                "count": await self._actions.count(verb, chosen) if outcome is None or outcome.more else 0,
            }  # fmt: skip
            return self._shown(look, "bulk", context, reader.now())

    # -- writing HTML ----------------------------------------------------------------------------

    def _shown(self, look: _Look, screen: str, context: Context, now: Any, status: int = 200) -> Response:
        pending = any(isinstance(value, Kept) and value.pending for value in context.values())
        common = {
            "up": look.up, "screen": screen, "now": now, "read_only": self._read_only, "version": self._version,
            "told": look.told, "hides": self._payloads == "keys",
            "actor": look.actor, "pending": pending, "live": Markup(LIVE.format(1 if pending else 5)),
        }  # fmt: skip
        template = self._templates.get_template(f"{screen}.html")
        return HTMLResponse(template.render({**common, **context}), status)

    def _trouble(self, look: _Look, status: int, title: str, text: str) -> Response:
        return self._shown(look, "trouble", {"title": title, "text": text, "status": status}, None, status)


class _Look:
    """One request. `path`: its parts below where the page is mounted; `up`: the way back there; `fields`: of the query,
    or of the form."""

    def __init__(self, request: Request, path: list[str]) -> None:
        self.request, self.path = request, path
        self.up = "../" * (len(path) - 1) or "./"
        self.fields: Mapping[str, str] = dict(request.query_params)
        self.actor, self.told = "", ""


def _path(scope: Scope) -> list[str]:
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root):
        path = path[len(root) :]
    return [part for part in path.split("/") if part]


@cache
def _environment() -> jinja2.Environment:
    """Every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["length_of"] = len
    environment.globals |= {
        "names": {"confirm_delete": "Delete?"}, "most_attempts": MOST_ATTEMPTS, "most_linked": PAGE,
        "most_shown": SHOWN, "version_of_package": __version__,
    }  # fmt: skip
    for name in ("line", "head", "block", "instant", "ago", "length", "number"):
        environment.filters[name] = getattr(_words, name)
    for name in environment.list_templates():  # compiled now, not while the first visitor waits
        environment.get_template(name)
    return environment
