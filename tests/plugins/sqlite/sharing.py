"""A process that opens one file in several ways, acknowledges jobs and is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

BESIDE = Path(__file__).with_name("beside.py")


def acknowledged_jobs_survive(path: Path, way: str) -> None:
    ran = subprocess.run([sys.executable, BESIDE, way, path], check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    ids = ran.stdout.split()
    assert len(ids) == 10
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        there = {id_ for (id_,) in conn.execute("SELECT id FROM aether_jobs")}
    assert set(ids) <= there
