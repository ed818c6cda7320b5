"""Every connection of the store is closed, also one that is read on while the store closes."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from aether_bg.plugins.sqlite.opened import OpenFile


def test_a_reader_that_is_in_use_at_the_close_is_closed_after_it(tmp_path: Path) -> None:
    file = OpenFile(tmp_path / "jobs.db")
    reading, go, seen = threading.Event(), threading.Event(), list[sqlite3.Connection]()

    def slow(conn: sqlite3.Connection) -> None:
        seen.append(conn)
        reading.set()
        assert go.wait(10)

    thread = threading.Thread(target=file.read, args=(slow,))
    thread.start()
    assert reading.wait(10)
    file.close(5)
    go.set()
    thread.join(10)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        seen[0].execute("SELECT 1")
