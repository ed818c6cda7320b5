"""Which instants a job is due at: its schedule within its bounds, and what of it has been missed."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Final

import attrs

from aether_bg.errors import InvalidSchedule
from aether_bg.model import Definition, JobInfo
from aether_bg.schedule import Schedule

KEPT: Final = 1000
"""Occurrences that misfire="all" makes up for at most (PROTOCOL R2)."""
_COUNTED: Final = 20_000
"""Beyond so many, missed occurrences are no longer counted one by one."""
_JUST = timedelta(microseconds=1)


@attrs.frozen
class Gap:
    """Occurrences that passed: the first and last of them, and how many (at least, when there are very many).

    `kept`: the newest of them, at most KEPT and one before, oldest first.
    """

    first: datetime
    last: datetime
    count: int
    kept: deque[datetime]


@attrs.frozen
class Plan:
    """A schedule with the bounds of one job. All instants are aware and in UTC."""

    schedule: Schedule
    anchor: datetime
    start: datetime | None
    until: datetime | None
    repeats: int | None

    @classmethod
    def of(cls, schedule: Schedule, job: JobInfo | Definition) -> Plan:
        return cls(schedule, job.anchor, job.start, job.until, job.repeats)

    @property
    def endless(self) -> bool:
        return self.schedule.recurring and self.repeats is None and self.until is None

    def first(self) -> datetime | None:
        """The first due instant; for a one-shot even if it has passed. None: there is none within the bounds."""
        if self.schedule.recurring:
            return self.after(self.anchor)
        due = self.schedule.first(self.anchor)
        return self._bounded(due if due is None or self.start is None else max(due, self.start))

    def after(self, last: datetime | None) -> datetime | None:
        """The first occurrence later than `last` (PROTOCOL C4); never before the anchor or the start."""
        if last is None:
            return self.first()
        if not self.schedule.recurring:
            due = self.first()
            return due if due is not None and due > last else None
        base = max(last, self.anchor)
        if self.start is not None:
            base = max(base, self.start - _JUST)
        return self._bounded(self.schedule.next(base, self.anchor))

    def passed(self, since: datetime, now: datetime) -> Gap | None:
        """What was due from the occurrence `since` (included) to `now` (included)."""
        count, last = 0, since
        kept: deque[datetime] = deque(maxlen=KEPT + 1)
        due: datetime | None = since
        while due is not None and due <= now and count < _COUNTED:
            count, last = count + 1, due
            kept.append(due)
            due = self.after(due)
        if not count:
            return None
        if due is not None and due <= now:
            kept = self._newest(last, now, (last - since) / count)
        return Gap(first=since, last=kept[-1], count=count, kept=kept)

    def few(self, since: datetime, now: datetime) -> bool:
        """Surely no more than KEPT since then: told by the least spacing, without walking through them."""
        words = self.schedule.text.split()
        if words[0].lower() == "@every":
            following = self.after(since)
            spacing = timedelta.max if following is None else following - since
        else:
            spacing = timedelta(minutes=1) if len(words) == 5 else timedelta(0)
        return spacing >= (now - since) / KEPT

    def _newest(self, since: datetime, now: datetime, spacing: timedelta) -> deque[datetime]:
        """The newest KEPT occurrences up to `now`, looked for ever further back."""
        span = max(spacing, timedelta(milliseconds=1)) * (KEPT + 1)
        while True:
            kept: deque[datetime] = deque(maxlen=KEPT + 1)
            due = self.after(max(since, now - span))
            while due is not None and due <= now:
                kept.append(due)
                due = self.after(due)
            if len(kept) > KEPT or now - span <= since:
                return kept or deque([since])
            span *= 2

    def _bounded(self, due: datetime | None) -> datetime | None:
        return None if due is not None and self.until is not None and due > self.until else due


def anchor_for(schedule: Schedule, now: datetime, start: datetime | None) -> datetime:
    """Where `@every` counts from: creation, or one length before `start`, so that it runs at `start` itself."""
    if start is None or not schedule.text.lower().startswith("@every"):
        return now
    following = schedule.next(now, now)
    return now if following is None else start - (following - now)


def first_of(schedule: Schedule, plan: Plan) -> datetime:
    """Raises `InvalidSchedule` when there is none within the bounds."""
    due = plan.first()
    if due is None:
        bounds = f"before until={plan.until:%Y-%m-%dT%H:%M:%SZ}" if plan.until else "from now on"
        raise InvalidSchedule(schedule.text, field=None, reason=f"it has no occurrence {bounds}", example="@daily")
    return due
