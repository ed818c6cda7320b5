"""A file is looked at while another process creates the tables in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aether_bg.plugins.sqlite import schema


@pytest.mark.parametrize("first", ["tables", "look"])
def test_tables_that_appear_during_the_look_are_ours(path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    applied: Callable[[Any], list[str]] = schema.applied

    def create() -> None:
        with closing(sqlite3.connect(path)) as other:
            schema.migrate(other, path)

    def meanwhile(conn: sqlite3.Connection) -> list[str]:
        monkeypatch.setattr(schema, "applied", applied)
        if first == "tables":
            create()
        steps = applied(conn)
        if first == "look":
            create()
        return steps

    monkeypatch.setattr(schema, "applied", meanwhile)
    with closing(sqlite3.connect(path)) as conn:
        schema.check(conn, path)
        assert applied(conn) == list(schema.STEPS)
