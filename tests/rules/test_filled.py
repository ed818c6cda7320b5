"""`filled` skips `__init__`: what it makes must be what `__init__` makes, with no field left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import attrs
import pytest

from aether_bg._app.kinds import _FRESH
from aether_bg._rules.changes import Moment, attempt_run, change
from aether_bg.model import Change, JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.model.filled import filled
from aether_bg.plugins.sqlite.columns import write_job, write_run
from aether_bg.plugins.sqlite.rows import read_job, read_run

NOW = datetime(2030, 1, 31, 2, 30, tzinfo=UTC)
JOB = JobInfo(
    id=uuid4(), handler_name="Noop", job_name="noop", expression_value="@once", created_at=NOW, modified_at=NOW,
    anchor=NOW, due_at=NOW, occurrence=NOW, status=JobStatus.RUNNING, owner=uuid4(), started_at=NOW, seq=1, attempt=1,
)  # fmt: skip
RUN = attempt_run(JOB, RunOutcome.COMPLETED, NOW)


@pytest.mark.parametrize("cls", [JobInfo, JobRun, Change])
def test_nothing_is_done_for_a_field_but_setting_it(cls: type[Any]) -> None:
    assert "__slots__" not in vars(cls)
    assert not hasattr(cls, "__attrs_post_init__")
    assert all(field.validator is None and field.converter is None for field in attrs.fields(cls))


@pytest.mark.parametrize("made", [JOB, RUN, change(JOB, Moment(NOW, None))], ids=lambda made: type(made).__name__)
def test_it_is_the_same_as_by_init(made: Any) -> None:
    assert attrs.asdict(filled(type(made), vars(made)), recurse=False) == attrs.asdict(made, recurse=False)
    assert attrs.asdict(type(made)(**vars(made)), recurse=False) == attrs.asdict(made, recurse=False)


@pytest.mark.parametrize(
    "made",
    [
        change(JOB, Moment(NOW, "me"), {"paused": True}, status=JobStatus.FAILED),
        read_job(write_job(JOB)),
        read_run(write_run(RUN)),
    ],
    ids=["change", "read_job", "read_run"],
)
def test_every_use_sets_every_field(made: Any) -> None:
    assert set(vars(made)) == {field.name for field in attrs.fields(type(made))}


def test_a_new_job_has_every_field() -> None:
    given = {"id", "handler_name", "job_name", "expression_value", "created_at", "modified_at", "anchor"}
    fields = {field.name for field in attrs.fields(JobInfo)}
    assert _FRESH.keys() | given | {"extra_properties"} == fields
    assert {name for name, value in _FRESH.items() if value is attrs.NOTHING} <= given
