"""`Aether("scheme://…")`: stores that other packages announce."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, InvalidOption
from aether_bg.plugins.memory import MemoryStore


class Announced(MemoryStore):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url


def test_a_scheme_that_a_package_announces(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("memory", f"{__name__}:Announced", "aether_bg.stores")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "aether_bg.stores" else [])
    (store,) = Aether("memory://here", scheduler="timer").plugins.owners("persistence")
    assert type(store).__name__ == "Announced"
    assert store.url == "memory://here"


@pytest.mark.parametrize("url", ["postgresql://user:secret@host/jobs", "postgres://host"])
@pytest.mark.parametrize("announced", [True, False])
def test_the_missing_extra_is_named(url: str, announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not announced:
        monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    for name in [name for name in sys.modules if name.startswith(("psycopg", "aether_bg.plugins.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidOption, match=r"pip install 'aether-bg\[postgres\]'") as raised:
        Aether(url, scheduler="timer")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["nothing://host", "x" * 500 + "://host", "mysql+aio://\x1b[31m"])
def test_an_unknown_scheme(url: str) -> None:
    with pytest.raises(InvalidOption, match="a URL whose scheme has a store") as raised:
        Aether(url, scheduler="timer")
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_paths_are_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "jobs.db", str(tmp_path / "jobs.db"), ":memory:"):
        app: Any = Aether(path, scheduler="timer")
        assert type(app.plugins.owners("persistence")[0]).__name__ == "SQLiteStore"
