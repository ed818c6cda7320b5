"""One handler whose attempts are noted, on a clock that the test moves."""

from __future__ import annotations

import pytest

from aether_bg import Aether, JobContext


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
