"""Rows read many at a time are what they are when read one by one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from aether_bg.model import JobInfo, JobStatus, Unreadable
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS, write_job
from aether_bg.plugins.sqlite.rows import QUARANTINED, read_job, read_jobs

NOW = datetime(2030, 1, 31, 2, 30, tzinfo=UTC)


def a_row(number: int, **columns: Any) -> list[Any]:
    job = JobInfo(
        id=uuid4(), handler_name="Noop", job_name=f"noop-{number}", expression_value="@once", payload={"n": [number]},
        created_at=NOW, modified_at=NOW, anchor=NOW, due_at=NOW, occurrence=NOW, status=JobStatus.RUNNING,
    )  # fmt: skip
    return [columns.get(name, value) for name, value in zip(JOB_COLUMNS, write_job(job), strict=True)]


def compared(rows: list[list[Any]]) -> list[JobInfo]:
    found, alone = read_jobs(json.dumps(rows)), [read_job(row) for row in rows]
    assert [(type(job), vars(job)) for job in found] == [(type(job), vars(job)) for job in alone]
    return found


def test_many_rows_are_read_as_one_is() -> None:
    found = compared([a_row(n) for n in range(100)])
    assert [job.payload for job in found] == [{"n": [n]} for n in range(100)]


@pytest.mark.parametrize(
    "columns",
    [
        {"seq": 1.0}, {"seq": True}, {"seq": "1"}, {"paused": True}, {"paused": 2}, {"misfire_grace": 10},
        {"due_at": "tomorrow"}, {"due_at": None}, {"id": "x"}, {"timezone": 1}, {"payload": 1}, {"payload": "{"},
        {"handled_time": None, "created_at": None}, {"anchor": None, "occurrence": None}, {"created_by": 1},
        {"created_at": 1, "due_at": 1},
        {"owner": "x"}, {"last_error": "it failed"}, {"last_error": f"{QUARANTINED}x"}, {"extra_properties": "[]"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("every", [1, 20], ids=["all", "one"])
def test_an_odd_value_among_many(columns: dict[str, Any], every: int) -> None:
    found = compared([a_row(n, **(columns if n % every == 0 else {})) for n in range(20)])
    assert sum(isinstance(job, Unreadable) for job in found) in (0, 20 // every)


def test_equal_payloads_are_not_shared() -> None:
    """A handler may alter what it is given."""
    found = compared([a_row(n, payload='{"a": []}', extra_properties='{"b": []}') for n in range(20)])
    found[0].payload["a"].append(1)
    assert all(job.payload == {"a": []} for job in found[1:])
    assert len({id(job.extra_properties) for job in found}) == 20
