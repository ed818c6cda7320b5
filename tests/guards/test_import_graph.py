"""No cycles, one caller of hooks, one door: read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import aether_bg

ROOT = Path(aether_bg.__file__).parent


@cache
def modules() -> dict[str, Path]:
    found = {}
    for file in ROOT.rglob("*.py"):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, file: Path, *, typing: bool = False, lazy: bool = True) -> Iterator[str]:
    """Modules that this one imports, at import time and (`lazy`) in functions; `typing`: also for type checkers."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]

    def walk(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                if typing:
                    yield from walk(node.body)
                yield from walk(node.orelse)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody"):
                    yield from walk(getattr(node, field, []) or [])
                for handler in getattr(node, "handlers", []):
                    yield from walk(handler.body)
                for case in getattr(node, "cases", []):
                    yield from walk(case.body)

    yield from walk(parsed(file).body)


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def ours(name: str, **which: bool) -> set[str]:
    """The modules of aether_bg that `name` imports."""
    known = modules()
    return {module for module in imports(name, known[name], **which) if module in known} - {name}


def test_the_reader_of_imports_reads() -> None:
    assert "aether_bg._app.aether" in ours("aether_bg", typing=True)
    assert "aether_bg.model.job" in ours("aether_bg.model")
    assert "aether_bg.schedule._model" in ours("aether_bg.schedule")
    assert len(modules()) > 40


def test_only_the_front_doors_import_the_kernel() -> None:
    """The package; the command line, which is an operator's session on an app, as is the page; and for tests its
    plain functions, which are the app's own, and the registration that a sandbox exchanges."""
    allowed = {
        "aether_bg.testing.plain": {"aether_bg._app.blocking"},
        "aether_bg.testing.foundations": {"aether_bg._app.registration"},
    }
    for name in modules():
        room = name.split(".")[1:2]
        if room not in ([], ["cli"]) and not room[0].startswith("_"):
            bad = {module for module in ours(name, typing=True) if module.startswith("aether_bg._")}
            page = {"aether_bg._app.operator"} if name.startswith("aether_bg.ext.web") else set()
            assert bad <= allowed.get(name, page), f"{name} imports {bad}"


def test_there_is_no_import_cycle() -> None:
    graph = {name: ours(name, lazy=False) - {"aether_bg"} for name in modules() if name != "aether_bg"}
    for name, needs in graph.items():  # a package's __init__ runs before its modules, and may import them
        graph[name] = {need for need in needs if not name.startswith(f"{need}.")}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " imports ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for need in sorted(graph[name]):
                visit(need, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_kernel_says_nothing_of_hooks_but_in_one_place() -> None:
    """The typed façade is the only caller of hooks."""
    for name, file in modules().items():
        if name.startswith("aether_bg") and name != "aether_bg._hooks.calls":
            assert ".hook." not in file.read_text(encoding="utf-8"), name
