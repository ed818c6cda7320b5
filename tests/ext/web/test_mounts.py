"""The page inside other frameworks, below prefixes, and behind proxies."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from aether_bg import Aether
from aether_bg.ext.web import dashboard, lifespan


@pytest.fixture
def jobs(tmp_path: Path) -> Aether:
    app = Aether(tmp_path / "jobs.db", scheduler="timer")

    @app.handler("Fine")
    def fine() -> None: ...

    return app


def person(request: Any) -> str:
    return "ada"


def in_starlette(jobs: Aether) -> Any:
    return Starlette(routes=[Mount("/jobs", dashboard(jobs, allow=person))], lifespan=lifespan(jobs))


def in_fastapi(jobs: Aether) -> Any:
    fastapi = pytest.importorskip("fastapi", reason="pip install fastapi")
    service = fastapi.FastAPI(lifespan=lifespan(jobs))
    service.mount("/jobs", dashboard(jobs, allow=person))
    return service


def in_litestar(jobs: Aether) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        litestar = pytest.importorskip("litestar", reason="pip install litestar")
    page = dashboard(jobs, allow=person)

    @litestar.asgi("/jobs", is_mount=True, copy_scope=True)
    async def show_jobs(scope: Any, receive: Any, send: Any) -> None:
        await page(scope, receive, send)

    show_jobs.fn.__annotations__ |= {
        "scope": litestar.types.Scope, "receive": litestar.types.Receive, "send": litestar.types.Send, "return": None,
    }  # fmt: skip
    return litestar.Litestar(route_handlers=[show_jobs], lifespan=[lifespan(jobs)])


def beside_django(jobs: Aether) -> Any:
    """As in asgi.py: the paths below /jobs are the page's, all others Django's."""
    pytest.importorskip("django", reason="pip install django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of a test")
    from django.core.asgi import get_asgi_application

    routes = [Mount("/jobs", dashboard(jobs, allow=person)), Mount("/", get_asgi_application())]
    return Starlette(routes=routes, lifespan=lifespan(jobs))


urlpatterns: list[Any] = []
"""Django's, of this module."""


@pytest.mark.parametrize("framework", [in_starlette, in_fastapi, in_litestar, beside_django])
def test_a_mount(framework: Callable[[Aether], Any], jobs: Aether) -> None:
    with TestClient(framework(jobs), base_url="http://shop.test") as client:
        text = client.get("/jobs/").text
        assert "<h1>Overview</h1>" in text
        links = re.findall(r'(?:href|src)="(\./[^"#?]*)', text)
        assert "./static/style.css" in links
        assert "./failures" in links
        for link in links:
            assert client.get(f"/jobs/{link[2:]}").status_code == 200, link
        form = {"verb": "retry", "confirmed": "1"}
        assert client.post("/jobs/bulk", data=form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
        assert client.post("/jobs/bulk", data=form).status_code == 403
        assert client.get("/elsewhere").status_code == 404


def test_a_service_that_starts_again_on_another_loop(jobs: Aether) -> None:
    """As the tests of a service do, with one object of a module."""
    service = in_starlette(jobs)
    for _ in range(3):
        with TestClient(service) as client:
            client.get("/jobs/")  # what it counts may be on its way at the stop
        with TestClient(service) as client:
            deadline = time.monotonic() + 30
            while "in a moment" in (text := client.get("/jobs/").text) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert "<b>0</b> failed" in text


@pytest.mark.parametrize(
    ("path", "root"),
    [("/failures", ""), ("/failures", "/ops/jobs"), ("/ops/jobs/failures", "/ops/jobs"), ("//failures//", "")],
)
def test_behind_a_proxy_that_takes_its_prefix_away_or_leaves_it(jobs: Aether, path: str, root: str) -> None:
    """A server puts its root path before the path, or does not."""
    page = dashboard(jobs, allow=person)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope |= {"path": path, "root_path": root}
            await page(scope, receive, send)
        else:
            await Starlette(lifespan=lifespan(jobs))(scope, receive, send)

    with TestClient(served) as client:
        assert "<h1>Failures</h1>" in client.get("/").text
