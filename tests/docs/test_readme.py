"""README.md: its code runs, and its tables are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether

from .snippets import ROOT, snippets

DOCUMENT = "README.md"


def test_code_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    first, *rest = [snippet for snippet in snippets(DOCUMENT) if snippet.words[:1] == ("python",)]
    first.run(names)
    assert capsys.readouterr().out == "Hello, Ada!\nCOMPLETED\n"
    assert len([line for line in first.code.splitlines() if line.strip()]) == 8
    assert len(rest) == 7
    for snippet in rest:
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
