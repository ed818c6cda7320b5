"""`show --follow`: progress of a job that another process, or this one, runs."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, JobContext

EVIL = "no\x1b[31m"


@pytest.fixture
def slow(tmp_path: Path) -> Aether:
    app = Aether(tmp_path / "jobs.db", scheduler="timer", grace=1)

    @app.handler("Slow")
    def slow(ctx: JobContext) -> None:
        for n in range(4):
            ctx.progress(n, 3, EVIL)
            ctx.checkpoint({"row": n})
            time.sleep(0.7)

    return app


def test_follow_prints_progress_until_the_end(run: Any, slow: Aether, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with slow.blocking() as jobs:
        jobs.enqueue("Slow", "slow")
        while not (row := jobs.store.get_by_job_name("slow")) or not row.checkpoint:
            time.sleep(0.05)
        assert '"row": ' in run("show", path, "slow").stdout
        said: list[str] = []
        others = threading.Thread(target=lambda: said.append(run("show", path, "slow", "--follow").stdout))
        others.start()
        others.join(20)
        followed = said[0]
        assert "of 3 (" in followed.splitlines()[0]
        assert "\x1b" not in followed
        assert "status:" in followed
        assert "COMPLETED" in followed
        assert "(100 %)" in followed
        again = run("show", path, "slow", "--follow", "--json").stdout
    (row_,) = map(json.loads, again.splitlines())
    assert row_["progress"]["done"] == 3
    assert row_["checkpoint"] is None


def test_follow_reports_a_missing_job(run: Any, db: Path) -> None:
    assert "there is no job" in run("show", db, "nope", "--follow").stderr
    assert re.search(r"^status: +COMPLETED$", run("show", db, "ok-0", "--follow").stdout, re.MULTILINE)
