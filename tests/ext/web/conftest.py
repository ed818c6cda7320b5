"""A service whose jobs are in every state, and a client of it, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from web_texts import MARK, NAME, SECRET

if find_spec("starlette") is None or find_spec("httpx2") is None:
    collect_ignore_glob = ["test_*.py"]  # `pip install 'aether-bg[web]' httpx2`
else:
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.testclient import TestClient

    from aether_bg import Aether, JobContext, JobStatus
    from aether_bg.ext.web import dashboard, health, lifespan
    from aether_bg.plugins.memory import MemoryStore


class Service:
    """`client` speaks to it; `call` runs a coroutine on its loop."""

    def __init__(self, client: Any, jobs: Any, ids: dict[str, Any]) -> None:
        self.client, self.jobs, self.ids = client, jobs, ids

    def call(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return self.client.portal.call(fn, *args)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(f"/ops/{path}", **more)

    def settled(self, path: str, until: Callable[[str], bool] = lambda text: "in a moment" not in text) -> Any:
        """The answer once it is so: by default, once everything on it has been counted."""
        import time

        self.client.app.routes[0].app._screens.forget()
        deadline = time.monotonic() + 30
        while not until((answer := self.get(path)).text) and time.monotonic() < deadline:
            time.sleep(0.02)
        return answer

    def post(self, path: str, data: dict[str, str] | None = None, **more: Any) -> Any:
        headers = {"Sec-Fetch-Site": "same-origin"} | more.pop("headers", {})
        return self.client.post(f"/ops/{path}", data=data or {}, headers=headers, follow_redirects=False, **more)

    def row(self, name: str) -> Any:
        return self.call(self.jobs.store.get_by_job_name, name)


def make_jobs(store: Any) -> Any:
    app = Aether(store, scheduler="timer", actor="service")

    @app.handler("Fine")
    def fine(payload: Any = None) -> None: ...

    @app.handler("Fails")
    def fails(payload: Any = None) -> None:
        raise ValueError(f"{MARK} went wrong\nmore {MARK}")

    @app.handler("Long")
    async def long(ctx: JobContext) -> None:
        import anyio

        await ctx.checkpoint({"iban": SECRET})
        await anyio.sleep(60)

    @app.handler("Keeps", keep_result=True)
    def keeps() -> Any:
        return [{"iban": SECRET}]

    return app


async def fill(app: Any, ids: dict[str, Any]) -> None:
    payload = {"card": SECRET, "deep": [{"iban": SECRET}], "key": MARK}
    for n in range(3):
        ids[f"fine-{n}"] = await app.enqueue("Fine", f"fine-{n}", payload)
        ids[f"failed-{n}"] = await app.enqueue("Fails", f"failed-{n}", payload, metadata={"tenant": SECRET})
    ids["later"] = await app.enqueue("Fine", "later", payload, timedelta(days=1))
    ids["nightly"] = await app.enqueue("Fine", "nightly", payload, "30 2 * * *", timezone="Europe/Berlin")
    ids["paused"] = await app.enqueue("Fine", "paused", payload, "@hourly")
    await app.pause(ids["paused"])
    ids["mark"] = await app.enqueue("Fine", NAME, None, timedelta(days=2))
    ids["long"] = await app.enqueue("Long", "long")
    ids["kept"] = await app.enqueue("Keeps", "kept")
    for name in ("kept", *(f"fine-{n}" for n in range(3)), *(f"failed-{n}" for n in range(3))):
        await app.wait(name, 10)
    while (row := await app.store.get(ids["long"])).status is not JobStatus.RUNNING or row.checkpoint is None:
        import anyio

        await anyio.sleep(0.01)


@pytest.fixture(params=[("sqlite", "asyncio"), ("memory", "trio"), ("postgres", "asyncio")], ids="-".join)
def both(request: pytest.FixtureRequest) -> Any:
    """Each store and each event loop, not all pairs of them."""
    return request.param


@pytest.fixture
def store(both: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Skips where there is no PostgreSQL."""
    if both[0] == "postgres":
        with request.getfixturevalue("aether_postgres").database() as url:
            yield url
    else:
        yield MemoryStore() if both[0] == "memory" else tmp_path / "jobs.db"


@pytest.fixture
def loop(both: Any) -> str:
    return str(both[1])


@pytest.fixture
def serve(store: Any, loop: str) -> Callable[..., Any]:
    """`with serve(**options of the dashboard) as service`."""
    from contextlib import contextmanager

    @contextmanager
    def serving(shown: Callable[[Any], Any] = lambda app: app, **options: Any) -> Iterator[Service]:
        app, ids = make_jobs(store), dict[str, Any]()

        @asynccontextmanager
        async def filled(_: Any) -> AsyncIterator[None]:
            await fill(app, ids)
            yield
            await app.delete(ids["long"])  # else the stop waits for it

        page = dashboard(shown(app), **{"allow": lambda request: "ada"} | options)
        service = Starlette(routes=[Mount("/ops", page), Mount("/health", health(app))], lifespan=lifespan(app, filled))
        with TestClient(service, backend=loop, base_url="http://shop.test") as client:
            yield Service(client, app, ids)

    return serving
