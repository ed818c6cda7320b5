"""The commands on a store of another kind: they read through its hooks, and say what it lacks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from click.testing import Result

from aether_bg import Aether
from aether_bg.cli import stores
from aether_bg.plugins.memory import MemoryStore

Run = Callable[..., Result]


class Inspection:
    """Reads a MemoryStore; only an app may open that."""

    def __init__(self, store: MemoryStore) -> None:
        self.store_find, self.store_history, self.store_stats = (
            store.store_find, store.store_history, store.store_stats,
        )  # fmt: skip
        self.store_runs, self.store_failures = store.store_runs, store.store_failures

    async def processes(self) -> list[Any]:
        return []


class Inspectable(MemoryStore):
    @asynccontextmanager
    async def inspect(self) -> AsyncIterator[Inspection]:
        yield Inspection(self)


@pytest.fixture
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store: MemoryStore = request.param()

    async def fill() -> None:
        async with Aether(store, scheduler="timer").client() as jobs:
            await jobs.enqueue("Backup", "nightly", schedule="@daily")

    anyio.run(fill)
    monkeypatch.setattr(stores, "store_of", lambda database: store)
    return store


@pytest.mark.parametrize("kind", [Inspectable], indirect=True)
@pytest.mark.usefixtures("kind")
def test_commands_read_through_the_hooks_of_the_store(run: Run) -> None:
    assert json.loads(run("list", "other://", "--json").stdout)["job_name"] == "nightly"
    assert json.loads(run("show", "other://", "nightly", "--json").stdout)["handler_name"] == "Backup"
    assert run("history", "other://", "nightly").exit_code == 0
    assert json.loads(run("stats", "other://", "--json").stdout)["scheduled"] == 1
    assert json.loads(run("explain", "other://", "nightly", "--json").stdout)["waiting_for"] == "time"


@pytest.mark.parametrize("kind", [MemoryStore], indirect=True)
@pytest.mark.usefixtures("kind")
def test_a_missing_ability_of_a_store_is_reported(run: Run) -> None:
    check, listing = run("check", "other://"), run("list", "other://")
    assert (check.exit_code, listing.exit_code) == (1, 1)
    assert "this store has no check" in check.stderr
    assert "this store can only be read by an app" in listing.stderr


def test_a_url_that_no_store_reads(run: Run) -> None:
    result = run("list", "redis://user:secret@localhost/jobs")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a URL whose scheme has a store" in result.stderr
    assert "secret" not in result.stderr
