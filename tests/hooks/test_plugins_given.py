"""Plugins from entry points, from modules, and defaults that fill only layers without an owner."""

from __future__ import annotations

import importlib.metadata
import types
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, InvalidOption, SQLiteStore, UnknownHook, hookimpl
from aether_bg.model import HandlerInfo
from aether_bg.plugins.timer import Timer


@pytest.fixture
def build(path: Path) -> Any:
    def build(*plugins: Any, **options: Any) -> Aether:
        return Aether(path, **{"scheduler": "timer", "plugins": plugins} | options)

    return build


def test_defaults_fill_only_layers_without_an_owner(path: Path) -> None:
    timer, store = Timer(), SQLiteStore(path)
    app = Aether(plugins=[store, timer])
    assert app.plugins.owners("scheduling") == [timer]
    assert app.plugins.owners("persistence") == [store]
    with pytest.raises(InvalidOption, match=r"needs a store.*:memory:"):
        Aether(scheduler="timer")
    with pytest.raises(InvalidOption, match=r"plugins must be a list of plugins, got 'Timer'"):
        Aether(path, plugins="Timer")  # type: ignore[arg-type]


def test_modules_and_specnames(build: Any) -> None:
    module = types.ModuleType("my_plugin")

    @hookimpl
    async def lifecycle_event(event: Any) -> None: ...

    @hookimpl
    def wrong(handler: HandlerInfo) -> None: ...

    module.lifecycle_event = lifecycle_event  # type: ignore[attr-defined]
    build(module)
    module.wrong = wrong  # type: ignore[attr-defined]
    with pytest.raises(UnknownHook, match=r"my_plugin\.wrong"):
        build(module)

    class Named:
        @hookimpl(specname="dispatch_runner")
        def choose(self, handler: HandlerInfo) -> None: ...

    build(Named())


def test_entry_points_only_on_request(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Announced:
        @hookimpl
        async def lifecycle_event(self, event: Any) -> None: ...

    class Point:
        def load(self) -> Any:
            loaded.append(1)
            return Announced

    asked = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **which: asked.append(which) or [Point()])
    build()
    assert (asked, loaded) == ([], [])
    app = build(entry_points=True)
    assert asked == [{"group": "aether_bg"}]
    assert any(isinstance(plugin, Announced) for plugin in app.plugins.all)
    with pytest.raises(InvalidOption, match="entry_points"):
        build(entry_points="yes")
