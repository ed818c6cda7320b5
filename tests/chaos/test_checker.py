"""The judge itself: each finding it can make is made, and a store without a token guard does not get past it."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from chaos import checker
from chaos.checker import Snapshot, Violation

JOB, NOW = "job-1", "2026-01-01T00:00:00.000000Z"
AT = checker._seconds(NOW)


def row(**how: Any) -> dict[str, Any]:
    return {
        "id": JOB, "job_name": "a", "handler_name": "quick", "status": 2, "due_at": None, "seq": 2, "paused": 0,
        "manual": 0, "started_at": NOW, "crash_count": 0, "last_error": None, **how,
    }  # fmt: skip


def run(token: int = 1, **how: Any) -> dict[str, Any]:
    return {"job_id": JOB, "token": token, "gap": 0, "occurrence": NOW, "outcome": "completed", **how}


def event(kind: str, **how: Any) -> dict[str, Any]:
    given = {"event": kind, "pid": 1, "at": AT, "mono": 1.0, "job": JOB, "token": 1, "due": NOW, "occurrence": NOW}
    if kind == "ack":
        given |= {"name": "a", "not_before": AT}
    if kind == "end":
        given |= {"how": "returned", "mono": 2.0}
    if kind == "ended":
        given |= {"outcome": "completed", "status": "COMPLETED", "due": None}
    return {**given, **how}


GOOD = [event("ack"), event("start"), event("end"), event("ended")]


def judge(events: list[dict[str, Any]], rows: list[dict[str, Any]], runs: list[dict[str, Any]], **how: Any) -> None:
    effects = how.pop("effects", [])
    integrity = how.pop("integrity", [])
    jobs = {row["id"]: row for row in rows}
    checker.check(events, Snapshot(jobs=jobs, runs=runs, effects=effects, integrity=integrity), now=AT + 60, **how)


@pytest.mark.row(0, small=1, full=1)
def test_a_clean_history_passes() -> None:
    judge(GOOD, [row()], [run()], overlaps=False)


CASES: list[tuple[str, list[Any], list[Any], list[Any], dict[str, Any]]] = [
    ("lost", GOOD, [], [], {}),
    ("stuck", GOOD[:3], [row(status=0)], [run(outcome="failed")], {}),
    ("completed 2 times, by the rows", GOOD, [row()], [run(), run(3)], {}),
    ("completed 2 times, by the observers", [*GOOD, event("ended", token=3)], [row()], [run()], {}),
    ("completed 2 times, by the effects", GOOD, [row()], [run()], {"effects": [(JOB, NOW, 1), (JOB, NOW, 1)]}),
    ("terminal state left", GOOD, [row(status=0, due_at="2027-01-01T00:00:00Z")], [run()], {}),
    ("ended twice", [*GOOD, event("ended", token=3, outcome="failed", status="FAILED")], [row()], [run()], {}),
    ("started after its end", [*GOOD, event("start", token=3)], [row()], [run()], {}),
    ("completed without its effect", GOOD, [row(handler_name="effect")], [run()], {}),
    ("effect without Completed", GOOD, [row()], [run()], {"effects": [(JOB, NOW, 3)]}),
    ("no handler started", [GOOD[0], GOOD[3]], [row()], [run()], {}),
    ("did not return", GOOD[:2], [row()], [run()], {}),
    ("told as completed", GOOD, [row()], [], {}),
    ("history and state differ", GOOD[:2], [row(status=1, seq=5)], [run(outcome=None)], {"late": 100}),
    ("early by", [GOOD[0], event("start", at=AT - 1), *GOOD[2:]], [row()], [run()], {}),
    ("early by", [event("ack", not_before=AT + 1), *GOOD[1:]], [row()], [run()], {}),
    ("overdue by", GOOD[:1], [row(status=0, due_at=NOW)], [], {}),
    ("still RUNNING", GOOD[:2], [row(status=1, seq=1)], [run(outcome=None)], {}),
    ("overlap", [*GOOD, event("start", token=3, mono=1.5)], [row()], [run()], {"overlaps": False}),
    ("FAILED after", GOOD[:2], [row(status=3)], [run(outcome="failed")], {}),
    ("integrity_check", GOOD, [row()], [run()], {"integrity": ["page 3 is never used"]}),
]


@pytest.mark.parametrize(("finding", "events", "rows", "runs", "how"), CASES, ids=[case[0] for case in CASES])
def test_it_finds(finding: str, events: Any, rows: Any, runs: Any, how: dict[str, Any]) -> None:
    with pytest.raises(Violation, match=finding):
        judge(events, rows, runs, **how)


def test_a_torn_file_is_no_clean_file(tmp_path: Any) -> None:
    """integrity_check is really asked."""
    path = tmp_path / "torn.db"
    conn = sqlite3.connect(path)
    conn.executescript(
        "CREATE TABLE jobs (id TEXT, n TEXT); CREATE TABLE runs (job_id, token, gap); CREATE INDEX i ON jobs (n);"
        "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 2000) "
        "INSERT INTO jobs SELECT i, i FROM k"
    )
    conn.close()
    data = bytearray(path.read_bytes())
    for page in range(8, len(data) // 4096 - 2):
        data[page * 4096 + 2000 : page * 4096 + 2400] = bytes(400)
    path.write_bytes(data)
    try:
        assert checker.snapshot(path).integrity
    except sqlite3.DatabaseError:
        pass
