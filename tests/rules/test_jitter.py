"""Jitter moves `due_at` and nothing else (docs/protocol.md, R8)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_bg._rules import transitions
from aether_bg._rules.changes import Moment
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.results import Completed
from aether_bg.model import JobInfo, JobStatus
from aether_bg.schedule import parse
from aether_bg.testing.contracts.values import a_job

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def plan(schedule: str, jitter: float, until: datetime | None = None) -> Plan:
    return Plan(parse(schedule), NOW, None, until, None, jitter=jitter)


def job(misfire: str = "once", jitter: float = 1200, schedule: str = "@hourly", **fields: object) -> JobInfo:
    """Waits for 01:00, due after its lag."""
    first = NOW + HOUR
    lag = plan(schedule, jitter).lag(first, "the job")
    return attrs.evolve(
        a_job("the job", due_at=first + lag), expression_value=schedule, anchor=NOW, occurrence=first,
        jitter=jitter, misfire=misfire, **fields,
    )  # fmt: skip


def claimed(of: JobInfo, now: datetime) -> JobInfo:
    return attrs.evolve(of, status=JobStatus.RUNNING, attempt=of.attempt + 1, seq=of.seq + 1, started_at=now)


@given(
    st.sampled_from(("@hourly", "@every 90s", "0 9 * * MON", "*/7 * * * *", "0 0 29 2 *", "@every 100ms")),
    st.floats(0, 10_000_000),
    st.text(min_size=1),
)
def test_the_lag_stays_below_the_jitter_and_the_next_occurrence(schedule: str, jitter: float, name: str) -> None:
    of, occurrences = plan(schedule, jitter), [parse(schedule).next(NOW, NOW)]
    for _ in range(5):
        assert occurrences[-1] is not None
        occurrences.append(parse(schedule).next(occurrences[-1], NOW))
    for one, other in pairwise(occurrences):
        assert one is not None
        assert other is not None
        lag = of.lag(one, name)
        assert timedelta(0) <= lag < other - one
        assert lag <= timedelta(seconds=jitter)
        assert lag == of.lag(one, name)


def test_names_are_spread_evenly() -> None:
    of = plan("@hourly", 600)
    lags = [of.lag(NOW, f"job {n}") for n in range(1000)]
    for minute in range(10):
        assert 60 < sum(minute * MINUTE <= lag < (minute + 1) * MINUTE for lag in lags) < 140
    assert of.lag(NOW, "job 7") == of.lag(NOW + 5 * HOUR, "job 7")


def test_the_lag_does_not_pass_the_end() -> None:
    end = NOW + HOUR + SECOND
    of = plan("@hourly", 3000, end)
    assert all(NOW + HOUR + of.lag(NOW + HOUR, f"job {n}") <= end for n in range(100))
    assert plan("@once", 3000).lag(NOW, "the job") == plan("@hourly", 3000).lag(NOW, "the job")


def test_the_next_occurrence_is_the_schedule_s_and_its_due_instant_lags() -> None:
    now = NOW + HOUR + 30 * MINUTE
    change = transitions.finish(claimed(job(), now), Completed(), plan("@hourly", 1200), Moment(now, None))
    assert change.occurrence == NOW + 2 * HOUR
    assert change.due_at == change.occurrence + plan("@hourly", 1200).lag(change.occurrence, "the job")
    assert change.last_occurrence == NOW + HOUR


@pytest.mark.parametrize("misfire", ["once", "skip", "all"])
@pytest.mark.parametrize("late", [0, 1, 9, 11, 59 * 60, 61 * 60, 5 * 3600 + 30])
def test_what_is_missed_is_what_is_missed_without_jitter(misfire: str, late: int) -> None:
    """The same history, later by the lag."""
    lagging, exact = job(misfire), job(misfire, jitter=0)
    assert lagging.due_at is not None
    assert lagging.occurrence is not None
    lag = lagging.due_at - lagging.occurrence
    assert MINUTE < lag < 20 * MINUTE
    now = NOW + HOUR + late * SECOND
    expected = transitions.misfired(claimed(exact, now), plan("@hourly", 0), Moment(now, None))
    found = transitions.misfired(claimed(lagging, now + lag), plan("@hourly", 1200), Moment(now + lag, None))
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.occurrence, found.last_occurrence) == (expected.occurrence, expected.last_occurrence)
        assert [(run.occurrence, run.count) for run in found.runs] == [
            (run.occurrence, run.count) for run in expected.runs
        ]
