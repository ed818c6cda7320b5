"""Your own word in the schedule language: "@market-open", with the holidays of the New York Stock Exchange.

    python examples/schedule_words.py          # prints the next openings, and declares a job for them

The plugin implements `schedule_parse`; the library handles everything else about schedules (zones, daylight saving,
misfires, previews, the same meaning under every scheduler). The holidays follow the exchange's standing rules; pass an
unscheduled closure as `closed=`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import anyio
import attrs

from aether_bg import Aether, InvalidSchedule, hookimpl, schedule

ZONE = "America/New_York"
WORD = "@market-open"
WEEKDAYS = schedule.parse("30 9 * * MON-FRI", ZONE)


@attrs.frozen
class MarketOpen:
    """Half past nine on every trading day. Implements `aether_bg.schedule.Schedule`."""

    closed: frozenset[date]
    text: str = WORD
    timezone: str | None = ZONE
    recurring: bool = True

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        return next((opening.at.astimezone(UTC) for opening in self._openings(after)), None)

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor)

    def upcoming(
        self, n: int, after: datetime | None = None, anchor: datetime | None = None
    ) -> list[schedule.Upcoming]:
        openings = self._openings(after or datetime.now(UTC))
        return [opening for _, opening in zip(range(n), openings, strict=False)]

    def describe(self) -> str:
        return f"at 09:30 on every trading day of the New York Stock Exchange, {ZONE}"

    def _openings(self, after: datetime) -> Iterator[schedule.Upcoming]:
        while ahead := WEEKDAYS.upcoming(5, after):
            for opening in ahead:
                day = opening.at.date()
                if day not in holidays(day.year) and day not in self.closed:
                    yield opening
            after = ahead[-1].at


@lru_cache
def holidays(year: int) -> frozenset[date]:
    """Full-day holidays: rule 7.2 of the exchange."""

    def nth(n: int, weekday: int, month: int) -> date:
        first = date(year, month, 1)
        return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))

    def observed(month: int, day: int) -> date:
        when = date(year, month, day)
        return when + timedelta(days={5: -1, 6: 1}.get(when.weekday(), 0))

    new_year = date(year, 1, 1)
    last_of_may = date(year, 5, 31)
    days = {
        nth(3, 0, 1),  # Martin Luther King, Jr. Day
        nth(3, 0, 2),  # Washington's Birthday
        easter(year) - timedelta(days=2),  # Good Friday
        last_of_may - timedelta(days=last_of_may.weekday()),  # Memorial Day
        observed(7, 4),
        nth(1, 0, 9),  # Labor Day
        nth(4, 3, 11),  # Thanksgiving
        observed(12, 25),
    }
    if new_year.weekday() != 5:  # on a Saturday it is not made up for: the Friday belongs to the old year
        days.add(observed(1, 1))
    if year >= 2022:
        days.add(observed(6, 19))  # Juneteenth
    return frozenset(days)


def easter(year: int) -> date:
    """The anonymous Gregorian computus (Meeus, Jones, Butcher)."""
    golden, century, rest = year % 19, year // 100, year % 100
    moon = (19 * golden + century - century // 4 - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (rest // 4) - moon - rest % 4) % 7
    shift = (golden + 11 * moon + 22 * weekday) // 451
    month, day = divmod(moon + weekday - 7 * shift + 114, 31)
    return date(year, month, day + 1)


class Markets:
    """The plugin."""

    def __init__(self, closed: Collection[date] = ()) -> None:
        self._open = MarketOpen(frozenset(closed))

    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> schedule.Schedule | None:
        if text.strip().lower() != WORD:
            return None
        if timezone not in (None, ZONE):
            raise InvalidSchedule(text, field="timezone", reason=f"the exchange is in {ZONE}", example=WORD)
        return self._open


app = Aether("schedule-words.db", plugins=[Markets()])


@app.handler("OpeningPrices", schedule=WORD, retries=3)
async def opening_prices() -> None: ...


async def main() -> None:
    async with app:
        job = await app.store.get_by_job_name("OpeningPrices")
        assert job is not None
        print(f"{job.job_name} is due at {job.due_at} (UTC). The next openings:")
        for opening in MarketOpen(frozenset()).upcoming(8):
            print(f"  {opening.at:%a %d %b %Y %H:%M %Z}")


if __name__ == "__main__":
    anyio.run(main)
