"""A page to look at jobs, understand them and act, for any ASGI framework: `pip install 'aether-bg[web]'`.

    from aether_bg.ext.web import dashboard, health, lifespan

    service = FastAPI(lifespan=lifespan(jobs))
    service.mount("/jobs", dashboard(jobs, allow=is_admin))
    service.mount("/health", health(jobs))

`_page` the application · `_screens`, `_actions` what it shows and does · `_source` on what · `_guard` who may ·
`_filters`, `_words`, `_activity`, `_coming`, `_cache` parts of that · `_probes` health and lifespan ·
`_token` for `aether-bg web`
"""

from __future__ import annotations

from typing import Any

from aether_bg.errors import InvalidOption, shown
from aether_bg.ext.web._guard import Allow
from aether_bg.ext.web._page import Page
from aether_bg.ext.web._probes import health, lifespan
from aether_bg.ext.web._source import source_of
from aether_bg.ext.web._words import Payloads

__all__ = ["dashboard", "health", "lifespan"]


def dashboard(jobs: Any, allow: Allow, read_only: bool = False, payloads: Payloads = "keys") -> Page:
    """An ASGI application that shows `jobs` and acts on them; mount it where you like.

    `jobs`: an `Aether` that runs on the same event loop; or, to look only, a client of one, a store that has
    `inspect()` (`SQLiteStore("jobs.db")`), or an open inspection. `allow`: required; a function, async or not (then it
    is called in a thread), of the `starlette.requests.Request`. False or None: 403. A string: the name of the person,
    for the audit fields (`modified_by`). True: allowed, under the name "dashboard". A `Response`, say a redirect to
    your login: that is the answer. `read_only`: no actions. `payloads`: "hidden", "keys" (keys, kinds and lengths) or
    "shown"; also for metadata and results. Names and errors of jobs are always shown.

    Raises `InvalidOption`.
    """
    if not callable(allow):
        raise InvalidOption(
            shown(allow), "must be a function that says who may see the page",
            "For example: allow=lambda request: request.session.get('admin').", name="allow",
        )  # fmt: skip
    if payloads not in ("hidden", "keys", "shown"):
        raise InvalidOption(
            shown(payloads), 'must be "hidden", "keys" or "shown"', 'For example: payloads="keys".', name="payloads"
        )
    if not isinstance(read_only, bool):
        raise InvalidOption(shown(read_only), "must be True or False", "For example: read_only=True.", name="read_only")
    return Page(source_of(jobs), allow, read_only=read_only, payloads=payloads)
