"""Tests without async: `pip install pytest`, then `pytest test_sync.py`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from unittest.mock import AsyncMock

import pytest
from newsletter import Mailer, Welcome, app

from aether_bg.testing import FakeClock, PlainJobs, sandbox


@pytest.fixture
def mailer() -> AsyncMock:
    return AsyncMock()


@pytest.fixture
def jobs(mailer: AsyncMock) -> Iterator[PlainJobs]:
    with sandbox(app, clock=FakeClock(datetime(2030, 6, 1, tzinfo=UTC)), override={Mailer: mailer}).blocking() as jobs:
        yield jobs


def test_a_welcome(jobs: PlainJobs, mailer: AsyncMock) -> None:
    jobs.enqueue("Welcome", payload=Welcome("ada@example.org"))
    (ran,) = jobs.drain()
    assert ran.outcome == "completed"
    mailer.send.assert_awaited_once_with("ada@example.org", "Welcome!")


def test_the_newsletter_is_due_on_monday_in_berlin(jobs: PlainJobs) -> None:
    jobs.assert_enqueued("Newsletter", due=datetime(2030, 6, 3, 7, tzinfo=UTC))
