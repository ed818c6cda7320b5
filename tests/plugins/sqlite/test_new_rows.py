"""New jobs are written with the columns in which they differ; what is stored is the same as in full."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest

from aether_bg.model import JobInfo
from aether_bg.model.filled import id_text
from aether_bg.plugins._first import is_new
from aether_bg.plugins.sqlite import schema
from aether_bg.plugins.sqlite.changes import insert_jobs
from aether_bg.plugins.sqlite.columns import JOB_COLUMNS, NEW_COLUMNS, to_time, to_uuid, write_job, write_new

NOW = datetime(2030, 1, 31, 2, 30, tzinfo=UTC)
LATER = NOW + timedelta(microseconds=1)


def a_job(**options: Any) -> JobInfo:
    id_ = uuid4()
    given = {
        "id": id_, "handler_name": "Noop", "job_name": f"Noop-{id_}", "expression_value": "@once", "created_at": NOW,
        "modified_at": NOW, "anchor": NOW, "due_at": NOW, "occurrence": NOW,
    }  # fmt: skip
    return JobInfo(**given | options)


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"payload": {"it's": None}, "extra_properties": {"a": [1]}, "priority": -3},
    {"payload": 1},
    {"payload": 1.0},
    {"payload": True},
    {"due_at": LATER, "occurrence": LATER},
    {"due_at": LATER},
    {"occurrence": LATER},
    {"modified_at": LATER},
    {"anchor": LATER},
    {"due_at": None, "occurrence": None},
    {"created_at": NOW + timedelta(0), "created_by": "it's me", "modified_by": "me"},
    {"expression_value": "0 12 * * *", "job_name": "noon"},
]


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as conn:
        schema.migrate(conn, tmp_path)
        yield conn


def stored(conn: sqlite3.Connection, job: JobInfo) -> list[Any]:
    return list(
        conn.execute(f"SELECT {', '.join(JOB_COLUMNS)} FROM aether_jobs WHERE id = ?", [str(job.id)]).fetchone()
    )


@pytest.mark.parametrize("options", DIFFERENT, ids=str)
def test_a_new_row_has_all_columns_as_in_full(conn: sqlite3.Connection, options: dict[str, Any]) -> None:
    job = a_job(**options)
    assert is_new(job)
    assert (
        dict(zip(NEW_COLUMNS, write_new(job), strict=True)).items()
        <= dict(zip(JOB_COLUMNS, write_job(job), strict=True)).items()
    )
    insert_jobs(conn, [job])
    assert stored(conn, job) == write_job(job)
    assert list(map(type, stored(conn, job))) == list(map(type, write_job(job)))


@pytest.mark.parametrize("more", [{}, {"repeats": 3}], ids=["new", "with one that is not"])
def test_many_rows_together_are_what_each_is(conn: sqlite3.Connection, more: dict[str, Any]) -> None:
    jobs = [a_job(**options) for options in (*DIFFERENT, more)]
    insert_jobs(conn, jobs)
    assert [stored(conn, job) for job in jobs] == [write_job(job) for job in jobs]


@pytest.mark.parametrize("column", sorted(set(JOB_COLUMNS) - set(NEW_COLUMNS)))
def test_a_row_that_differs_elsewhere_is_written_in_full(column: str) -> None:
    now = getattr(a_job(), column)
    other = {type(None): "x", bool: not now, int: 7, float: 7.0, str: "x"}.get(type(now), 1)
    assert not is_new(attrs.evolve(a_job(), **{column: other}))


@pytest.mark.parametrize("number", [0, 1, (1 << 128) - 1, 0x0123456789ABCDEF0123456789ABCDEF])
def test_ids_are_written_as_python_writes_them(number: int) -> None:
    id_ = UUID(int=number)
    assert id_text(id_) == id_text(UUID(int=number)) == str(id_)
    assert to_uuid(str(id_)) == id_


def test_the_texts_of_many_ids_stay_right() -> None:
    ids = [uuid4() for _ in range(5000)]
    assert [id_text(id_) for id_ in ids * 2] == [str(id_) for id_ in ids * 2]


@pytest.mark.parametrize(
    "when",
    [NOW, LATER, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), NOW.replace(microsecond=999_000)],
    ids=str,
)
def test_instants_are_written_in_iso_8601(when: datetime) -> None:
    assert to_time(when) == when.isoformat(timespec="microseconds").replace("+00:00", "Z")
