"""One handler whose attempts are noted, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from aether_bg import Aether, JobContext
from aether_bg.model import Purge


@pytest.fixture
def ran() -> list[JobContext]:
    """The attempts of `Work`."""
    return []


@pytest.fixture
def work(fake_app: Aether, ran: list[JobContext]) -> Aether:
    @fake_app.handler("Work")
    async def work(ctx: JobContext) -> None:
        ran.append(ctx)

    return fake_app


@pytest.fixture
def keeps_a_hundred() -> Callable[[Aether], None]:
    """`keeps_a_hundred(app)`: its recurring jobs keep 100 rows of history, where others keep 1,000."""

    def shorten(app: Aether) -> None:
        purge = app.calls.purge

        async def shorter(asked: Purge) -> int:
            assert asked.history == 1000, "docs/protocol.md, N5"
            return await purge(attrs.evolve(asked, history=100))

        app.calls.purge = shorter  # type: ignore[method-assign]

    return shorten
