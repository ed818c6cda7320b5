"""One file, open in several ways in one process: what `enqueue` has returned is there after `kill -9`.

docs/protocol.md, W10.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

BESIDE = Path(__file__).with_name("beside.py")
WAYS = [
    "two_apps", "an_app_that_has_ended", "an_app_and_a_client", "the_users_connection", "the_users_connection_alone",
    "the_command_line", "an_app_in_a_handler", "a_copy_of_the_file", "a_copy_of_the_folder", "an_app_of_another_thread",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_acknowledged_survives_a_kill(path: Path, way: str) -> None:
    ran = subprocess.run([sys.executable, BESIDE, way, path], check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    ids = ran.stdout.split()
    assert len(ids) == 10
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        there = {id_ for (id_,) in conn.execute("SELECT id FROM aether_jobs")}
    assert set(ids) <= there
