"""How many occurrences a period has, calculated without visiting each of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ._calendar import Walls
from ._zone import SECOND, Clock

DAY = timedelta(days=1)


def seams(clock: Clock, after: datetime, upto: datetime) -> Iterator[datetime]:
    """Where the wall clock is set forward or back, later than `after` and up to `upto`: at most one a day."""
    if clock.zone is UTC:
        return
    while after < upto:
        later = min(after + DAY, upto)
        if clock.offset(after) != clock.offset(later):
            yield clock.seam(after, later)
        after = later


def frequencies(walls: Walls, clock: Clock, after: datetime, upto: datetime) -> int:
    """Occurrences of a schedule in real time: each time the clock shows a matching time."""
    found, wall = 0, clock.wall(after)
    for seam in seams(clock, after, upto):
        shown, again = clock.around(seam)
        found += walls.count(wall, shown - SECOND)
        wall = again - SECOND
    return found + walls.count(wall, clock.wall(upto))


def fixed(walls: Walls, clock: Clock, reached: datetime, after: datetime, upto: datetime) -> int:
    """Occurrences of fixed times: each when the clock first shows it; all those in a gap count as one, at its end.

    `reached`: the latest wall time that the clock has shown by `after`.
    """
    found = 0
    for seam in seams(clock, after, upto):
        shown, again = clock.around(seam)
        found += walls.count(reached, shown - SECOND)
        reached = max(reached, shown - SECOND)
        found += walls.count(reached, again) > 0
        reached = max(reached, again)
    return found + walls.count(reached, clock.wall(upto))
