"""The next occurrences are found once, and again when the first is over or the job has changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from aether_bg import schedule as language
from aether_bg.ext.web import _coming
from aether_bg.ext.web._coming import Coming
from aether_bg.testing.contracts.values import a_job

NOW = datetime(2030, 1, 1, 0, 30, tzinfo=UTC)


def test_they_are_kept_until_the_first_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found = 0
    real = _coming.coming

    def counted(*args: object) -> object:
        nonlocal found
        found += 1
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_coming, "coming", counted)
    monkeypatch.setattr(_coming, "_MOST", 2)
    coming, hourly = Coming(), language.load("@hourly", None)
    job = a_job(expression_value="@hourly")
    for now, hour, times in (
        (NOW, 1, 1), (NOW + timedelta(minutes=29), 1, 1), (NOW + timedelta(minutes=30), 2, 2),
        (NOW - timedelta(hours=1), 0, 3),  # the clock was set back
    ):  # fmt: skip
        first = coming.of(job, hourly, now)[0].at
        assert (first.hour, found) == (hour, times)
    coming.of(attrs.evolve(job, schedule_rev=job.schedule_rev + 1), hourly, NOW)
    assert found == 4
    for _ in range(5):
        coming.of(a_job(expression_value="@hourly"), hourly, NOW)
    assert len(coming._kept) <= 2
    assert coming.of(job, None, NOW) == []
