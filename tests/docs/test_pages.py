"""Every page under docs/: its code runs in order, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .snippets import ROOT, snippets

pytest_plugins = "pytester"
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture
def run_pytest(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """`run_pytest(*arguments)`: what it says of tests that pass, for the pages; in `tmp_path`."""

    def run(*arguments: str) -> str:
        pytester: pytest.Pytester = request.getfixturevalue("pytester")
        with pytest.MonkeyPatch.context() as there:
            there.chdir(tmp_path)
            done = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
        assert done.ret == 0, done.stdout.str()
        return done.stdout.str()

    return run


@pytest.mark.parametrize("page", PAGES)
def test_code_runs_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_pytest: Callable[..., str]
) -> None:
    """`python FILE` is written to that file instead, `python not-run` is only compiled."""
    if page.endswith("/postgres.md"):
        pytest.importorskip("psycopg", reason="PostgreSQL needs the extra: pip install 'aether-bg[postgres]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    names: dict[str, Any] = {"__name__": Path(page).stem.replace("-", "_"), "run_pytest": run_pytest}
    for snippet in snippets(page):
        if snippet.words[:1] != ("python",):
            continue
        if "not-run" in snippet.words:
            compile(snippet.code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif snippet.words[1:] and snippet.words[1].endswith(".py"):
            (tmp_path / snippet.words[1]).write_text(snippet.code, encoding="utf-8")
            monkeypatch.delitem(sys.modules, snippet.words[1].removesuffix(".py"), raising=False)
        else:
            snippet.run(names)
    for module in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


@pytest.mark.parametrize("page", [*PAGES, "README.md", "CONTRIBUTING.md", "SECURITY.md", "hookspecs.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page}: {link}"
