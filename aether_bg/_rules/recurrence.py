"""When a job is due: its schedule within its bounds, and which of its occurrences were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from aether_bg.errors import InvalidSchedule
from aether_bg.model import Definition, JobInfo
from aether_bg.schedule import Schedule

KEPT: Final = 1000
"""The most occurrences that misfire="all" makes up for (docs/protocol.md, R2)."""
_WALKED: Final = 100
"""The most occurrences counted one by one when the schedule has no `count` (docs/protocol.md, R7)."""
_JUST: Final = timedelta(microseconds=1)
_EARLY: Final = timedelta(seconds=1)
"""How much earlier than its occurrence an attempt may begin (docs/protocol.md, C2)."""
REPEATED: Final = timedelta(hours=3)
"""When the clock is set back by less than this, a fixed time of day is not repeated: the rule of Vixie cron."""


@attrs.frozen
class Gap:
    """Occurrences that passed: the first, the last and their number. Unless `exact`, there were at least that many."""

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
    """The clock was set back to before the anchor, which then limits nothing."""
    undone: datetime | None = None
    """The time that the clock showed before it was set back by three hours or more: what has run up to then is due
    again."""
    jitter: float = 0.0
    _origin: datetime | None = None

    @property
    def origin(self) -> datetime:
        """The instant from which the schedule counts: the anchor; for days and weeks the start, if there is one."""
        if self._origin is not None:
            return self._origin
        return self.start if self.start is not None and getattr(self.schedule, "from_start", False) else self.anchor

    @classmethod
    def of(cls, schedule: Schedule, job: JobInfo | Definition, undone: datetime | None = None) -> Plan:
        return cls(schedule, job.anchor, job.start, job.until, job.repeats, undone=undone, jitter=job.jitter)

    @property
    def endless(self) -> bool:
        return self.schedule.recurring and self.repeats is None and self.until is None

    def first(self) -> datetime | None:
        """The first due instant; for a one-shot even if it has passed. None: there is no instant within the bounds."""
        if self.schedule.recurring:
            return self.after(self.anchor)
        due = self.schedule.first(self.origin)
        if due is not None and self.start is not None:
            due = max(due, self.start)
        return due if self.until is None else self._bounded(due)

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
        """The same plan, but `loose` if the anchor lies in the future of the clock: then periods are counted back from
        the anchor (docs/protocol.md, R5). A start in the future still holds."""
        if self.anchor <= now or not self.schedule.recurring or (self.start is not None and self.start > now):
            return self
        if _by_length(self.schedule) and (due := self.schedule.next(now, now)) is not None:
            length = due - now
            anchor = self.anchor + (now - self.anchor) // length * length
            return attrs.evolve(self, anchor=anchor, origin=anchor, loose=True)
        return attrs.evolve(self, anchor=datetime.min.replace(tzinfo=UTC), origin=self.origin, loose=True)

    def following(self, last: datetime | None, now: datetime, ran: datetime | None = None) -> datetime | None:
        """The occurrence after the last one. `ran`: the occurrence that has just ended.

        If the clock was set back and the last occurrence lies in its future, that one no longer counts. A frequency
        goes on from now. A fixed time that has run is not repeated, unless the clock moved by three hours or more
        (docs/protocol.md, R5).
        """
        plan = self.grounded(now)
        if not self.schedule.recurring:  # a triggered one-shot has run, even if early
            return plan.after(last)
        if not plan.loose and (last is None or last <= now + _EARLY):
            return plan.after(last)
        if last is not None and last > now and not self._repeats(last, now, ran) and not self._often(last):
            return plan.after(last)
        return plan.after(ran if ran is not None and ran <= now + _EARLY else now)

    def _repeats(self, last: datetime, now: datetime, ran: datetime | None) -> bool:
        """A fixed time that has run is due again if the clock moved far, or if an earlier one has already been
        repeated."""
        undone = self.undone is not None and last <= self.undone
        return undone or last >= now + REPEATED or (ran is not None and ran < last)

    def replaced(self, occurrence: datetime, last: datetime | None) -> datetime | None:
        """The nearest occurrence, to replace one that the schedule no longer has because the rules of its zone have
        changed (docs/protocol.md, R6). None: the schedule still has it, or has no other."""
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
        """Whether the schedule is a frequency, not a fixed time of day. If it does not say so, the distance of its
        occurrences decides."""
        said: bool | None = getattr(self.schedule, "frequency", None)
        if said is not None or _by_length(self.schedule):
            return said is not False
        due = self.schedule.next(since, self.origin)
        return due is not None and due - since < REPEATED

    # Binary search and arithmetic: missed occurrences are never visited one by one (docs/protocol.md, R7).

    def passed(self, since: datetime, now: datetime) -> Gap | None:
        """The occurrences that were due from `since` to `now`, both included."""
        if since > now:
            return None
        last = self.newest(since, now)
        count, exact = self.count(since, last)
        return Gap(first=since, last=last, count=1 + count, exact=exact)

    def all_but_newest(self, since: datetime, now: datetime) -> tuple[Gap, datetime] | None:
        """The same without the newest one, which comes second. None: only one was due."""
        if since > now or (newest := self.newest(since, now)) <= since:
            return None
        gap = self.passed(since, newest - _JUST)
        assert gap is not None
        return gap, newest

    def newest(self, since: datetime, now: datetime) -> datetime:
        """The newest occurrence up to `now`; `since` is an occurrence."""
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
        """The oldest of the newest `most` occurrences up to `now`. None: there are no more than `most` from `since` on.

        If the schedule cannot count, this is estimated from the mean distance of the first ones.
        """
        count, exact = self.count(since, now)
        if not exact:
            count = round(count * ((now - since) / (self._walk(since, now)[1] - since)))
        if count < most:
            return None
        if not exact:
            return self.after(now - (now - since) / count * most)
        low, high, above = since, now, 0
        while (middle := low + (high - low) / 2) > low:  # more than `most` lie above `low`, `above` lie above `high`
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
        """Visits the first occurrences later than `after`, up to `upto`: how many (at most _WALKED), and the last of
        them."""
        count, last = 0, after
        while count < _WALKED and (due := self.after(last)) is not None and due <= upto:
            count, last = count + 1, due
        return count, last

    def _bounded(self, due: datetime | None) -> datetime | None:
        return None if due is not None and self.until is not None and due > self.until else due


def _by_length(schedule: Schedule) -> bool:
    """`@every 90m`: elapsed time, counted from the anchor."""
    return schedule.recurring and getattr(schedule, "length", None) is not None


def anchor_for(schedule: Schedule, now: datetime, start: datetime | None) -> datetime:
    """The instant from which `@every` counts: creation. With `start`, counting begins there: the job runs at `start`
    itself, or at the first such instant after now if that has passed."""
    if start is None or not _by_length(schedule):
        return now
    following = schedule.next(now, now)
    if following is None:
        return now
    length = following - now
    return start - length if start >= now else start + (now - start) // length * length


def first_due(plan: Plan, now: datetime) -> datetime | None:
    """When a new job is first due. None: there is no instant within the bounds, or its end has passed."""
    return None if plan.until is not None and plan.until < now else plan.first()


def check_comes(job: JobInfo) -> None:
    """Raises `InvalidSchedule` for a new job that has no occurrence left."""
    if job.due_at is None:
        raise no_occurrence(job.expression_value, job.until)


def no_occurrence(text: str, until: datetime | None) -> InvalidSchedule:
    bounds = f"before until={until:%Y-%m-%dT%H:%M:%SZ}" if until else "from now on"
    return InvalidSchedule(text, field=None, reason=f"it has no occurrence {bounds}", example="@daily")
