"""Identifies one start of the app."""

from __future__ import annotations

from uuid import UUID

import attrs
from attrs import field

from aether_bg._rules.ids import uuid7


@attrs.define(kw_only=True, eq=False)
class Identity:
    """Only the heartbeat changes `owner` and `store_id`, only the stop changes `stopping`."""

    owner: UUID = field(factory=uuid7)
    """New at every start, and after another process has declared this one dead (docs/protocol.md, P1 and P4)."""
    store_id: UUID = field(factory=lambda: UUID(int=0))
    stop_asked: bool = False
    """Set in any thread or signal handler, before `stopping`: a handler may block the loop until the process ends, and
    that is not a crash (docs/protocol.md, S7)."""
    stopping: bool = False
    told: bool = False
    """The store is sure to wake the scheduler, which pulls (docs/protocol.md, P12); as of the last heartbeat."""
    begins_at_once: bool = False
    """The store can insert a job and begin it at once (docs/protocol.md, C9); as of the last heartbeat."""
    company: bool = False
    """Other owners are registered; as of the last heartbeat."""
