"""An exception whose text, notes or class raise SystemExit is reported like any other: the process goes on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from aether_bg import Aether, JobContext, JobStatus, hookimpl
from aether_bg.model import Event, Failure

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


class Text(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Notes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise SystemExit(4)


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(5)


class Name(Exception, metaclass=_Nameless): ...


class Plugin:
    """Raises the error in one of its hooks."""

    def __init__(self, where: str, error: type[Exception]) -> None:
        self.where, self.error = where, error

    def __repr__(self) -> str:
        raise SystemExit(6)

    def at(self, where: str) -> None:
        if where == self.where:
            raise self.error

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        self.at("observer")

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def wrap() -> AsyncIterator[None]:
            self.at("wrap")
            yield

        return wrap()

    @hookimpl
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> None:
        self.at("decide")


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
@pytest.mark.parametrize("error", [Text, Notes, Name], ids=["text", "notes", "name"])
@pytest.mark.parametrize("where", ["handler", "observer", "wrap", "decide"])
async def test_it_does_not_end_the_process(
    make_app: Any, where: str, error: type[Exception], level: int, caplog: pytest.LogCaptureFixture
) -> None:
    app: Aether = make_app(plugins=[plugin := Plugin(where, error)])

    @app.handler("Fails")
    async def fails() -> None:
        plugin.at("handler")
        raise ValueError("no")

    @app.handler("Works")
    async def works() -> None: ...

    logging.getLogger("aether_bg").setLevel(level)
    try:
        async with app:
            assert (await app.wait(await app.enqueue("Fails"), 10)).status is JobStatus.FAILED
            ends = JobStatus.FAILED if where == "wrap" else JobStatus.COMPLETED
            assert (await app.wait(await app.enqueue("Works"), 10)).status is ends
    finally:
        logging.getLogger("aether_bg").setLevel(logging.NOTSET)
    assert any(record.levelno >= logging.WARNING for record in caplog.records)
