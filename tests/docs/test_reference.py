"""docs/reference.md: its tables are those of the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

import aether_bg
from aether_bg import Aether, Backoff, JobContext, JobInfo
from aether_bg._app.store_view import StoreView
from aether_bg.cli.app import cli

from .snippets import ROOT, table

DOCUMENT = "docs/reference.md"


def test_commands_of_the_shell() -> None:
    (said,) = re.findall(r"^`aether-bg --help`: (.*)\.$", (ROOT / DOCUMENT).read_text(encoding="utf-8"), re.M)
    shown = CliRunner().invoke(cli, ["--help"]).stdout
    assert set(said.split(", ")) == set(re.findall(r"^  (\w+) ", shown.split("Commands:")[1], re.M))


@pytest.mark.parametrize("kind", [JobContext, JobInfo])
def test_fields(kind: type) -> None:
    named = [name for row in table(DOCUMENT, kind.__name__) for name in re.findall(r"`(\w+)`", row[0])]
    there = {field.name for field in attrs.fields(kind) if not field.name.startswith("_")} | {
        name for name, value in vars(kind).items() if isinstance(value, property)
    }
    assert len(set(named)) == len(named)
    assert set(named) <= there
    assert kind is JobInfo or set(named) == there


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


def test_names() -> None:
    errors = {name for name in aether_bg.__all__ if name in aether_bg.errors.__all__} - {"GiveUp", "Snooze"}
    named = [name for row in table(DOCUMENT, "Names") for name in re.findall(r"`(\w+)`", row[0])]
    assert len(set(named)) == len(named)
    assert set(named) == {*aether_bg.__all__, "MemoryStore", "PostgresStore"} - errors


def test_tree_of_errors() -> None:
    tree = re.search(r"^AetherError\n(?:[│├└ ].*\n)+", (aether_bg.errors.__doc__ or "") + "\n", re.M)
    assert tree is not None
    assert tree[0] in (ROOT / DOCUMENT).read_text(encoding="utf-8")
