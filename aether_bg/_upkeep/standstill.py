"""Decides whose beat has stood still for a lease, as one observer sees it (docs/protocol.md, P3 and P6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import attrs

ENOUGH: Final = 3
"""The number of own beats that must have been committed since: as many as an owner makes within a lease."""


@attrs.frozen
class _Seen:
    beat: int
    since: float
    own: int
    """The observer's own beat at that moment."""


class Standstill:
    """Call `expired` at each check of the owners, `forget` when a check fails or comes too late.

    Only the observer's monotonic clock counts, and only while its own beats are committed: if no process can write to
    the store, no owner is declared dead.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._longest = max(2 * lease / 3, lease / 3 + 1.0)
        """After this many seconds without an own beat, earlier observations no longer count; an own beat is due each
        third."""
        self._seen: dict[UUID, _Seen] = {}

    def forget(self) -> None:
        self._seen.clear()

    def expired(self, beats: Mapping[UUID, int], me: UUID, now: float) -> list[UUID]:
        """Owners whose beat has not moved for a lease. `beats`: those of all owners; `me`: the observer."""
        own = beats.get(me, 0)
        if (mine := self._seen.get(me)) is not None and now - mine.since > self._longest:
            self.forget()
        before, self._seen = self._seen, {}
        expired = []
        for owner, beat in beats.items():
            seen = before.get(owner)
            self._seen[owner] = seen if seen is not None and seen.beat == beat else _Seen(beat, now, own)
            if seen is self._seen[owner] and now - seen.since > self._lease and own - seen.own >= ENOUGH:
                expired.append(owner)
        return [owner for owner in expired if owner != me]
