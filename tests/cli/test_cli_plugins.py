"""`plugins`: each hook, who implements it, in the order in which it counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

MODULE = """
import contextlib
from aether_bg import Aether, hookimpl

print("imported")

class First:
    @hookimpl
    def schedule_parse(self, text, timezone): ...
    @hookimpl
    def dispatch_wrap(self, ctx): ...
    @hookimpl
    def dispatch_runner(self, handler): ...
    @hookimpl
    async def lifecycle_start(self, stack): ...

class Second(First):
    @hookimpl
    async def lifecycle_event(self, event): ...

app = Aether(":memory:", scheduler="timer", plugins=[First(), Second()])
app.handler("B")(lambda: None)
app.handler("A")(lambda: None)
number = 7

class nested:
    app = app
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"jobs_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def test_who_implements_what_in_which_order(run: Run, module: str) -> None:
    result = run("plugins", f"{module}:app", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)  # what the module prints is not among it
    assert list(told) == ["plugins", "handlers", "hooks"]
    assert told["handlers"] == ["A", "B"]
    hooks = {hook["hook"]: hook for hook in told["hooks"]}
    assert len(hooks) == 20
    first, second = f"{module}.First", f"{module}.Second"
    inprocess, sqlite = "aether_bg.plugins.inprocess.InProcess", "aether_bg.plugins.sqlite.SQLiteStore"
    assert hooks["schedule_run"] == {
        "hook": "schedule_run", "layer": "scheduling", "shape": "owned",
        "plugins": ["aether_bg.plugins.timer.Timer"],
    }  # fmt: skip
    assert hooks["schedule_parse"]["plugins"] == [second, first]  # of a policy the last registered is asked first
    assert hooks["dispatch_runner"]["plugins"] == [second, first, inprocess]
    assert hooks["dispatch_wrap"]["plugins"] == [first, second]  # the first registered is outermost
    assert hooks["lifecycle_start"]["plugins"] == [sqlite, first, second]
    assert hooks["lifecycle_event"]["plugins"] == [second]
    assert hooks["dispatch_codec"]["plugins"] == []
    assert {hook["shape"] for hook in hooks.values()} == {"owned", "policy", "collect", "wrap", "start", "observe"}


def test_for_people(run: Run, module: str) -> None:
    header, *rows = run("plugins", f"{module}:nested.app").stdout.splitlines()
    assert header.split() == ["HOOK", "LAYER", "SHAPE", "PLUGINS"]
    assert len(rows) == 20
    wraps = next(row for row in rows if row.startswith("dispatch_wrap"))
    assert wraps.split() == ["dispatch_wrap", "dispatch", "wrap", f"{module}.First", ">", f"{module}.Second"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{module}", "is not MODULE:APP"),
        (":app", "is not MODULE:APP"),
        ("{module}:", "is not MODULE:APP"),
        ("{module}:ap", "Did you mean {module}:app?"),
        ("{module}:number", "it is a int, not an Aether"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("..up:app", "raised"),
    ],
)
def test_what_leads_nowhere(run: Run, module: str, text: str, said: str) -> None:
    result = run("plugins", text.format(module=module))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said.format(module=module) in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("1/0", 2, "raised ZeroDivisionError: division by zero"),
        ("raise SystemExit('bye')", 2, "raised SystemExit: bye"),
        ("raise RuntimeError('a\\x1b\\nb')", 2, "raised RuntimeError: a\\x1b b"),
        ("Aether(':memory:', plugins=[First])", 1, "it is a class, not an object"),
    ],
)
def test_a_module_that_fails(run: Run, module: str, line: str, code: int, said: str) -> None:
    Path(f"{module}.py").write_text(f"{MODULE}\n{line}\n")
    result = run("plugins", f"{module}:app")
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[:-1] == ["imported"]
