"""Which instants a job is due at: its schedule within its bounds, and what of it has been missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from aether_bg.errors import InvalidSchedule
from aether_bg.model import Definition, JobInfo
from aether_bg.schedule import Schedule

KEPT: Final = 1000
"""Occurrences that misfire="all" makes up for at most (docs/protocol.md, R2)."""
_WALKED: Final = 100
"""Occurrences counted one by one where the schedule has no `count` (docs/protocol.md, R7)."""
_JUST: Final = timedelta(microseconds=1)
_EARLY: Final = timedelta(seconds=1)
"""By which an attempt may begin before its occurrence (docs/protocol.md, C2)."""
REPEATED: Final = timedelta(hours=3)
"""Steps of the clock back in which a fixed time of day is not repeated: the rule of Vixie cron."""


@attrs.frozen
class Gap:
    """Occurrences that passed: the first and last of them, and how many; unless `exact`, at least that many."""

    first: datetime
    last: datetime
    count: int
    exact: bool = True


@attrs.define(eq=False)  # made for every attempt: frozen, it would take three times as long
class Plan:
    """A schedule with the bounds of one job. All instants are aware and in UTC."""

    schedule: Schedule
    anchor: datetime
    start: datetime | None
    until: datetime | None
    repeats: int | None
    loose: bool = False
    """The clock was set back to before the anchor, which bounds nothing then."""
    undone: datetime | None = None
    """What the clock showed before it was set back by three hours or more: what has run up to then is due again."""
    jitter: float = 0.0
    origin: datetime = attrs.field()
    """What the schedule counts from: the anchor; for days and weeks the start, if there is one."""

    @origin.default
    def _origin(self) -> datetime:
        from_start: bool = getattr(self.schedule, "from_start", False)
        return self.start if from_start and self.start is not None else self.anchor

    @classmethod
    def of(cls, schedule: Schedule, job: JobInfo | Definition, undone: datetime | None = None) -> Plan:
        return cls(schedule, job.anchor, job.start, job.until, job.repeats, undone=undone, jitter=job.jitter)

    @property
    def endless(self) -> bool:
        return self.schedule.recurring and self.repeats is None and self.until is None

    def first(self) -> datetime | None:
        """The first due instant; for a one-shot even if it has passed. None: there is none within the bounds."""
        if self.schedule.recurring:
            return self.after(self.anchor)
        due = self.schedule.first(self.origin)
        return self._bounded(due if due is None or self.start is None else max(due, self.start))

    def after(self, last: datetime | None) -> datetime | None:
        """The first occurrence later than `last` (docs/protocol.md, C4); never before the anchor or the start."""
        if last is None:
            return self.first()
        if not self.schedule.recurring:
            due = self.first()
            return due if due is not None and due > last else None
        base = max(last, self.anchor)
        if self.start is not None:
            base = max(base, self.start - _JUST)
        return self._bounded(self.schedule.next(base, self.origin))

    def lag(self, occurrence: datetime, job_name: str) -> timedelta:
        """How much later than its occurrence a job is called: its name's share of the jitter, always before the next
        occurrence and never after the end (docs/protocol.md, R8)."""
        if not self.jitter:
            return timedelta(0)
        room = timedelta(seconds=self.jitter)
        if (following := self.after(occurrence)) is not None:
            room = min(room, following - occurrence)
        if self.until is not None:
            room = min(room, self.until - occurrence)
        from hashlib import blake2b  # few jobs have jitter, and it is slow to import

        share = int.from_bytes(blake2b(job_name.encode(), digest_size=8).digest())
        return max(room, timedelta(0)) // _JUST * share // 2**64 * _JUST

    def grounded(self, now: datetime) -> Plan:
        """The same, but `loose` where the anchor lies in the future of the clock: lengths are counted back from it
        (docs/protocol.md, R5). A start that is to come still holds."""
        if self.anchor <= now or not self.schedule.recurring or (self.start is not None and self.start > now):
            return self
        if _by_length(self.schedule) and (due := self.schedule.next(now, now)) is not None:
            length = due - now
            anchor = self.anchor + (now - self.anchor) // length * length
            return attrs.evolve(self, anchor=anchor, origin=anchor, loose=True)
        return attrs.evolve(self, anchor=datetime.min.replace(tzinfo=UTC), loose=True)

    def following(self, last: datetime | None, now: datetime, ran: datetime | None = None) -> datetime | None:
        """What comes after the last occurrence, `ran` being the one that has just ended.

        A last one in the future of the clock, which was set back, holds the schedule no longer: a frequency goes on
        from now; a fixed time that has run is not repeated, unless the step was of three hours or more
        (docs/protocol.md, R5).
        """
        plan = self.grounded(now)
        if not self.schedule.recurring:  # one that was triggered has run, however early
            return plan.after(last)
        if not plan.loose and (last is None or last <= now + _EARLY):
            return plan.after(last)
        if last is not None and last > now and not self._repeats(last, now, ran) and not self._often(last):
            return plan.after(last)
        return plan.after(ran if ran is not None and ran <= now + _EARLY else now)

    def _repeats(self, last: datetime, now: datetime, ran: datetime | None) -> bool:
        """A fixed time that has run is due again: the step was long, or one before the last has been repeated."""
        undone = self.undone is not None and last <= self.undone
        return undone or last >= now + REPEATED or (ran is not None and ran < last)

    def replaced(self, occurrence: datetime, last: datetime | None) -> datetime | None:
        """The occurrence that takes the place of one which the schedule no longer has, since the rules of its zone have
        changed (docs/protocol.md, R6): the nearest. None: it still has it, or there is none."""
        if _by_length(self.schedule) or self.after(occurrence - _JUST) == occurrence:
            return None
        whole = occurrence.replace(microsecond=0)
        due = self.after(whole - _JUST)
        if due is None or due == whole:
            return None
        before = self.after(max(whole - REPEATED, self.anchor, last or self.anchor))
        if before is not None and before < whole:
            before = self.newest(before, whole)
            due = before if whole - before < due - whole else due
        return due

    def _often(self, since: datetime) -> bool:
        """A frequency, not a fixed time of day; of a schedule that does not say so, told by its distances."""
        said: bool | None = getattr(self.schedule, "frequency", None)
        if said is not None or _by_length(self.schedule):
            return said is not False
        due = self.schedule.next(since, self.origin)
        return due is not None and due - since < REPEATED

    # Searched by halving and counted by arithmetic: what was missed is never walked through (docs/protocol.md, R7).

    def passed(self, since: datetime, now: datetime) -> Gap | None:
        """What was due from the occurrence `since` (included) to `now` (included)."""
        if since > now:
            return None
        last = self.newest(since, now)
        count, exact = self.count(since, last)
        return Gap(first=since, last=last, count=1 + count, exact=exact)

    def all_but_newest(self, since: datetime, now: datetime) -> tuple[Gap, datetime] | None:
        """The same, but for the newest of them, which comes second. None: no more than that one was due."""
        if since > now or (newest := self.newest(since, now)) <= since:
            return None
        gap = self.passed(since, newest - _JUST)
        assert gap is not None
        return gap, newest

    def newest(self, since: datetime, now: datetime) -> datetime:
        """The newest occurrence up to `now`, `since` being one."""
        last, end, reach = since, now, _JUST
        while (due := self.after(last)) is not None and due <= end:
            reach = max(reach, due - last)
            last = due
            middle = max(end - reach, last + (end - last) / 2)
            due = self.after(middle)
            if due is not None and due <= end:
                last = due
            else:
                end, reach = middle, 2 * reach
        return last

    def newest_of(self, most: int, since: datetime, now: datetime) -> datetime | None:
        """The oldest of the newest `most` occurrences up to `now`. None: there are no more than that since `since`.

        Where the schedule cannot count, by the mean distance of the first ones.
        """
        count, exact = self.count(since, now)
        if not exact:
            count = round(count * ((now - since) / (self._walk(since, now)[1] - since)))
        if count < most:
            return None
        if not exact:
            return self.after(now - (now - since) / count * most)
        low, high, above = since, now, 0
        while (middle := low + (high - low) / 2) > low:  # more than `most` are later than `low`, `above` than `high`
            beyond = above + self.count(middle, high)[0]
            low, high, above = (middle, high, above) if beyond >= most else (low, middle, beyond)
        return self.after(low)

    def count(self, after: datetime, upto: datetime) -> tuple[int, bool]:
        """How many occurrences are later than `after`, up to `upto`; False: at least that many."""
        if self.until is not None:
            upto = min(upto, self.until)
        reckon: Any = getattr(self.schedule, "count", None)
        if reckon is not None:
            return reckon(after, upto, self.origin), True
        count, _ = self._walk(after, upto)
        return count, count < _WALKED

    def _walk(self, after: datetime, upto: datetime) -> tuple[int, datetime]:
        """The first occurrences later than `after`, up to `upto`: how many, at most _WALKED, and the last of them."""
        count, last = 0, after
        while count < _WALKED and (due := self.after(last)) is not None and due <= upto:
            count, last = count + 1, due
        return count, last

    def _bounded(self, due: datetime | None) -> datetime | None:
        return None if due is not None and self.until is not None and due > self.until else due


def _by_length(schedule: Schedule) -> bool:
    """`@every 90m`: real time, counted from the anchor."""
    return schedule.recurring and getattr(schedule, "length", None) is not None


def anchor_for(schedule: Schedule, now: datetime, start: datetime | None) -> datetime:
    """Where `@every` counts from: creation. With `start`: that instant's grid, so that it runs at `start` itself, or
    first after now where that has passed."""
    if start is None or not _by_length(schedule):
        return now
    following = schedule.next(now, now)
    if following is None:
        return now
    length = following - now
    return start - length if start >= now else start + (now - start) // length * length


def first_due(plan: Plan, now: datetime) -> datetime | None:
    """When a new job is due first. None: there is nothing within the bounds, or its end has passed."""
    return None if plan.until is not None and plan.until < now else plan.first()


def check_comes(job: JobInfo) -> None:
    """Raises `InvalidSchedule` for a new job that has no occurrence left."""
    if job.due_at is None:
        raise no_occurrence(job.expression_value, job.until)


def no_occurrence(text: str, until: datetime | None) -> InvalidSchedule:
    bounds = f"before until={until:%Y-%m-%dT%H:%M:%SZ}" if until else "from now on"
    return InvalidSchedule(text, field=None, reason=f"it has no occurrence {bounds}", example="@daily")
