"""What is logged: names, levels, fields, as docs/how-to/logging.md says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from docs.snippets import ROOT, snippets, table

from aether_bg import Aether, Backoff, GiveUp, JobContext, JobStatus, UnitOfWork, hookimpl
from aether_bg.model import Failure, GiveUpNow
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
DOCUMENT = "docs/how-to/logging.md"
FIELDS = [row[0].strip("`") for row in table(DOCUMENT, "Fields")]


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[Any]:
    return [record for record in caplog.records if record.levelno == level]


async def fails(ctx: JobContext) -> None:
    raise ValueError("no\nsecond line")


def fails_in_a_thread() -> None:
    raise ValueError("no")


async def gives_up() -> None:
    raise GiveUp("no use")


async def takes_long() -> None:
    await anyio.sleep_forever()


async def bad_sql(uow: UnitOfWork) -> None:
    uow.execute("INSERT INTO nothing VALUES (1)")


@pytest.mark.parametrize(
    ("handler", "kind"),
    [(fails, ValueError), (fails_in_a_thread, ValueError), (gives_up, GiveUp), (takes_long, TimeoutError),
     (bad_sql, Exception)],
)  # fmt: skip
async def test_the_last_failure_is_an_error_with_its_exception(
    app: Aether, caplog: pytest.LogCaptureFixture, handler: Callable[..., Any], kind: type[BaseException]
) -> None:
    app.handler("Fails", timeout=0.1)(handler)
    async with app:
        job = await app.wait(await app.enqueue("Fails", "job"), 20)
        assert job.status is JobStatus.FAILED
    (record,) = records(caplog, logging.ERROR)
    assert record.name == "aether_bg"
    assert isinstance(record.exc_info[1], kind)
    if kind is ValueError:
        assert record.exc_info[2] is not None, "with its traceback"
    assert record.getMessage().startswith("Fails (job): attempt 1 failed, that was the last try: ")
    assert "\n" not in record.getMessage()
    assert [getattr(record, field) for field in FIELDS] == [str(job.id), "job", "Fails", 1]


async def test_a_failure_with_retries_left_is_a_warning(
    fake_app: Aether, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    fake_app.handler("Fails", retries=2, backoff=Backoff(first=1))(fails)
    async with fake_app as app:
        await app.enqueue("Fails", "job")
        for _ in range(3):
            await app.drain()
            clock.advance(hours=1)
    warnings, errors = records(caplog, logging.WARNING), records(caplog, logging.ERROR)
    assert [(record.attempt, record.job_name, record.handler) for record in warnings] == [
        (1, "job", "Fails"), (2, "job", "Fails"),
    ]  # fmt: skip
    assert [record.attempt for record in errors] == [3]


async def test_each_occurrence_of_a_recurring_job_has_its_error(
    fake_app: Aether, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    fake_app.handler("Fails", schedule="@hourly")(fails)
    async with fake_app as app:
        for _ in range(2):
            clock.advance(hours=1)
            await app.drain()
    assert len(records(caplog, logging.ERROR)) == 2
    assert all(record.exc_info for record in records(caplog, logging.ERROR))


async def test_a_plugin_that_gives_up(make_app: Callable[..., Aether], caplog: pytest.LogCaptureFixture) -> None:
    class Never:
        @hookimpl
        def dispatch_decide(self, ctx: JobContext, failure: Failure) -> GiveUpNow:
            return GiveUpNow("never")

    app = make_app(plugins=[Never()])
    app.handler("Fails", retries=5)(fails)
    async with app:
        await app.wait(await app.enqueue("Fails", "job"), 20)
    (record,) = records(caplog, logging.ERROR)
    assert isinstance(record.exc_info[1], ValueError)


async def test_one_line_for_each_owner_that_died(
    make_app: Callable[..., Aether], caplog: pytest.LogCaptureFixture
) -> None:
    """A process that takes itself for dead: its rows are taken back, all in one line."""
    from uuid import uuid4

    from aether_bg.model import Claim, Heartbeat

    app = make_app()

    @app.handler("Work")
    async def work() -> None: ...

    gone = uuid4()
    async with app.client() as client:
        for number in range(5):
            await client.enqueue("Work", f"job-{number}")
        store = app.plugins.owners("persistence")[0]
        now = app.options.clock.now()
        beat = Heartbeat(owner=gone, handlers=("Work",), now=now, interval=1, keep_for=1, join=True)
        await store.store_heartbeat(beat)
        await store.store_claim(Claim(owner=gone, now=app.options.clock.now(), limit=10, handlers=("Work",)))
    caplog.clear()
    async with app:
        for number in range(5):
            await app.wait(f"job-{number}", 20)
    told = [record for record in records(caplog, logging.WARNING) if "has died" in record.getMessage()]
    assert [(record.owner, record.jobs) for record in told] == [(str(gone), 5)]
    assert "5 of its jobs taken back" in told[0].getMessage()


async def test_start_is_logged_with_its_parts(app: Aether, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aether_bg")
    app.handler("Work")(lambda: None)
    app.handler("Other")(lambda: None)
    async with app:
        pass
    (record,) = [record for record in caplog.records if record.getMessage().startswith("starting")]
    assert (record.store, record.handlers) == (str(path), ["Other", "Work"])  # type: ignore[attr-defined]
    assert record.levelno == logging.INFO
    for said in (str(path), "Work", "Other", "Timer", "scheduler='timer'"):
        assert said in record.getMessage()


async def test_the_log_of_a_handler(app: Aether, caplog: pytest.LogCaptureFixture) -> None:
    @app.handler("Work")
    async def work(ctx: JobContext) -> None:
        ctx.log.warning("hello", extra={"customer": 7})

    async with app:
        job_id = await app.enqueue("Work", "job")
        await app.wait(job_id, 10)
    (record,) = [record for record in caplog.records if record.getMessage() == "hello"]
    assert record.name == "aether_bg.job.Work"
    assert [getattr(record, field) for field in (*FIELDS, "customer")] == [str(job_id), "job", "Work", 1, 7]


async def test_the_document(app: Aether) -> None:
    """Its formatter writes the fields; its loggers are those of the package."""
    names: dict[str, Any] = {"__name__": "document"}
    snippets(DOCUMENT)[-1].run(names)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(names["JsonFormatter"]())
    logger = logging.getLogger("aether_bg")
    logger.addHandler(handler)
    try:
        app.handler("Fails")(fails)
        async with app:
            await app.wait(await app.enqueue("Fails", "job"), 20)
    finally:
        logger.removeHandler(handler)
    line = json.loads(stream.getvalue().splitlines()[-1])
    assert (line["level"], line["job_name"], line["attempt"]) == ("ERROR", "job", 1)
    assert "ValueError" in line["exception"]
    known = {
        name
        for file in (ROOT / "aether_bg").rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "getLogger(" in line
        for name in line.split('"')[1:2]
    }
    assert {
        row[0].strip("`").replace("<handler>", "{self.job.handler_name}") for row in table(DOCUMENT, "Names")
    } == known
