"""README.md: its code runs, and its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether

from .snippets import ROOT, snippets

DOCUMENT = "README.md"


def test_code_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    first, *rest = [
        snippet for snippet in snippets(DOCUMENT) if snippet.words[:1] == ("python",) and "not-run" not in snippet.words
    ]
    first.run(names)
    assert capsys.readouterr().out == "Hello, Ada!\nCOMPLETED\n"
    assert len([line for line in first.code.splitlines() if line.strip()]) == 8
    for snippet in rest:
        snippet.run(names)
    assert "COMPLETED" in capsys.readouterr().out


def test_a_plain_handler_enqueues_as_it_says(tmp_path: Path) -> None:
    app, seen = Aether(tmp_path / "jobs.db"), list[str]()

    @app.handler("Next")
    def send_email(text: str) -> None:
        seen.append(text)

    @app.handler("First")
    def first(mail: str) -> None:
        (said,) = re.findall(
            r"a plain one with `(app\.sync\.enqueue)\(…\)`", (ROOT / DOCUMENT).read_text(encoding="utf-8")
        )
        eval(said, {"app": app})(send_email, payload=mail)

    with app.blocking() as jobs:
        jobs.enqueue(first, payload="text")
        jobs.drain()
    assert seen == ["text"]


def test_commands_for_a_clone_exist() -> None:
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
