"""Rows that cannot be read are set aside; their neighbours run."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest

from aether_bg import Aether, JobStatus
from aether_bg.model import Unreadable

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
DEEP = "[" * 2000 + "]" * 2000


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", DEEP),
        ("progress", '{"done": 1}'),
        ("progress", "[]"),
        ("last_error", "\x01{"),
        ("extra_properties", f'{{"a": {DEEP}}}'),
    ],
)
async def test_a_row_that_cannot_be_read(url: str, column: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    ran = []
    app = Aether(url, scheduler="timer", grace=1)

    @app.handler("Work")
    async def work(payload: Any) -> None:
        ran.append(payload)

    async with app.client() as client:
        bad = await client.enqueue("Work", "bad", "bad")
        good = await client.enqueue("Work", "good", "good")
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(
                f"SET max_stack_depth = '6MB'; UPDATE aether_bg.jobs SET {column} = '{value}' WHERE job_name = 'bad'"
            )
    async with app:
        assert (await app.wait(good, timeout=10)).status is JobStatus.COMPLETED
        row = await app.store.get(bad)
        assert row is not None
        if column == "progress":  # a claim clears it
            assert (await app.wait(bad, timeout=10)).status is JobStatus.COMPLETED
            return
        assert row.status is JobStatus.FAILED
        assert ran == ["good"]
        assert f"{column} is" in (row.last_error or "")
        if column != "last_error":
            assert isinstance(row, Unreadable)
        (run,) = await app.store.history(bad)
        assert run.outcome == "failed"
