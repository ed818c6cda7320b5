"""The last hour and day, by handler: counted from attempts, drawn as bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import attrs

from aether_bg.model import Ran, RunOutcome

DONE: Final = frozenset({RunOutcome.COMPLETED})
FAILED: Final = frozenset({RunOutcome.FAILED, RunOutcome.TIMED_OUT, RunOutcome.CRASHED})
MOST: Final = 10_000
"""The most attempts that are counted, the latest first."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@attrs.frozen
class Bar:
    """One slice of time; heights in percent of the highest."""

    x: int
    done: float
    failed: float


@attrs.frozen(kw_only=True)
class Span:
    """What one handler, or all, did in a period. `p50`, `p95`: seconds of attempts that completed or failed."""

    name: str
    done: int
    failed: int
    p50: float | None
    p95: float | None
    bars: tuple[Bar, ...]

    @property
    def total(self) -> int:
        return self.done + self.failed

    @property
    def rate(self) -> float | None:
        """The share that failed, in percent."""
        return 100 * self.failed / self.total if self.total else None


@attrs.frozen(kw_only=True)
class Activity:
    """`since`: attempts before it were not counted, because there were too many; None: all were counted."""

    hour: Span
    day: Span
    hour_by_handler: dict[str, Span]
    day_by_handler: dict[str, Span]
    since: datetime | None

    def busiest(self, count: int) -> list[str]:
        """The handlers of the last day with the most attempts, by name."""
        day = self.day_by_handler
        return sorted(sorted(day, key=lambda name: -day[name].total)[:count])


def activity(attempts: Sequence[Ran], now: datetime, *, most: int = MOST) -> Activity:
    """From the attempts of the last day, the latest first; at most `most` were requested."""
    known = [ran for ran in attempts if ran.outcome in DONE | FAILED]
    recent = [ran for ran in known if ran.finished_at > now - HOUR]
    return Activity(
        hour=_span("all handlers", recent, now, HOUR, 60), day=_span("all handlers", known, now, DAY, 48),
        hour_by_handler=_by_handler(recent, now, HOUR, 30), day_by_handler=_by_handler(known, now, DAY, 24),
        since=attempts[-1].finished_at if len(attempts) >= most else None,
    )  # fmt: skip


def _by_handler(attempts: Iterable[Ran], now: datetime, length: timedelta, slices: int) -> dict[str, Span]:
    of: dict[str, list[Ran]] = {}
    for ran in attempts:
        of.setdefault(ran.handler_name, []).append(ran)
    return {name: _span(name, of[name], now, length, slices) for name in sorted(of)}


def _span(name: str, attempts: Sequence[Ran], now: datetime, length: timedelta, slices: int) -> Span:
    done, failed = [0] * slices, [0] * slices
    for ran in attempts:
        place = slices - 1 - int((now - ran.finished_at) / length * slices)
        counts = done if ran.outcome in DONE else failed
        counts[min(max(place, 0), slices - 1)] += 1
    highest = max((d + f for d, f in zip(done, failed, strict=True)), default=0) or 1
    seconds = sorted(ran.seconds for ran in attempts)
    return Span(
        name=name, done=sum(done), failed=sum(failed), p50=_quantile(seconds, 0.5), p95=_quantile(seconds, 0.95),
        bars=tuple(
            Bar(n, round(100 * d / highest, 1), round(100 * f / highest, 1))
            for n, (d, f) in enumerate(zip(done, failed, strict=True))
        ),
    )  # fmt: skip


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return max(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 0.0) if ordered else None
