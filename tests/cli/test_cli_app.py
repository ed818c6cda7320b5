"""`--app MODULE:APP`: commands that meet schedules which only an app's plugins know."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from click.testing import Result

from aether_bg.cli.stores import load_app

Run = Callable[..., Result]

MODULE = """
from aether_bg import Aether, hookimpl, schedule

class Word:
    recurring, timezone, text = True, None, "@fullmoon"
    def __init__(self): self.every = schedule.parse("@every 708h", None)
    def next(self, after, anchor=None): return self.every.next(after, anchor)
    def first(self, anchor): return self.every.first(anchor)
    def upcoming(self, n, after=None, anchor=None): return self.every.upcoming(n, after, anchor)
    def describe(self): return "at full moon"

class Moons:
    @hookimpl
    def schedule_parse(self, text, timezone):
        return Word() if text == "@fullmoon" else None

app = Aether("jobs.db", scheduler="timer", plugins=[Moons()])
app.handler("Howl")(lambda: None)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"moons_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    app = load_app(f"{name}:app")

    async def fill() -> None:
        async with app:
            await app.enqueue("Howl", "howl", schedule="@fullmoon")
            await app.pause("howl")

    anyio.run(fill)
    yield f"{name}:app"
    sys.modules.pop(name, None)


def test_next(run: Run, module: str) -> None:
    assert run("next", "@fullmoon").exit_code == 2
    result = run("next", "@fullmoon", "--app", module, "-n", 2)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "@fullmoon: at full moon"
    assert run("next", "@daily", "--app", module).exit_code == 0


def test_verbs(run: Run, module: str) -> None:
    refused = run("resume", "jobs.db", "howl")
    assert refused.exit_code == 1
    assert "@fullmoon" in refused.stderr
    resumed = run("resume", "jobs.db", "howl", "--app", module, "--json")
    assert (resumed.exit_code, json.loads(resumed.stdout)["changed"]) == (0, True)
    assert run("trigger", "jobs.db", "howl").exit_code == 1
    assert run("trigger", "jobs.db", "howl", "--app", module).exit_code == 0
    assert run("delete", "jobs.db", "howl").exit_code == 0
    assert run("retry", "jobs.db", "howl", "--app", module).exit_code == 0


def test_explain(run: Run, module: str) -> None:
    assert "at full moon" in run("explain", "jobs.db", "howl", "--app", module).stdout
    assert run("explain", "jobs.db", "howl").exit_code == 0


def test_an_app_that_is_not_there(run: Run, module: str) -> None:
    result = run("next", "@daily", "--app", "nowhere:app")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no module 'nowhere'" in result.stderr
