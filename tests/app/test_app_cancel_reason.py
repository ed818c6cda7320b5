"""Why an attempt is cancelled, and a policy that postpones without a retry."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from aether_bg import Aether, CancelReason, JobContext, JobStatus, RunOutcome, hookimpl
from aether_bg.model import Decision, Failure, Postpone

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


@pytest.fixture
def seen() -> list[Any]:
    return []


def sleeping(app: Aether, seen: list[Any], begun: anyio.Event, **options: Any) -> Aether:
    @app.handler("Sleep", **options)
    async def sleep(ctx: JobContext) -> None:
        seen.append(ctx.cancel_reason)
        begun.set()
        try:
            await anyio.sleep(60)
        finally:
            seen.append(ctx.cancel_reason)

    return app


async def test_a_timeout(app: Aether, seen: list[Any]) -> None:
    async with sleeping(app, seen, anyio.Event(), timeout=0.1):
        await app.wait(await app.enqueue("Sleep"), 10)
    assert seen == [None, CancelReason.TIMEOUT]
    assert seen[1] == "timeout"


async def test_a_stop(make_app: Callable[..., Aether], seen: list[Any]) -> None:
    begun = anyio.Event()
    async with sleeping(make_app(grace=0), seen, begun) as app:
        await app.enqueue("Sleep")
        await begun.wait()
    assert seen == [None, CancelReason.STOP]


async def test_a_deleted_job(app: Aether, seen: list[Any]) -> None:
    begun = anyio.Event()
    async with sleeping(app, seen, begun, timeout=60):
        job = await app.enqueue("Sleep")
        await begun.wait()
        await app.delete(job)
        while len(seen) < 2:
            await anyio.sleep(0.01)
    assert seen == [None, CancelReason.DELETED]


async def test_a_job_deleted_elsewhere(app: Aether, make_app: Callable[..., Aether], seen: list[Any]) -> None:
    begun = anyio.Event()
    async with sleeping(app, seen, begun), make_app() as other:
        job = await app.enqueue("Sleep")
        await begun.wait()
        await other.delete(job)
        while len(seen) < 2:
            await anyio.sleep(0.01)
    assert seen == [None, CancelReason.LOST]


async def test_a_thread_can_look(app: Aether) -> None:
    ended = anyio.Event()
    seen: list[Any] = []

    @app.handler("Plain", timeout=0.2)
    def plain(ctx: JobContext) -> None:
        seen.append(ctx.cancel_reason)
        while ctx.cancel_reason is None:
            time.sleep(0.01)
        seen.append(ctx.cancel_reason)

    async with app:
        row = await app.wait(await app.enqueue("Plain"), 10)
        ended.set()
    assert row.status is JobStatus.FAILED
    assert seen == [None, CancelReason.TIMEOUT]


async def test_a_policy_postpones_without_a_retry(make_app: Callable[..., Aether]) -> None:
    class Patient:
        @hookimpl
        def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
            return Postpone(datetime.now(UTC) + timedelta(milliseconds=10)) if ctx.attempt < 4 else None

    app = make_app(plugins=[Patient()])

    @app.handler("Fails", retries=0)
    async def fails(ctx: JobContext) -> None:
        raise ConnectionError("down")

    async with app:
        row = await app.wait(await app.enqueue("Fails"), 10)
        history = await app.store.history(row.id)
    assert (row.status, row.retry_count, row.attempt) == (JobStatus.FAILED, 0, 4)
    assert [run.outcome for run in history] == [RunOutcome.FAILED, *[RunOutcome.SNOOZED] * 3]
    assert all("down" in (run.error or "") for run in history)


async def test_a_policy_that_names_no_zone_counts_as_none(make_app: Callable[..., Aether]) -> None:
    class Naive:
        @hookimpl
        def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
            return Postpone(datetime(2026, 1, 1))

    app = make_app(plugins=[Naive()])

    @app.handler("Fails")
    async def fails() -> None:
        raise ConnectionError

    async with app:
        assert (await app.wait(await app.enqueue("Fails"), 10)).status is JobStatus.FAILED
