"""Names, zones, numbers and error texts at and beyond their limits."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from aether_bg import Aether, InvalidName, InvalidOption, InvalidSchedule, JobStatus, RunOutcome

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

INVISIBLE = [
    "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u034f", "\u061c", "\u115f", "\u1160", "\u17b4",
    "\u180b", "\u180e", "\u2064", "\u2066", "\u206a", "\u3164", "\ufe0f", "\uffa0", "\ufff9", "\U0001bca0",
    "\U0001d173", "\U000e0001", "\U000e0041", "\U000e007f", "\U000e0100",
]  # fmt: skip


def handle() -> None: ...


async def test_an_invisible_character_in_a_name_is_refused_by_its_number(app: Aether) -> None:
    app.handler("Ok")(handle)
    for character in INVISIBLE:
        with pytest.raises(InvalidName, match=f"U\\+{ord(character):04X}"):
            app.handler(f"Ok{character}")(handle)
    async with app:
        for character in INVISIBLE:
            with pytest.raises(InvalidName, match=f"U\\+{ord(character):04X}") as caught:
                await app.enqueue("Ok", f"pay{character}ment")
            assert str(caught.value).isprintable()
        assert await app.store.find() == []


def test_every_format_character_is_refused(app: Aether) -> None:
    for code in range(0x110000):
        if unicodedata.category(chr(code)) == "Cf":
            with pytest.raises(InvalidName):
                app.handler(f"a{chr(code)}b")


async def test_names_that_people_can_read_are_fine(app: Aether) -> None:
    names = ["日本語", "naïve-café", "Größe 3", "ज", "😀", "a" * 200]
    for name in names:
        app.handler(name)(handle)
    async with app:
        for name in names:
            await app.enqueue(name, name, schedule="@daily")
            assert await app.store.get_by_job_name(name) is not None


@pytest.mark.parametrize("zone", ["a/" * 100_000 + "a", "a" * 1_000_000, "/" * 100_000, "Europe/Berlin\0" * 1000])
async def test_an_enormous_zone_is_a_short_clear_error(app: Aether, zone: str) -> None:
    app.handler("Ok")(handle)
    async with app:
        for arguments in ({"schedule": "@daily", "timezone": zone}, {"schedule": f"CRON_TZ={zone} 0 0 * * *"}):
            with pytest.raises(InvalidSchedule) as caught:
                await app.enqueue("Ok", **arguments)
            assert len(str(caught.value)) < 500


LARGE_NUMBERS: dict[str, Callable[[Aether], Any]] = {
    "find(limit)": lambda app: app.store.find(limit=2**70),
    "history(limit)": lambda app: app.store.history(app_id(), limit=2**63),
    "get_active(limit)": lambda app: app.store.get_active(limit=2**64),
    "purge(keep)": lambda app: app.store.purge(keep=2**70),
    "purge(older_than)": lambda app: app.store.purge(older_than=timedelta.max),
    "repeats": lambda app: app.enqueue("Ok", schedule="@daily", repeats=2**70),
    "misfire_grace": lambda app: app.enqueue("Ok", schedule="@daily", misfire_grace=1e300),
    "misfire_grace as int": lambda app: app.enqueue("Ok", schedule="@daily", misfire_grace=10**400),
}


def app_id() -> Any:
    from uuid import UUID

    return UUID(int=1)


async def test_a_number_beyond_every_column_is_a_clear_error(app: Aether) -> None:
    app.handler("Ok")(handle)
    async with app:
        for what, act in LARGE_NUMBERS.items():
            with pytest.raises(InvalidOption, match="must be at most") as caught:
                await act(app)
            assert len(str(caught.value)) < 500, what


@pytest.mark.parametrize("option", ["concurrency", "grace", "lease", "max_payload"])
def test_an_enormous_setting_is_refused(option: str) -> None:
    with pytest.raises(InvalidOption, match="at most"):
        Aether("jobs.db", **{option: 2**70})


TEXTS = {"ascii": "x" * 100_000, "wide": "😀" * 100_000, "surrogates": "\udcff" * 100_000, "mixed": "aé日😀" * 30_000}
LIMIT = 8 * 1024


@pytest.fixture
def no_logs() -> Iterator[None]:
    """Where exceptions are logged as they are, and reports cannot carry lone surrogates."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_logs")
@pytest.mark.parametrize("text", TEXTS)
async def test_every_stored_error_keeps_at_most_8_kib(app: Aether, text: str) -> None:
    @app.handler("Fails")
    async def fails() -> None:
        raise ValueError(TEXTS[text])

    @app.handler("Closes")
    async def closes(*, tool: Tool) -> None: ...

    app.provide(Tool, broken_tool(TEXTS[text]))
    async with app:
        for handler in ("Fails", "Closes"):
            job = await app.wait(await app.enqueue(handler), 10)
            (run,) = await app.store.history(job.id)
            assert run.error is not None
            assert 1000 < len(run.error.encode()) <= LIMIT
            assert len((job.last_error or "").encode()) <= LIMIT
        waiting = await app.enqueue("Fails", schedule="@daily")
        await app.store.update_status(waiting, JobStatus.FAILED, error=TEXTS[text])
        moved = await app.store.get(waiting)
        assert moved is not None
        assert moved.last_error is not None
        assert 1000 < len(moved.last_error.encode()) <= LIMIT
        assert run.outcome is RunOutcome.COMPLETED


class Tool: ...


def broken_tool(text: str) -> Any:
    async def make() -> Any:
        yield Tool()
        raise ValueError(text)

    return make
