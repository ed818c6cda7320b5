"""Zones: which names are accepted, and what the wall clock shows when it is set forward or back.

A wall time is a naive datetime. When the clock is set forward there is a gap: wall times that it never shows. When it
is set back there is a repeat: wall times that it shows twice, the second time with `fold=1` (PEP 495).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

import attrs

from ._model import Refused

SECOND = timedelta(seconds=1)
LONGEST_NAME = 100
"""Characters. The longest IANA name has 32."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*")
# Present in the databases of some systems, but not IANA names: variants, and the setting of this machine.
FOREIGN = re.compile(r"(?:posix|right)/.*|posixrules|localtime|Factory")


@lru_cache
def known() -> dict[str, str]:
    """Every name of the tzdata package, by its lower-case form; empty where it is missing."""
    from importlib import resources  # costs more than all of this package

    try:
        names = resources.files("tzdata").joinpath("zones").read_text("ascii").split()
    except (ModuleNotFoundError, OSError):
        return {}
    return {name.lower(): name for name in names}


@lru_cache(maxsize=1024)
def load(name: str | None) -> tzinfo:
    """The zone of an exact IANA name; None is UTC."""
    if name is None:
        return UTC
    if len(name) > LONGEST_NAME:
        raise Refused(
            "timezone", f"{name[:20]!r}… is not an IANA time zone: it has {len(name):,} characters", "Europe/Berlin"
        )
    reason = f"{name!r} is not an IANA time zone"
    if NAME.fullmatch(name) is None or FOREIGN.fullmatch(name):
        raise Refused("timezone", reason, "Europe/Berlin")
    # On a case-insensitive file system zoneinfo would open any spelling.
    right = known().get(name.lower(), name)
    if right != name:
        raise Refused("timezone", f"{reason}: it is spelt {right!r}", right)
    from zoneinfo import ZoneInfo  # most jobs have no zone

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise Refused("timezone", reason, "Europe/Berlin") from None


@attrs.frozen
class Clock:
    """The wall clock of one zone. Instants are aware UTC, both are whole seconds."""

    zone: tzinfo

    def wall(self, instant: datetime) -> datetime:
        """What the clock shows; `fold` is 1 when it shows it the second time."""
        return instant.astimezone(self.zone).replace(tzinfo=None)

    def instant(self, wall: datetime, fold: int = 0) -> datetime:
        """When it shows `wall`. In a gap: an instant after it for fold 0, before it for fold 1."""
        return wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC)

    def offset(self, instant: datetime) -> timedelta:
        return self.wall(instant) - instant.replace(tzinfo=None)

    def reach(self, wall: datetime) -> datetime:
        """When the clock first shows `wall` or, in a gap, first shows anything later."""
        first = self.instant(wall)
        if self.wall(first) == wall:
            return first
        return self.seam(self.instant(wall, fold=1), first)

    def seam(self, before: datetime, after: datetime) -> datetime:
        """The instant from which the clock runs differently than at `before`: one change, up to `after`."""
        offset = self.offset(before)
        while (width := (after - before) // SECOND) > 1:
            middle = before + (width // 2) * SECOND
            if self.offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after

    def repeat(self, instant: datetime) -> datetime | None:
        """When the clock is set back, if what it shows at `instant` shows twice; else None."""
        wall = self.wall(instant)
        first, second = self.instant(wall), self.instant(wall, fold=1)
        # In a gap the two would be the other way round, but no instant shows a wall time in a gap.
        return self.seam(first, second) if first < second else None

    def around(self, seam: datetime) -> tuple[datetime, datetime]:
        """What the clock would have shown at `seam`, and what it shows."""
        before = seam - SECOND
        return self.wall(before) + SECOND, self.wall(seam).replace(fold=0)
