"""Calls as other libraries have them: each is refused, and the message says what to write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from aether_bg import Aether, InvalidOption, InvalidPayload, InvalidSchedule, UsageError
from aether_bg.schedule import parse

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]


@pytest.fixture
def work(app: Aether) -> Any:
    app.handler("Work")(lambda args=None: None)
    return app


async def _awaited(block: Any) -> None:
    await block


async def _async_with(block: Any) -> None:
    async with block:
        raise AssertionError("it must not begin")


def _with(block: Any) -> None:
    with block:
        raise AssertionError("it must not begin")


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (lambda app: app, "`async with app:`"),
        (lambda app: app.client(), "`async with app.client() as jobs:`"),
        (lambda app: app.unit_of_work(), "`async with app.unit_of_work() as uow:`"),
        (lambda app: app.sync, "app.sync.enqueue"),
    ],
)
async def test_with_for_async_with(work: Any, make: Callable[[Any], Any], write: str) -> None:
    async with work if make(work) is not work else work.client():
        with pytest.raises(UsageError) as caught:
            _with(make(work))
    assert write in str(caught.value)


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (lambda app: app.blocking(), "`with app.blocking() as jobs:`"),
        (lambda app: app.blocking(client=True), "`with app.blocking() as jobs:`"),
        (lambda app: app.sync, "app.sync.enqueue"),
        (lambda app: app.sync.unit_of_work(), "`with jobs.unit_of_work() as uow:`"),
    ],
)
async def test_async_with_for_with(work: Any, make: Callable[[Any], Any], write: str) -> None:
    async with work:
        with pytest.raises(UsageError) as caught:
            await _async_with(make(work))
    assert write in str(caught.value)


@pytest.mark.parametrize("make", [lambda app: app.client(), lambda app: app.blocking(), lambda app: app.unit_of_work()])
async def test_a_block_that_is_never_entered(work: Any, make: Callable[[Any], Any]) -> None:
    block = make(work)
    with pytest.raises(UsageError, match="with"):
        block.enqueue("Work")
    with pytest.raises(UsageError, match="with"):
        await _awaited(block)
    assert not hasattr(block, "no_verb_of_that_name")


@pytest.mark.parametrize(
    ("option", "write"),
    [
        ("delay", "schedule=timedelta("), ("countdown", "schedule=timedelta("), ("run_at", "an aware datetime"),
        ("eta", "an aware datetime"), ("cron", "schedule="), ("every", "@every"), ("interval", "@every"),
        ("tz", "timezone="), ("name", "job_name="), ("args", "payload="), ("kwargs", "payload="),
        ("max_retries", "@app.handler(…, retries="), ("retries", "@app.handler(…, retries="),
        ("timeout", "@app.handler(…, timeout="), ("replace_existing", "if_exists="), ("expires", "until="),
        ("coalesce", 'misfire="skip"'), ("misfire_grace_time", "misfire_grace="),
        ("metdata", "'metadata'"),
    ],
)  # fmt: skip
async def test_options_of_other_libraries(work: Any, option: str, write: str) -> None:
    with pytest.raises(InvalidOption) as declared:
        work.declare("Work", "job", **{option: 5})
    assert write in str(declared.value) or option == "metdata"
    async with work:
        with pytest.raises(InvalidOption) as caught:
            await work.enqueue("Work", **{option: 5})
        assert write in str(caught.value) or option == "metdata"
        assert (await work.store.stats()).total == 0


async def test_a_payload_in_the_place_of_the_name(work: Any) -> None:
    @work.handler("Greet")
    async def greet(name: str) -> None: ...

    async with work:
        with pytest.raises(InvalidPayload, match=r"Pass payload=…; what comes second .* is the job's name"):
            await work.enqueue(greet, "Ada")


def test_options_of_a_handler(work: Any) -> None:
    for option, write in (
        ("cron", "schedule="), ("max_retries", "Write retries="), ("time_limit", "Write timeout="),
        ("timezone", '"CRON_TZ=Europe/Berlin '), ("tz", '"CRON_TZ=Europe/Berlin '), ("repeats", "app.declare("),
        ("misfire", "app.declare("), ("coalesce", "app.declare("), ("payload", "app.declare("),
    ):  # fmt: skip
        with pytest.raises(InvalidOption) as caught:
            work.handler("Other", **{option: 5})
        assert write in str(caught.value)


@pytest.mark.parametrize(
    ("text", "write"),
    [
        ("2030-01-31T02:30:00Z", 'datetime.fromisoformat("2030-01-31T02:30:00+00:00")'),
        ("2030-01-31T02:30:00+02:00", 'datetime.fromisoformat("2030-01-31T02:30:00+02:00")'),
        ("2030-01-31 02:30", "datetime.fromisoformat("), ("2030-01-31", "datetime.fromisoformat("),
        ("PT5M", "timedelta("), ("P1D", "timedelta("),
        ("TZ=Europe/Berlin 0 3 * * *", "CRON_TZ=Europe/Berlin 0 3 * * *"),
        ("cron_tz=Europe/Berlin 0 3 * * *", "CRON_TZ=Europe/Berlin 0 3 * * *"), ("TZ=UTC", "CRON_TZ=UTC"),
        ("daily", "@daily"), ("Hourly", "@hourly"), ("once", "@once"), ("5m", "@every 5m"),
        ("10 minutes", "@every 10m"),
        ("every 2 hours", "@every 2h"),
    ],
)  # fmt: skip
async def test_schedules_written_in_another_way(work: Any, text: str, write: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        parse(text)
    assert write in str(caught.value)
    async with work:
        with pytest.raises(InvalidSchedule):
            await work.enqueue("Work", schedule=text)


def test_what_is_written_instead_is_read() -> None:
    for text in ("CRON_TZ=Europe/Berlin 0 3 * * *", "@daily", "@every 5m"):
        parse(text)
    parse(datetime.fromisoformat("2130-01-31T02:30:00+00:00").astimezone(UTC))
