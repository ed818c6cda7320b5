"""Did it run, and if not, why not? The rows of a job in sentences: pure, for the app and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

from aether_bg.explain._facts import OVERDUE, Around, Waiting, waiting
from aether_bg.explain._words import first_line, plain
from aether_bg.model import JobInfo, JobRun
from aether_bg.schedule import Schedule

__all__ = ["OVERDUE", "Around", "Waiting", "explain", "first_line", "plain", "waiting"]


def explain(
    job: JobInfo,
    runs: Sequence[JobRun],
    *,
    now: datetime,
    around: Around | None = None,
    schedule: Schedule | None = None,
    zone: tzinfo = UTC,
) -> str:
    """One sentence per line. `runs`: the history, newest first. `schedule`: as read with the plugins of an app; without
    it, the built-in language reads it. `zone`: the zone of all times."""
    from aether_bg.explain._story import Story  # most processes explain no job; they need the names above

    return "\n".join(Story(job, runs, now, around or Around(), schedule, zone).lines())
