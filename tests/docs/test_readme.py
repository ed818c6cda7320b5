"""README.md: its code runs, and its tables are those of the code."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import aether_bg
from aether_bg import Aether, Backoff, JobContext, JobInfo
from aether_bg._app.store_view import StoreView

from .snippets import ROOT, Snippet, snippets, table

DOCUMENT = "README.md"


async def run_awaiting(snippet: Snippet, names: dict[str, Any]) -> None:
    code = compile(
        "\n" * snippet.line + snippet.code, str(ROOT / DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    async with names["app"]:
        await types.FunctionType(code, names)()


def test_code_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    first, *rest = [snippet for snippet in snippets(DOCUMENT) if snippet.words[:1] == ("python",)]
    first.run(names)
    assert capsys.readouterr().out == "Hello, Ada!\nCOMPLETED\n"
    assert len([line for line in first.code.splitlines() if line.strip()]) == 8
    assert len(rest) == 8
    for snippet in rest:
        if snippet.words == ("python", "await"):
            anyio.run(run_awaiting, snippet, names)
        else:
            snippet.run(names)
    anyio.run(names["test_a_reminder"])
    assert "COMPLETED" in capsys.readouterr().out


def test_the_test_that_is_shown_runs_under_pytest_on_both_loops(tmp_path: Path) -> None:
    """Pasted into a file, with nothing but the blocks it refers to."""
    blocks = {snippet.section: snippet.code for snippet in reversed(snippets(DOCUMENT, "python"))}
    lines = [
        "from datetime import timedelta", "from aether_bg import Aether", 'app = Aether("jobs.db")', blocks["Handlers"],
        'mail = SendEmail("ada@example.org", "Your order")', blocks["Testing your jobs"],
    ]  # fmt: skip
    (tmp_path / "test_pasted.py").write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-v", "-W", "error", "-p", "no:cacheprovider", "test_pasted.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    for backend in ("asyncio", "trio"):
        assert f"test_a_reminder[{backend}] PASSED" in done.stdout


def test_a_plain_handler_enqueues_as_it_says(tmp_path: Path) -> None:
    app, seen = Aether(tmp_path / "jobs.db"), list[str]()

    @app.handler("Next")
    def send_email(text: str) -> None:
        seen.append(text)

    @app.handler("First")
    def first(mail: str) -> None:
        (said,) = re.findall(r"`(app\.sync\.enqueue)\(…\)`, and so", (ROOT / DOCUMENT).read_text(encoding="utf-8"))
        eval(said, {"app": app})(send_email, payload=mail)

    with app.blocking() as jobs:
        jobs.enqueue(first, payload="text")
        jobs.drain()
    assert seen == ["text"]


def test_commands_of_the_shell() -> None:
    (said,) = re.findall(r"^`aether-bg --help`: (.*)\.$", (ROOT / DOCUMENT).read_text(encoding="utf-8"), re.M)
    command = [sys.executable, "-m", "aether_bg.cli", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert set(said.split(", ")) == set(re.findall(r"^  (\w+) ", shown.split("Commands:")[1], re.M))


@pytest.mark.parametrize("kind", [JobContext, JobInfo])
def test_fields(kind: type) -> None:
    named = [name for row in table(DOCUMENT, kind.__name__) for name in re.findall(r"`(\w+)`", row[0])]
    there = {field.name for field in attrs.fields(kind)} | {
        name for name, value in vars(kind).items() if isinstance(value, property)
    }
    assert len(set(named)) == len(named)
    assert set(named) <= there
    assert kind is JobInfo or set(named) == there


def test_commands_name_what_is_there() -> None:
    commands = "\n".join(snippet.code for snippet in snippets(DOCUMENT, "sh"))
    (script,) = re.findall(r"(\S+\.py)", commands)
    assert (ROOT / script).exists()
    assert len(commands.splitlines()) == 2


def test_links_inside_lead_somewhere() -> None:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def options(of: Callable[..., Any], *without: str) -> dict[str, Any]:
    given = inspect.signature(of).parameters.values()
    return {
        p.name: p.default for p in given if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in without
    }


def documented(heading: str) -> dict[str, Any]:
    return {
        name.strip("`"): eval(default.strip("`"), vars(aether_bg).copy())
        for name, default, _ in table(DOCUMENT, heading)
    }


def test_options_of_aether() -> None:
    assert documented("Aether") == options(Aether.__init__, "self")


def test_options_of_handler() -> None:
    assert documented("Handler") == options(Aether.handler, "self", "name") | {"backoff": Backoff()}


def test_options_of_enqueue() -> None:
    assert documented("Enqueue") == options(Aether.enqueue, "self", "handler")


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_verbs() -> None:
    assert {row[0].strip("`") for row in table(DOCUMENT, "Verbs")} == public(Aether)


def test_queries() -> None:
    assert {row[0].strip("`") for row in table(DOCUMENT, "Store")} == public(StoreView)
