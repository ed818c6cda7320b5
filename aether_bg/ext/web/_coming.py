"""The next occurrences of recurring jobs: found once, and shown until the first of them is over."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

from aether_bg._app.operator import coming
from aether_bg.errors import AetherError
from aether_bg.model import JobInfo
from aether_bg.schedule import Schedule, Upcoming

_MOST: Final = 1000
"""Jobs whose next occurrences are kept."""
_Key: TypeAlias = tuple[UUID, int, int]


class Coming:
    def __init__(self) -> None:
        self._kept: dict[_Key, tuple[datetime, list[Upcoming]]] = {}

    def of(self, job: JobInfo, schedule: Schedule | None, now: datetime) -> list[Upcoming]:
        """Five; fewer if no more are to come, or can be found."""
        if schedule is None:
            return []
        key = (job.id, job.seq, job.schedule_rev)
        since, found = self._kept.get(key, (now, []))
        if not (found and since <= now < found[0].at):
            found = []
            with contextlib.suppress(AetherError, OverflowError):
                found = coming(schedule, job, now, 5)
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[key] = now, found
        return found
